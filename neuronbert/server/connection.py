"""One connection of a client: uvicorn's, with the limits that it lacks.

Owns: how long a request's head may be; the clocks that run while there is nothing but the client to wait for, until it
has sent a head or the rest of a body that nobody reads any more, or taken an answer; and that who is refused while
sending hears of it. Knows nothing of what is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_SAID: Final = b'{"error":"The head of the request is too large.","error_type":"Validation"}'
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_SAID), _SAID)
)
_TAKEN: Final = 1 << 16
"""Bytes of a waiting answer that a client takes in the time for that, at least."""


class Connection(HttpToolsProtocol):
    """A connection whose client is not waited for without end, nor listened to.

    Attributes:
        head_size: Bytes that a request's address and headers may have together, or the trailers of its body.
        head_seconds: In which a head must come: from its first byte, or from when the connection is made.
        rest_seconds: In which the rest of a body must come once the request is answered.
        taking_seconds: In which something must be taken of an answer that waits.
    """

    head_size: ClassVar[int] = 1 << 16
    head_seconds: ClassVar[float] = 20.0
    rest_seconds: ClassVar[float] = 20.0
    taking_seconds: ClassVar[float] = 20.0

    _part: Literal["", "head", "body"] = ""
    """Of a request: what is coming in."""
    _size = 0
    """Bytes of the head that the parser has told of."""
    _run = 0
    """Bytes since the last that belonged to a body."""
    _deaf = False
    """What still comes is passed over unread."""
    _ending = False
    """No request is answered any more but those that are under way."""
    _clock: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None
    _left = 0
    _socket: asyncio.Transport
    _running: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client is there."""
        self._socket = transport
        # uvicorn closes in many places, and never waits for what the client is still sending.
        super().connection_made(_Transport(transport, self._end))  # type: ignore[arg-type]
        self._wait(self.head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is there no more."""
        self._ending = True
        self._stop()
        if self._taking:
            self._taking.cancel()
        _leave(self._running)  # uvicorn tells the newest of several requests only
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It sent something."""
        if self._deaf:
            return
        self._run += len(data)
        super().data_received(data)
        if self._run > self.head_size:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._part, self._size = "head", 0
        if self._clock is None and not self._ending:
            self._wait(self.head_seconds, self._give_up)

    def on_url(self, url: bytes) -> None:
        """Its address, or a part of it."""
        self._size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers; what comes after the body is none that anybody goes by."""
        if self._part == "head":
            self._size += len(name) + len(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        if self._size > self.head_size:
            self._refuse_head()
            return
        self._part, self._run = "body", 0
        if not (self._deaf or self._ending):
            self._stop()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Something of its body."""
        self._run = 0
        if not (self._deaf or self._ending):
            super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._part, self._run = "", 0
        if self._ending:
            self._close()
        elif not self._deaf:
            self._stop()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered; its body may still be on its way."""
        super().on_response_complete()
        if self._part == "body" and self.cycle.response_complete and not self._ending:
            self._wait(self.rest_seconds, self._close)

    def send_400_response(self, msg: str) -> None:
        """What it sent is no request."""
        self._pass_over()
        if self._ending:
            return  # it was told something else already
        if not self._under_way or (self._part == "body" and not self.cycle.response_started):
            super().send_400_response(msg)
        elif self._part == "body":
            self._end()

    def shutdown(self) -> None:
        """The server ends."""
        if self._under_way:
            super().shutdown()
        else:
            self._close()

    def pause_writing(self) -> None:
        """More of an answer waits than is good."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It doesn't any more."""
        super().resume_writing()
        if self._taking and not self._socket.is_closing():
            self._taking.cancel()
            self._taking = None

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]  # at first

    def _refuse_head(self) -> None:
        if not (self._under_way or self._ending):
            self._socket.write(_TOO_LARGE)
        self._give_up()

    def _give_up(self) -> None:
        """Hear no more of the client; it gets what it was promised."""
        self._pass_over()
        if self._part == "body" or not self._under_way:
            self._end()

    def _pass_over(self) -> None:
        self._deaf = True
        if self._under_way:
            self.cycle.keep_alive = False

    def _end(self) -> None:
        """Close the connection, once what the client is sending is in: else it would be reset, and lose its answer."""
        if self._ending:
            return
        self._ending = True
        for cycle in (self._running, self.cycle):
            _leave(cycle)
        if self._socket.is_closing() or (self._part != "body" and not self._deaf):
            self._close()
            return
        self.flow.resume_reading()
        if self._socket.can_write_eof():
            self._socket.write_eof()
        self._wait(self.rest_seconds, self._close)
        self._watch()

    def _close(self) -> None:
        self._ending = True
        self._stop()
        self._socket.close()
        self._watch()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop()
        self._clock = self.loop.call_later(seconds, then)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _watch(self) -> None:
        """See after a while that the client takes what waits for it."""
        self._left = self._socket.get_write_buffer_size()
        if self._taking is None and self._left:
            self._taking = self.loop.call_later(self.taking_seconds, self._look)

    def _look(self) -> None:
        self._taking = None
        if self._socket.get_write_buffer_size() > max(0, self._left - _TAKEN):
            self._socket.abort()
        else:
            self._watch()


class _Transport:
    """A transport whose closing is somebody else's business.

    Args:
        transport: What it stands for.
        close: Called in place of its own.
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._closed = False
        self._close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Once."""
        self._closed = True
        self._close()

    def is_closing(self) -> bool:
        """Whether nothing more may be sent."""
        return self._closed or self._transport.is_closing()


def _leave(cycle: Any) -> None:
    """Tell a request that its client has gone, if it isn't answered."""
    if cycle is not None and not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()
