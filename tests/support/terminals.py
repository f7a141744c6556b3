"""A command line with a terminal for its errors and its progress."""

from __future__ import annotations

import os
import pty
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Shown(NamedTuple):
    """What a command line came to, and what stood on its terminal."""

    code: int
    out: str
    terminal: str


def on_a_terminal(*command: str | Path, **environment: str) -> Shown:
    """Run a command whose stderr is a terminal, from the project's root.

    The terminal is read while the command runs: a full one blocks whoever writes to it.
    """
    leader, follower = pty.openpty()
    given: Sequence[str] = [str(word) for word in command]
    environ = {**os.environ, "TERM": "xterm", **environment}
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(given, cwd=ROOT, stdout=out, stderr=follower, env=environ)
        os.close(follower)
        shown = b""
        try:
            while block := os.read(leader, 65536):
                shown += block
        except OSError:  # the terminal is gone once its last writer is, and all of it is read
            pass
        os.close(leader)
        code = process.wait()
        out.seek(0)
        return Shown(code, out.read().decode(), shown.decode())
