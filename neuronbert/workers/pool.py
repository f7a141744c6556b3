"""Replicas of an artifact in processes of their own, called like one.

Owns: Pool: what a Session does but for the programs, which are run elsewhere. Knows nothing of how calls are given out.
"""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Final, Self

from neuronbert.artifact import Artifact
from neuronbert.backends import registry
from neuronbert.backends.base import ANYWHERE, Availability
from neuronbert.errors import InvalidOptionError
from neuronbert.runtime import Session
from neuronbert.workers import placing, process
from neuronbert.workers.crew import Crew

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from neuronbert.backends.base import Placement, Program
    from neuronbert.manifest import Manifest
    from neuronbert.plan import Step
    from neuronbert.runtime import Found, Given
    from neuronbert.shapes import StaticShape
    from neuronbert.workers.crew import Health


_AHEAD: Final = 2
"""Calls at a time for each worker: one that runs, and one that waits so that the worker need not."""
_START: Final = 120.0
"""Seconds that a worker has to load the artifact where a call has a limit, or as many as a call if that is more."""
_LONGEST_TIMEOUT: Final = 1e6
"""A socket waits for 24 days at most."""


class Pool(Session):
    """An artifact loaded by each of several processes, and called like a Session; calls from several threads are safe.

    On Neuron each process has a NeuronCore, on the CPU a share of the threads that torch would use here. A call goes to
    whichever is free. A process that ends is started again, and its call given to another; a call that two of them
    didn't survive is an error. Close the pool, or use it in a `with`; it closes when it is forgotten, too.

    Args:
        artifact: A verified artifact.
        workers: How many.
        placement: Which NeuronCore the first one gets; those that follow go to the others.
        starting: Called with the pool before workers are started: whoever has it may close it while they load.
        timeout: Seconds that a call may take in a worker; one that takes longer is ended. With it, loading may take two
            minutes, or as long as a call if that is more; but as long as it likes where it compiles (TorchNeuron). None
            for as long as they like.
        niceness: How much nicer they are than this process, from 0 to 19.

    Raises:
        InvalidOptionError: timeout is no time to wait.
        NeuronBertError: a worker didn't start; what `Session.open` raises is raised here, too.

    Example:
        >>> with Pool.open("my-artifact/", workers=2) as pool:  # doctest: +SKIP
        ...     outputs = pool.run(inputs)
    """

    def __init__(
        self,
        artifact: Artifact,
        workers: int,
        *,
        placement: Placement = ANYWHERE,
        timeout: float | None = None,
        starting: Callable[[Pool], None] | None = None,
        niceness: int = 0,
    ) -> None:
        if timeout is not None and not (type(timeout) in (int, float) and 0 < timeout <= _LONGEST_TIMEOUT):
            expected = f"more than 0 seconds and at most {_LONGEST_TIMEOUT:.0f}, or left out"
            raise InvalidOptionError("timeout", timeout, expected)
        manifest = artifact.manifest
        registry.runtime(
            manifest.backend, manifest.target
        )  # whether it can run here is told before anything is started
        shares = placing.share(manifest.target, workers, placement)
        compiling = manifest.backend == "torchneuron"  # it does when it loads, and keeps what comes of it
        start = None if timeout is None or compiling else max(timeout, _START)
        plans = [
            process.Plan(
                artifact.path, manifest.programs_sha256, share.threads, share.environment, timeout, start, niceness
            )
            for share in shares
        ]
        self._crew = Crew(lambda number: process.Worker(plans[number]), workers, one_first=compiling)
        self._close = weakref.finalize(self, self._crew.close)  # at the latest when the interpreter ends
        if starting:
            starting(self)
        super().__init__(artifact, _Elsewhere(self._crew))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        placement: Placement = ANYWHERE,
        workers: int = 1,
        timeout: float | None = None,
    ) -> Self:
        """Verify the artifact in a directory, and load it in each worker.

        Args:
            path: The directory. It must stay: workers that are started later load it, too.
            placement: Which NeuronCore the first one gets; those that follow go to the others.
            workers: How many.
            timeout: Seconds that a call may take in a worker.

        Raises:
            ArtifactError: it isn't one, or not what was written.
            BackendUnavailableError: its target can't run here.
            WorkerError: a worker didn't start.
        """
        return cls(Artifact.open(Path(path).absolute()), workers, placement=placement, timeout=timeout)

    def spread(self, function: Callable[[Given], Found], items: Iterable[Given]) -> Iterator[Found]:
        """Call a function that calls `run`, once for each item; the results in the order of the items.

        Items are taken as workers need them: never are there more than two to a worker whose results were not taken.

        Raises:
            Exception: whatever the function raises, in its place; the calls that come after it are dropped.
        """
        most = _AHEAD * len(self.health())
        asked: SimpleQueue[tuple[Future[Found], Given] | None] = SimpleQueue()
        waiting: deque[Future[Found]] = deque()
        threads: list[Thread] = []
        try:
            for item in items:
                if len(threads) < most:
                    threads.append(_thread(function, asked))
                waiting.append(Future())
                asked.put((waiting[-1], item))
                if len(waiting) == most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for answer in waiting:
                answer.cancel()
            for _ in threads:
                asked.put(None)

    @staticmethod
    def _merged(steps: Iterable[Step]) -> list[Step]:
        return list(steps)  # one call would go to one worker

    def health(self) -> tuple[Health, ...]:
        """How every worker is, now."""
        return self._crew.health()

    def close(self) -> None:
        """End all workers. Calls that still run get a PoolClosedError."""
        self._close()


def _thread(function: Callable[[Given], Found], asked: SimpleQueue[tuple[Future[Found], Given] | None]) -> Thread:
    # A daemon: the interpreter waits for all others, those of an executor too, before it lets the pool close. It would
    # wait for ever if a worker hangs.
    thread = Thread(target=_answer, args=[function, asked], daemon=True, name="neuronbert-call")
    thread.start()
    return thread


def _answer(function: Callable[[Given], Found], asked: SimpleQueue[tuple[Future[Found], Given] | None]) -> None:
    while (pair := asked.get()) is not None:
        answer, item = pair
        if not answer.set_running_or_notify_cancel():
            continue
        try:
            answer.set_result(function(item))
        except BaseException as error:  # noqa: BLE001  it is raised where the result is taken
            answer.set_exception(error)
        del pair, answer, item  # they are not held until the next one comes


def load(path: str | os.PathLike[str], *, placement: Placement = ANYWHERE, workers: int | None = None) -> Session:
    """An artifact loaded in this process, or in as many others as are asked for."""
    if workers is None:
        return Session.open(path, placement=placement)
    return Pool.open(path, placement=placement, workers=workers)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """What a Session loads its programs with: they are in the workers, and stand-ins are here."""

    crew: Crew

    def availability(self, target: str) -> Availability:  # noqa: ARG002  the port's
        return Availability(ok=True)

    def load(self, folder: Path, manifest: Manifest, placement: Placement) -> Mapping[StaticShape, Program]:  # noqa: ARG002
        self.crew.open()
        return {shape: _Remote(self.crew, number, shape.name) for number, shape in enumerate(manifest.shapes)}

    def replace_weights(self, programs: Mapping[StaticShape, Program], weights: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        raise InvalidOptionError("workers", len(self.crew.health()), "left out where weights are to be replaced")


@dataclass(frozen=True, slots=True)
class _Remote:
    """One program; calls of it are queued."""

    crew: Crew
    number: int
    name: str

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.crew.submit(self.name, process.ask(self.number, inputs)).result()
