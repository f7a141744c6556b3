"""What every request passes before its route, and its answer after.

Owns: Guard: the API key, that nothing is read while there is no room, the time that a body may take, request ids, the
log line, and that nothing unexpected is told to a client. Knows nothing of routes but for those that are open to
everybody.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from fastapi import HTTPException

from neuronbert.errors import OverloadedError
from neuronbert.server.refusals import Refusal, refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from neuronbert.server.exchange import Site
    from neuronbert.server.settings import Settings

logger = logging.getLogger("neuronbert.server")

OPEN: Final = frozenset(
    {"/health", "/livez", "/readyz", "/ping", "/metrics", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
)
"""What needs no key: what probes and scrapers ask."""
NOTES: Final = "neuronbert.notes"
"""In a request's scope: what the log line is to say of it besides."""
_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LATE: Final = "The request's body did not arrive in time."
_ENDING: Final = "The server is ending."
_NO_KEY: Final = "Send the API key, as in `Authorization: Bearer KEY`."
_DIGITS: Final = 18
"""Of a size; with more it is no smaller, and Python reads no more than 4,300."""
_READING: Final = ("GET", "HEAD")


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        site: What requests share.
    """

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site
        self._under_way = 0
        self._read = 0
        key = site.settings.api_key
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        answer = _Answer(send, _name(headers), closing=self._site)
        begun = monotonic()
        scope[NOTES] = {}
        self._under_way += 1
        body = _Body(receive, self._site.settings, self._takes)
        try:
            if refusal := self._refusal(scope, headers):
                scope[NOTES]["error"] = refusal.message
                await self._site.refuse(scope, refusal)(scope, receive, answer)
            else:
                await self._app(scope, body, answer)
        except asyncio.CancelledError:  # the server ends, and doesn't wait any longer
            if answer.begun:
                raise
            await self._site.refuse(scope, Refusal(503, "Unhealthy", _ENDING))(scope, receive, answer)
        except Exception:
            # What the application's own handler for the unexpected has answered already, in general words.
            logger.exception("failed", extra={"fields": {"request": answer.name}})
        finally:
            self._under_way -= 1
            self._read -= body.size
            self._log(scope, answer, begun)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        """Why a request is refused by its head alone, if it is."""
        if not self._admits(scope, headers):
            return Refusal(401, "Validation", _NO_KEY)
        if scope["method"] == "POST" and self._is_full:
            return refused(OverloadedError(self._site.seconds_behind))
        if (most := self._site.settings.max_body) < told_size(headers.get(b"content-length", b"")):
            return Refusal(413, "Validation", f"The request's body has more than {most} bytes.")
        return None

    def _admits(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        if self._key is None or scope["path"] in OPEN or (scope["path"] == "/" and scope["method"] in _READING):
            return True
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)

    @property
    def _is_full(self) -> bool:
        # Beyond what it can answer, a server has no time to read what it will refuse.
        settings = self._site.settings
        most = settings.requests + settings.limits.rows * len(self._site.models)
        return self._site.full or self._under_way > most

    def _takes(self, size: int) -> None:
        self._read += size
        if self._read > self._site.settings.limits.size * (len(self._site.models) + 1):
            refusal = refused(OverloadedError(self._site.seconds_behind))
            raise HTTPException(refusal.status, refusal.message, {"retry-after": str(refusal.retry_after)})

    def _log(self, scope: Scope, answer: _Answer, begun: float) -> None:
        if scope["path"] in OPEN:
            return  # probes and scrapers would fill the log
        fields: dict[str, Any] = {
            "request": answer.name,
            "client": scope["client"][0] if scope["client"] else None,
            "method": scope["method"],
            "path": scope["path"],
            "status": answer.status,
            "ms": round(1000 * (monotonic() - begun), 1),
            **scope[NOTES],
        }
        logger.info("request", extra={"fields": fields})


class _Body:
    """The receiving side: what a client sends must come in time, and find room.

    Args:
        receive: The server's.
        settings: The times.
        takes: Called with the bytes of each part; it raises where they are too many.

    Attributes:
        size: Bytes that came.
    """

    def __init__(self, receive: Receive, settings: Settings, takes: Callable[[int], None]) -> None:
        self._receive = receive
        self._takes = takes
        self._pause, self._end = settings.body_timeout, monotonic() + settings.whole_body_timeout
        self._more = True
        self.size = 0

    async def __call__(self) -> Message:
        """What comes next."""
        if not self._more:  # there is only the client's leaving to wait for
            return await self._receive()
        try:
            async with asyncio.timeout(min(self._pause, self._end - monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, _LATE) from None
        self._more = bool(message.get("more_body"))
        size = len(message.get("body", b""))
        self.size += size
        self._takes(size)
        return message


class _Answer:
    """The sending side: what is sent gets the request's name, and its status is remembered.

    Attributes:
        name: The request's.
        status: What was sent; 499 if nothing was.
        begun: Whether anything was.
    """

    def __init__(self, send: Send, name: bytes, *, closing: Site) -> None:
        self._send = send
        self._site = closing
        self.name = name.decode()
        self.status = 499
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.begun = message["status"], True
            message["headers"] = [*message["headers"], (b"x-request-id", self.name.encode())]
            if self._site.ending:  # the next request of this client is to find another server
                message["headers"].append((b"connection", b"close"))
        await self._send(message)


def told_size(told: bytes) -> int:
    """The bytes of a body as its Content-Length tells them; 0 if that is no number."""
    digits = told.lstrip(b"0")[:_DIGITS]
    return int(digits) if digits.isdigit() else 0


def _name(headers: dict[bytes, bytes]) -> bytes:
    given = headers.get(b"x-request-id", b"")
    return given if _ID.fullmatch(given) else uuid4().hex.encode()
