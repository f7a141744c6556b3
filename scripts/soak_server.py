"""`neuronbert serve` as a process under load: started, watched, robbed of its workers and told to end.

Owns: what is known of its processes from outside. Knows nothing of requests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPLACED: Final = "was ended by SIGKILL; another takes its place"
_LONGEST_END: Final = 30.0


class Server:
    """A server on a free port; use it in a `with`.

    Args:
        artifact: What it serves.
        log: Where its log goes.
        options: More of its command line.
    """

    def __init__(self, artifact: Path, log: Path, options: Sequence[str] = ()) -> None:
        self._log = log
        self._writing: IO[bytes] = log.open("wb")
        neuronbert = Path(sys.executable).with_name("neuronbert")
        command = [neuronbert, "serve", artifact, "--port", "0", *options]
        self._process = subprocess.Popen(command, stderr=self._writing)
        self.port = 0

    def __enter__(self) -> Self:
        """The server, once it is ready."""
        while not self.port:
            if self._process.poll() is not None:
                sys.exit(f"the server has ended: {self._log.read_text()}")
            ready = re.search(r'"event": "ready", "url": "[^"]*:(\d+)"', self._log.read_text())
            self.port = int(ready[1]) if ready else 0
            time.sleep(0.1)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._writing.close()

    @property
    def workers(self) -> list[int]:
        """The processes that run programs."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return [child for child in children if b"neuronbert.workers" in Path(f"/proc/{child}/cmdline").read_bytes()]

    @property
    def memory(self) -> int:
        """Bytes that all its processes hold together: the one that answers and its workers.

        What they share is shared out among them (PSS), so that nothing counts twice.
        """
        return sum(_held(pid) for pid in _tree(self._process.pid))

    def kill_worker(self) -> bool:
        """Kill one, if there is one at the moment."""
        found = self.workers
        if found:
            os.kill(found[0], signal.SIGKILL)
        return bool(found)

    def tell_to_end(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(_LONGEST_END)

    def failures(self) -> list[str]:
        """What it logged that nobody expected: not that those were replaced which were killed."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) if line.startswith("{") else {"level": "error", "event": line} for line in lines]
        told = [event for event in events if event["level"] in ("error", "warning", "critical")]
        return [str(event) for event in told if not event["event"].endswith(_REPLACED)]


def _tree(pid: int) -> list[int]:
    """A process and all below it; those that end meanwhile are left out."""
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(found for child in children for found in _tree(child))]


def _held(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    (held,) = re.findall(r"^Pss:\s+(\d+) kB", rollup, flags=re.MULTILINE) or ["0"]
    return int(held) * 1024
