"""One worker in a process of its own: started, watched, ended with everything that it has started.

Owns: how a worker is started and how its end is told. Knows nothing of cells.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuronbert.matrix import memory

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG: Final = "log.txt"
_ROOT: Final = Path(__file__).parents[2]
_SHOWN: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; of one that was killed, the signal's number, negative.
        seconds: How long it ran.
        peak_bytes: The most memory that it, or any one process that it started and waited for, held; 0 if that was
            less than the parent had held, which Linux counts in, so that it can't be told.
        late: Whether it was killed because its time was up.
    """

    code: int
    seconds: float
    peak_bytes: int
    late: bool = False

    def problem(self, log: str) -> str:
        """Why it left no outcome, in one line."""
        if self.late:
            return f"it was ended after {self.seconds:.0f} s (--timeout)"
        if self.code == -signal.SIGKILL:
            return "its process was killed (SIGKILL), as is done where memory runs out: see --max-memory and --jobs"
        if self.code < 0:
            names = {item.value: item.name for item in signal.Signals}
            return f"its process was ended by {names.get(-self.code, f'signal {-self.code}')}{_last(log)}"
        return f"its process ended with exit code {self.code}{_last(log)}"


def _last(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return ": " + "".join(char if char.isprintable() else " " for char in lines[-1][:500]) if lines else ""


class Process:
    """A Python module run in a session of its own, so that Ctrl-C reaches the parent only, which then ends it."""

    def __init__(self, module: str, arguments: Sequence[str], folder: Path, threads: int) -> None:
        """Start it.

        Args:
            module: Run with `python -m`. It must end when its stdin does: so it never outlives the parent.
            arguments: Of the module.
            folder: Where it leaves its log, and whatever it makes that is temporary.
            threads: How many it computes with, unless the environment says.
        """
        self._folder = folder
        self._late = False
        self._parent_held = memory.held()
        path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
        places = {"PYTHONPATH": path, "TMPDIR": str(folder)}
        with (folder / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"OMP_NUM_THREADS": str(threads), **os.environ, **places},
            )
        self._started = time.monotonic()

    def wait(self, timeout: float | None = None) -> Ended:
        """Wait for its end; if that takes longer than `timeout` seconds, end it."""
        timer = threading.Timer(timeout, self._end_late) if timeout else None
        if timer:
            timer.start()
        try:
            # Popen's own wait doesn't tell how much memory was used.
            _, status, usage = os.wait4(self._process.pid, 0)
        finally:
            if timer:
                timer.cancel()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._end_group()  # what it started and left behind
        if self._process.stdin:
            self._process.stdin.close()
        seconds = time.monotonic() - self._started
        peak = usage.ru_maxrss * 1024
        return Ended(self._process.returncode, seconds, peak if peak > self._parent_held else 0, self._late)

    def log(self) -> str:
        """The end of what it printed."""
        with (self._folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _SHOWN))
            return file.read().decode(errors="replace")

    def kill(self) -> None:
        """End it and everything that it started, at once. Whoever waits for it hears of it."""
        if self._process.returncode is None:
            self._end_group()

    def _end_late(self) -> None:
        self._late = True
        self.kill()

    def _end_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left in it
