"""One worker process, as its parent sees it: started, called, ended.

Owns: how a worker is started, and how its end is told. Knows nothing of other workers.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuronbert.errors import first_line
from neuronbert.workers import wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_ROOT: Final = Path(__file__).parents[2]
_STDERR: Final = 2
_GRACE: Final = 2.0
"""Seconds that a worker has to end by itself."""


class WorkerEnded(Exception):  # noqa: N818  it is caught where calls are given out, and never shown
    """The worker is no more, or not to be talked to; the message says how that came."""


class WorkerLate(WorkerEnded):
    """It was ended, as it took too long."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a worker is started.

    Attributes:
        folder: The artifact.
        digest: What its programs must have.
        threads: How many torch may use.
        environment: Beside the parent's; None takes a variable away.
        timeout: Seconds that one call may take; None for as long as it likes.
        start_timeout: Seconds that loading may take.
        niceness: How much nicer it is than its parent.
    """

    folder: Path
    digest: str
    threads: int
    environment: Mapping[str, str | None] = field(default_factory=dict)
    timeout: float | None = None
    start_timeout: float | None = None
    niceness: int = 0


class Worker:
    """A process that runs one call after another.

    Args:
        plan: How to start it. It is not ready yet then.
    """

    def __init__(self, plan: Plan) -> None:
        self._timeout = plan.timeout
        self._hung_up = False
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(plan.start_timeout)
        with theirs:
            number = str(theirs.fileno())
            arguments = [number, str(plan.folder), plan.digest, str(plan.threads), str(plan.niceness)]
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "neuronbert.workers.worker", *arguments],
                    stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                    stdout=_log(),
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C reaches the parent only
                    env=_environment(plan),
                )
            except BaseException:
                self.connection.close()
                raise
        self.pid = self._process.pid

    def wait_ready(self) -> None:
        """Wait until it has loaded the artifact.

        Raises:
            NeuronBertError: it could not.
            WorkerEnded: it ended, or took too long.
        """
        self._receive()
        self.connection.settimeout(self._timeout)

    def run(self, message: Sequence[memoryview]) -> tuple[Tensor, ...]:
        """Run one call, as `ask` packed it.

        Raises:
            NeuronBertError: the call failed; the worker goes on.
            WorkerEnded: the worker doesn't.
        """
        try:
            wire.send(self.connection, message)
        except TimeoutError:
            raise WorkerLate(self._late()) from None
        except OSError as error:
            raise WorkerEnded(self.how_ended()) from error
        return self._receive()

    def _receive(self) -> tuple[Tensor, ...]:
        try:
            head, tensors = wire.receive(self.connection)
        except TimeoutError:
            raise WorkerLate(self._late()) from None
        except (EOFError, OSError) as error:
            raise WorkerEnded(self.how_ended()) from error
        except Exception as error:  # an answer that there is no memory for, or that is none
            problem = f"gave an answer that can't be taken ({first_line(error)})"
            raise WorkerEnded(problem) from error
        if "error" in head:
            raise wire.unpack_error(head)
        return tensors

    def hang_up(self) -> None:
        """Let it end, once it has nothing to do any more. Whoever waits for an answer hears of it."""
        self._hung_up = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """Let it end at once."""
        self._process.kill()

    def end(self, grace: float = 0) -> None:
        """End it and everything that it started; return when it is gone.

        Args:
            grace: Seconds that it may take to end by itself.
        """
        self.hang_up()
        if grace:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self._process.kill()
        self._process.wait()
        with suppress(ProcessLookupError, PermissionError):  # nobody is left in its group
            os.killpg(self.pid, signal.SIGKILL)
        if self._process.stdin:
            self._process.stdin.close()
        self.connection.close()

    def how_ended(self) -> str:
        """How it came that it is no more."""
        if self._hung_up:
            return "was hung up on"
        try:  # the kernel closes its end of the connection a moment before it can be asked how it ended
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        names = {item.value: item.name for item in signal.Signals}
        return f"was ended by {names.get(-code, f'signal {-code}')}"

    def _late(self) -> str:
        self.kill()
        return f"gave no answer in {self.connection.gettimeout():g} s"


def ask(number: int, tensors: Sequence[Tensor]) -> list[memoryview]:
    """A call, packed.

    Args:
        number: Of the program, in the manifest's order.
        tensors: Its inputs, of its static shape.
    """
    return wire.pack({"program": number}, tensors)


def _log() -> int:
    # What libraries print is no data of ours; with stderr closed there is no place for it.
    try:
        os.fstat(_STDERR)
    except OSError:
        return subprocess.DEVNULL
    return _STDERR


def _environment(plan: Plan) -> dict[str, str]:
    path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
    wanted = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(plan.threads), **plan.environment}
    return {name: value for name, value in wanted.items() if value is not None}
