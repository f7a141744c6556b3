"""Room on the disk for a file that a library writes.

Owns: asking for it beforehand. Knows nothing of what is written.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OVERHEAD: Final = 4 << 20
"""Bytes of a program file beside its weights, generously."""


@contextmanager
def reserve(path: Path, weights: int) -> Iterator[None]:
    """Around the writing of a program file: torch's writers abort the whole process when the disk is full.

    Args:
        path: The file.
        weights: Bytes of the weights in it.

    Raises:
        OSError: there is no room.
    """
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, weights + _OVERHEAD)
    yield
