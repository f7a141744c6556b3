"""What glibc's allocator keeps when tensors are let go of.

Owns: two settings of this process's allocator. A program of static shapes asks for the same memory in every call. By
default glibc gives the end of its heap back to the system as soon as twice the largest block that was freed lies there.
So a call may ask for most of its memory anew, page by page, depending on what else the heap holds: that was up to a
seventh of the time of BERT-base with 8 rows of 128 tokens. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_TRIM, _MMAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (malloc.h)."""
_KEPT: Final = 256 << 20
_MAPPED: Final = 32 << 20
"""Larger blocks are mapped and unmapped by themselves: glibc takes no larger value before 2.35."""
_USERS_OWN: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep() -> bool:
    """Keep up to 256 MiB of the heap's end for the next call, in place of giving it back.

    Does nothing with another C library, or where the environment has settings of its own for the allocator.

    Returns:
        Whether it was done.
    """
    set_option = None if os.name == "nt" else getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None or any(name in os.environ for name in _USERS_OWN):
        return False
    # Setting either of them stops glibc from moving both, so both are set.
    return bool(set_option(_MMAP, _MAPPED)) and bool(set_option(_TRIM, _KEPT))
