"""A safetensors file, tensor by tensor.

Owns: the file's layout (eight bytes of length, a JSON header, the tensors' bytes in order). safetensors' own writer
takes all tensors at once, which for weights that are put together on the way is a second copy of the model.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    Entry = tuple[str, torch.dtype, tuple[int, ...]]

_NAMES: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT: Final = 8
_BLOCK: Final = 16 << 20


def size_of(entries: Iterable[Entry]) -> int:
    """The bytes that the tensors take."""
    return sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in entries)


def write(
    path: Path, entries: Sequence[Entry], tensors: Iterable[Tensor], progress: Callable[[int, int], None]
) -> None:
    """Write a file.

    Args:
        path: Where to.
        entries: Name, dtype and shape of each tensor.
        tensors: Each tensor, in the same order; one at a time is held.
        progress: Told how many bytes of how many are written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in entries:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    done = 0
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
            while len(data):
                written = file.write(data[:_BLOCK])
                data, done = data[written:], done + written
                progress(done, end)
