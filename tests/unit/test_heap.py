"""What the allocator keeps, in processes of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

CALLS = 8
CODE = f"""
import ctypes
import resource
from neuronbert.backends import heap

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
# What glibc moves by itself depends on what was freed before: begin with its smallest.
libc.mallopt(-3, 32 << 20), libc.mallopt(-1, 128 << 10)
{{kept}}

def call():
    blocks = [libc.malloc(1 << 20) for _ in range(100)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 20)
    for block in reversed(blocks):
        libc.free(block)

call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({CALLS}):
    call()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // {CALLS})
"""

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt"
)


def run(kept: str, **environment: str) -> int:
    """Pages that were asked for anew in each call that fills 100 MiB."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CODE.format(kept=kept)]
    done = subprocess.run(command, env=plain | environment, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def test_memory_that_was_kept_is_not_asked_for_again() -> None:
    assert run("assert heap.keep()") < 100
    assert run("") > 1000


def test_settings_of_the_users_own_are_left_alone() -> None:
    assert run("assert not heap.keep()", MALLOC_TRIM_THRESHOLD_="1000000") > 1000
