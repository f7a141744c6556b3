"""Tensors as bytes: the binary extension of the Open Inference Protocol.

Owns: how JSON and raw tensors share a body. Knows nothing of models. Source: Triton's
protocol/extension_binary_data.md.
"""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from fastapi import HTTPException, Request
from fastapi.routing import APIRoute

from neuronbert.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from fastapi import Response

HEADER: Final = "inference-header-content-length"
"""How many bytes of a body are JSON; what follows are tensors, in the order of those that have none in it."""
_SPACE: Final = "neuronbert.tensors"
_NO_LENGTH: Final = "`Inference-Header-Content-Length` is not the length of the JSON."
_LENGTH: Final = struct.Struct("<I")


class Mixed(Request):
    """A request whose body is JSON and then tensors; to everybody else it seems to be JSON."""

    async def body(self) -> bytes:
        """The JSON.

        Raises:
            HTTPException: there isn't as much of it as the header says.
        """
        if _SPACE not in self.scope:
            whole = await super().body()
            given = self.headers[HEADER]
            size = int(given) if given.isdecimal() and len(given) <= len(str(len(whole))) else -1
            if not 0 <= size <= len(whole):
                raise HTTPException(400, _NO_LENGTH)  # FastAPI hides what else is raised while it reads a body
            self._body = whole[:size]
            self.scope[_SPACE] = whole[size:]
        return self._body


class MixedRoute(APIRoute):
    """A route that takes tensors as bytes, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if HEADER not in request.headers:
                return await answer(request)
            kept = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*kept, (b"content-type", b"application/json")]}
            return await answer(Mixed(scope, request.receive))

        return handle


def split(request: Request, sizes: Sequence[int]) -> list[bytes]:
    """The bytes of each tensor that isn't in the JSON.

    Args:
        request: As the route got it.
        sizes: How many bytes each has.

    Raises:
        Refusal: the body holds more or fewer.
    """
    rest = request.scope.get(_SPACE, b"")
    if sum(sizes) != len(rest):
        raise Refusal(400, "Validation", f"The tensors have {sum(sizes)} bytes, and after the JSON are {len(rest)}.")
    ends = list(accumulate(sizes, initial=0))
    return [rest[begin:end] for begin, end in pairwise(ends)]


def read(datatype: str, content: bytes) -> list[Any]:
    """The values of a tensor.

    Args:
        datatype: BYTES or INT64.
        content: Of BYTES each with its length before it; of INT64 as they lie in memory, the lowest byte first.

    Raises:
        Refusal: it isn't that.
    """
    if datatype == "INT64":
        if len(content) % 8:
            raise Refusal(400, "Validation", "A tensor of INT64 has 8 bytes for each value.")
        values: list[Any] = np.frombuffer(content, "<i8").tolist()
        return values
    texts, place = [], 0
    while place < len(content):
        start = place + _LENGTH.size
        if start > len(content):
            raise Refusal(400, "Validation", "A tensor of BYTES ends within a length.")
        place = start + _LENGTH.unpack_from(content, place)[0]
        if place > len(content):
            raise Refusal(400, "Validation", "A tensor of BYTES ends within a text.")
        texts.append(_decoded(content[start:place]))
    return texts


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refusal(400, "Validation", "A text is not UTF-8.") from None


def write(values: Iterable[str] | np.ndarray) -> bytes:
    """A tensor's bytes: of texts, or of float32."""
    if isinstance(values, np.ndarray):
        return values.astype("<f4").tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
