"""One run of a matrix: what is known of every cell, and what is still to be done.

Owns: what is asked of the machine, and which cell is skipped, kept from an earlier run, or run now. Knows nothing of
torch: that is the workers' business.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuronbert.backends import registry
from neuronbert.matrix import memory, pool
from neuronbert.matrix.messages import ANSWER, JOB, Job, Outcome, Probe
from neuronbert.matrix.process import Process
from neuronbert.matrix.results import Result
from neuronbert.matrix.sources import Sources
from neuronbert.matrix.store import Store, environment, key

if TYPE_CHECKING:
    from neuronbert.matrix.process import Ended
    from neuronbert.matrix.schema import Cell
    from neuronbert.matrix.settings import Listener, Settings
    from neuronbert.matrix.sources import Source

_WORKER: Final = "neuronbert.matrix.worker"
_DEVICE: Final = "device"


class Session:
    """One run: what is known of every cell, and what is still to be done."""

    def __init__(self, place: Store, settings: Settings, listener: Listener, cells: tuple[Cell, ...]) -> None:
        self.store = place
        self.settings = settings
        self.limits = settings.limits
        self.listener = listener
        self.ledger = memory.Ledger()
        self.threads = max(1, len(os.sched_getaffinity(0)) // self.limits.jobs)
        self._cells = cells
        self._results: dict[str, Result] = {}
        self._running: dict[str, None] = {}

    def results(self) -> tuple[Result, ...]:
        """Run what has to be run; a result for each cell, in their order."""
        probes = self._probe()
        sources = Sources(self.settings.token, self.listener.progress)
        here = environment()
        works: list[pool.Work] = []
        for cell in self._cells:
            probe = probes[cell.target]
            source = None if probe.problem or probe.compiler else sources.find(cell)
            problem = probe.problem or (source.problem if source else "")
            if source is None or problem:
                self.take(_unmade(cell, problem, probe.compiler))
                continue
            work = _CellWork(self, cell, probe, source, key(cell, source.digest, here))
            if not work.settle():
                works.append(work)
        pool.run(works, self.limits)
        return tuple(self._results[cell.id] for cell in self._cells)

    def begin(self, cell: Cell) -> None:
        """Take note of a cell that runs now."""
        self._running[cell.id] = None
        self._tell()

    def take(self, result: Result) -> None:
        """Take up the result of a cell."""
        self._results[result.cell.id] = result
        self._running.pop(result.cell.id, None)
        self.listener.finished(result, len(self._results), len(self._cells))
        self._tell()

    def _tell(self) -> None:
        running = ", ".join(self._running)
        self.listener.progress(f"{len(self._results)} of {len(self._cells)} cells{running and f'; {running}'}")

    def _probe(self) -> dict[str, Probe]:
        """What can be done here for each target; where a backend has to be asked, in a process of its own."""
        probes: dict[str, Probe] = {}
        works: list[pool.Work] = []
        for target in dict.fromkeys(cell.target for cell in self._cells):
            if registry.resolve_target(target)[1] == "cpu":
                probes[target] = Probe()  # it is always there
            else:
                works.append(_ProbeWork(self, target, probes))
        if works:
            self.listener.progress("asking what this machine can compile for")
            pool.run(works, self.limits)
        return probes


def _unmade(cell: Cell, problem: str, reason: str) -> Result:
    """The result of a cell that isn't tried: failed if there is a problem, else skipped."""
    outcome = Outcome(status="failed" if problem else "skipped", stage="checkpoint", reason=problem or reason)
    return Result(cell=cell, outcome=outcome, finished=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _CellWork:
    """A cell that has to be run, or for which an earlier result may do."""

    def __init__(self, session: Session, cell: Cell, probe: Probe, source: Source, key: str) -> None:
        self._session = session
        self._cell = cell
        self._probe = probe
        self._source = source
        self._key = key
        self._estimate = memory.estimate(cell, source.config, source.weights)
        self._scratch = Path()

    def settle(self) -> bool:
        """Take up the result of an earlier run, if it still counts."""
        result = self._session.store.find(self._cell)
        if result is None:
            return False
        if result.peak_bytes:
            self._session.ledger.learn(self._cell, self._estimate, result.peak_bytes)
        final = result.status == "passed" or (result.status == "compiled" and bool(self._probe.runtime))
        if self._session.settings.fresh or result.key != self._key or not final:
            return False
        self._session.take(result.model_copy(update={"kept": True}))
        return True

    def need(self) -> int:
        return self._session.ledger.need(self._cell, self._estimate)

    def holds(self) -> str:
        # A process takes every NeuronCore it sees as soon as it uses one, and no other process gets them meanwhile.
        return "" if self._cell.target == "cpu" or self._probe.runtime else _DEVICE

    def start(self) -> Process:
        folder = self._source.folder
        job = Job(cell=self._cell, checkpoint=None if folder is None else str(folder.absolute()))
        process, self._scratch = _start(self._session, job)
        self._session.begin(self._cell)
        return process

    def finish(self, process: Process, ended: Ended) -> None:
        log = process.log()
        try:
            outcome = self._judge(Outcome.model_validate_json((self._scratch / ANSWER).read_bytes()))
        except (OSError, ValueError):
            outcome = Outcome(status="failed", stage="process", reason=ended.problem(log))
        if ended.peak_bytes:
            self._session.ledger.learn(self._cell, self._estimate, ended.peak_bytes)
        result = Result(
            cell=self._cell,
            outcome=outcome,
            key=self._key,
            seconds=round(ended.seconds, 3),
            peak_bytes=ended.peak_bytes,
            finished=_now(),
        )
        self._session.store.discard(self._scratch)
        self._session.store.keep(result, log)
        self._session.take(result)

    def _judge(self, outcome: Outcome) -> Outcome:
        """What an answer is worth here: failed if it says that what the probe found isn't there after all."""
        update: dict[str, str] = {}
        if outcome.status == "skipped" or (outcome.status == "compiled" and not self._probe.runtime):
            update["status"] = "failed"
        if outcome.log:  # it is in the scratch folder, which goes
            kept = str(self._session.store.rescue(self._cell, Path(outcome.log)))
            update |= {"log": kept, "reason": outcome.reason.replace(outcome.log, kept)}
        return outcome.model_copy(update=update)


class _ProbeWork:
    """The question what can be done for a target."""

    def __init__(self, session: Session, target: str, probes: dict[str, Probe]) -> None:
        self._session = session
        self._target = target
        self._probes = probes
        self._scratch = Path()

    def need(self) -> int:
        return memory.PROCESS

    def holds(self) -> str:
        return ""  # it asks what is installed and which devices are there, and opens none

    def start(self) -> Process:
        process, self._scratch = _start(self._session, Job(target=self._target))
        return process

    def finish(self, process: Process, ended: Ended) -> None:
        try:
            self._probes[self._target] = Probe.model_validate_json((self._scratch / ANSWER).read_bytes())
        except (OSError, ValueError):
            problem = f"whether {self._target} can be used couldn't be told: {ended.problem(process.log())}"
            self._probes[self._target] = Probe(problem=problem)


def _start(session: Session, job: Job) -> tuple[Process, Path]:
    folder = session.store.scratch()
    (folder / JOB).write_text(job.model_dump_json(), encoding="utf-8")
    return Process(_WORKER, [str(folder)], folder, session.threads), folder
