"""The peers, each in a process of its own with their environment's Python, which sleeps while it isn't asked.

Owns: that process, and asking it. What a peer does when it is asked is in bench_peer.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType

    from bench_tools import Candidate, Models

_SCRIPT: Final = Path(__file__).with_name("bench_peer.py")
_GRACE: Final = 30.0
"""Seconds that a process gets to end by itself."""


class Peer:
    """One peer with a checkpoint loaded; use it in a `with`.

    Args:
        models: Where the peers' Python is, and how many threads everyone gets.
        kind: One of bench_peer.py's kinds.
        checkpoint: A checkpoint's folder.
    """

    def __init__(self, models: Models, kind: str, checkpoint: Path) -> None:
        command = [models.peers, _SCRIPT, kind, checkpoint, str(models.threads)]
        self._kind = kind
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        """The peer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def load(self, case: str, inputs: Path) -> np.ndarray:
        """Prepare a case: what the peer answers to these inputs."""
        answers: np.ndarray = np.load(self._ask({"load": case, "inputs": str(inputs)})["outputs"])
        return answers

    def candidate(self, case: str) -> Candidate:
        """A case that was loaded, to be timed in turn with others."""
        return lambda seconds: self._ask({"time": case, "seconds": seconds})["seconds"]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"bench.py: {self._kind} has ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def differ(what: str, found: np.ndarray, expected: np.ndarray, limit: float) -> None:
    """End the run if a peer answers something else: then it isn't the same work that is compared."""
    largest = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not largest <= limit:
        sys.exit(f"bench.py: {what} differs by {largest:g}, more than {limit:g}: nothing to compare")
