"""What the scripts under load count as borne."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import soak_server
from soak_overload import Figures


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"accepted": 1.0}, False),
        ({"accepted": 49.0}, False),
        ({"refused": 0}, False),
        ({"p99s": (1.0, 2.1)}, False),
        ({"memory": [100, 106, 100]}, False),
    ],
)
def test_an_overload_is_borne_by_who_answers_most_and_refuses_the_rest(changes: dict[str, Any], kept: bool) -> None:
    borne = Figures(rate=100.0, accepted=51.0, refused=1, p99s=(1.0, 1.9), memory=[100, 104, 101])
    assert replace(borne, **changes).kept is kept


def test_memory_is_that_of_all_processes() -> None:
    child = "held = b'x' * (64 << 20); print(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        server = soak_server.Server.__new__(soak_server.Server)
        server._process = process
        assert server.memory > 64 << 20
        process.communicate(b"\n")
