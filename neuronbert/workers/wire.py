"""What crosses between a pool and its workers: a line of JSON, then the numbers of tensors as they lie in memory.

Nothing is pickled, so whatever comes back is data. Both ends are processes of one machine and one user.

Owns: the form of a message, and errors as data. Knows nothing of who sends what when.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert import errors
from neuronbert.errors import NeuronBertError, WorkerFailedError, first_line

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from torch import Tensor

_LENGTH: Final = struct.Struct("<q")
_DTYPES: Final = {"int64": torch.int64, "float32": torch.float32}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}


def pack(head: dict[str, Any], tensors: Sequence[Tensor] = ()) -> list[memoryview]:
    """A message, as it is sent.

    Args:
        head: Whatever JSON can hold.
        tensors: int64 or float32, in the CPU's memory.
    """
    whole = [tensor.contiguous() for tensor in tensors]
    parts = [[_NAMES[tensor.dtype], list(tensor.shape)] for tensor in whole]
    text = json.dumps({**head, "tensors": parts}).encode()
    return [memoryview(_LENGTH.pack(len(text)) + text), *map(_bytes, whole)]


def send(connection: socket.socket, message: Iterable[memoryview]) -> None:
    """Send a message.

    Raises:
        OSError: the other end is gone.
    """
    for part in message:
        connection.sendall(part)


def receive(connection: socket.socket) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    """Wait for a message.

    Raises:
        EOFError: the other end was closed.
        OSError: the connection broke; TimeoutError if its time was up.
    """
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    head: dict[str, Any] = json.loads(_read(connection, length))
    tensors = []
    for name, dims in head.pop("tensors"):
        tensor = torch.empty(dims, dtype=_DTYPES[name])
        _fill(connection, _bytes(tensor))
        tensors.append(tensor)
    return head, tuple(tensors)


def pack_error(error: Exception) -> dict[str, Any]:
    """An error as data."""
    known = error if isinstance(error, NeuronBertError) else WorkerFailedError(type(error).__name__, first_line(error))
    said = {name: value for name, value in vars(known).items() if isinstance(value, str)}
    return {"error": type(known).__name__, "message": str(known), "said": said}


def unpack_error(head: dict[str, Any]) -> NeuronBertError:
    """The error that was packed: of its own class, with its own words."""
    kind = getattr(errors, head["error"])
    error: NeuronBertError = kind.__new__(kind, head["message"])  # its words are made already
    vars(error).update(head["said"])
    return error


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().numpy().data.cast("B")


def _read(connection: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    _fill(connection, memoryview(content))
    return content


def _fill(connection: socket.socket, view: memoryview) -> None:
    while view.nbytes:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
