"""One connection of a client: uvicorn's, with the limits that it lacks.

Owns: how long a request's head may be, and the clock that runs while there is nothing but the client to wait for: until
a head is whole, and until the rest of a body is in that nobody reads any more. Knows nothing of what is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

_SAID: Final = b'{"error":"The head of the request is too large.","error_type":"Validation"}'
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_SAID), _SAID)
)


class Connection(HttpToolsProtocol):
    """A connection whose client is not waited for without end, nor listened to.

    Attributes:
        head_size: Bytes that a request's head may have. What comes at once with its end isn't counted.
        head_seconds: In which a head must come: from its first byte, or from when the connection is made.
        rest_seconds: In which the rest of a body must come once the request is answered.
    """

    head_size: ClassVar[int] = 1 << 16
    head_seconds: ClassVar[float] = 20.0
    rest_seconds: ClassVar[float] = 20.0

    _clock: asyncio.TimerHandle | None = None
    _head = 0
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client is there."""
        super().connection_made(transport)
        self._wait(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is there no more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It sent something."""
        self._head += 0 if self._in_body else len(data)
        super().data_received(data)
        if self._head > self.head_size:
            if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
                self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._head and self._clock is None:
            self._wait(self.head_seconds)

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._stop()
        self._head, self._in_body = 0, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """So is the body."""
        self._stop()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request is answered; its body may still be on its way."""
        super().on_response_complete()
        if self._in_body:
            self._wait(self.rest_seconds)

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._clock = self.loop.call_later(seconds, self.transport.close)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
