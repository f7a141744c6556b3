"""A client over plain sockets, for more requests in a second than any library sends, and for requests that none would.

Owns: one connection, and what HTTP says of an answer. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

PATIENCE: Final = 600.0
"""Seconds until an answer counts as lost."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: Of HTTP.
        headers: By their names in lower case.
        body: As it came.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class LostError(Exception):
    """A request got no answer, or another request's.

    Args:
        path: What was asked.
        cause: Why there is no answer, or what came in its place.
    """

    def __init__(self, path: str, cause: Exception | Answer) -> None:
        other = f"another answer, or two: {cause.status} {cause.body[:80]!r}" if isinstance(cause, Answer) else ""
        super().__init__(f"{path}: {other or repr(cause)}")


class Connection:
    """One connection, opened again when the server has closed it; one request at a time.

    Args:
        port: Of the server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Answer:
        """Send a request, and wait for its answer.

        Raises:
            LostError: there is none, or it isn't this request's.
            OSError: nobody listens.
        """
        reader, _ = await self.send(method, path, body, kind)
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._read(reader)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise LostError(path, error) from error
        if answer.headers.get("x-request-id") != self._name or reader._buffer:  # type: ignore[attr-defined]
            self.close()
            raise LostError(path, answer)
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def send(
        self, method: str, path: str, body: bytes, kind: str = "application/json", *, length: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request and wait for nothing.

        Args:
            method: Of HTTP.
            path: The route.
            body: Of the request.
            kind: Its content type.
            length: What is said to be its length, where that isn't so.
        """
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        self._name = uuid4().hex
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nX-Request-Id: {self._name}\r\n"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
        )
        self._streams[1].write(head.encode() + body)
        return self._streams

    def close(self) -> None:
        """Hang up, whatever is under way."""
        if self._streams:
            self._streams[1].transport.abort()
            self._streams = None

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Answer:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body)
