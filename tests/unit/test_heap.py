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
import torch
from neuronbert.backends import heap

# What glibc moves by itself, and how far, depends on what was freed before: begin with its smallest.
ctypes.CDLL(None).mallopt(-3, 32 << 20), ctypes.CDLL(None).mallopt(-1, 128 << 10)
{{kept}}

def call():
    blocks = [torch.ones(200_000) for _ in range(200)]

for _ in range({CALLS}):
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
    """Pages that were asked for anew in each call that fills 153 MiB."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CODE.format(kept=kept)]
    done = subprocess.run(command, env=plain | environment, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def test_memory_that_was_kept_is_not_asked_for_again() -> None:
    assert run("assert heap.keep()") < 100
    assert run("") > 1000


def test_settings_of_the_users_own_are_left_alone() -> None:
    assert run("assert not heap.keep()", MALLOC_TRIM_THRESHOLD_="1000000") > 1000
