"""A checkpoint and a file of rows to the length configurations that are worth most for what they cost.

Owns: running a search: its rows, its threads, its folder and its time. What is tried is the core's (adaptive.search).
"""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert import answers, metrics, modeling, pictures, rows, sources, tokenization
from neuronbert.adaptive.keeping import Keeping
from neuronbert.adaptive.search import Front, Plan, Search, Trial, read_search
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import DataFileError, InvalidOptionError, SearchChangedError, StorageError, TextError, first_line
from neuronbert.staging import write_whole
from neuronbert.tuning import plots
from neuronbert.tuning.scoring import FIDELITY, Exam, Scorer, adaptable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from neuronbert.adaptive.configuration import Lengths
    from neuronbert.checkpoint import Checkpoint
    from neuronbert.decoding import Row
    from neuronbert.modeling import LoadedHead
    from neuronbert.tuning.spec import SearchSpec

logger = logging.getLogger("neuronbert")

STATE: Final = "search.json"
FRONT: Final = "front.json"
PLOT: Final = "front.svg"
_LAST: Final = 12
"""Points of the front that are scored once more, on more rows."""
_MUTATED: Final = 0.5
"""The chance that a layer's length is changed in a mutation, as published."""


def search_lengths(
    spec: SearchSpec,
    output: str | os.PathLike[str],
    *,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Front:
    """Search for the length configurations of a checkpoint that are worth most for what they cost.

    After each generation the state is written, from which the same search goes on if it is started again, further
    generations included. In the end the folder holds the front as JSON and as a picture.

    Args:
        spec: What is searched.
        output: A folder, which is made if it isn't there.
        token: For the Hub.
        progress: Told what is being done.

    Raises:
        UsageError: the spec can't be met, or the folder holds another search.
        DataError: the checkpoint, or the state of the search, is broken.
        UnavailableError: the model, the file, pygal or the disk isn't there.
    """
    pictures.require()
    begun, folder = time.monotonic(), Path(output)
    progress("finding the checkpoint")
    with sources.opened(spec.model, revision=spec.revision, token=token, progress=progress) as (_, checkpoint):
        task = canonical_task(spec.task, checkpoint)
        checkpoint.check_settings(task)
        bench = _Bench.of(spec, checkpoint, task, progress)
    search = _resumed(bench.plan, folder / STATE)
    with _threads(), bench.scorers() as scorers:
        while search.generation <= spec.generations and not _late(spec, begun, search):
            proposals = search.proposals()
            if not proposals:
                break
            said = f"generation {search.generation} of {spec.generations}"
            search = search.advanced(_tried(scorers, bench.plan, proposals, lambda done: progress(f"{said}, {done}")))  # noqa: B023  called at once
            write_whole(folder / STATE, search.model_dump_json())
        progress("scoring the front")
        found = Front.of(search, len(bench.final.rows), _final(scorers, search, bench.final))
    write_whole(folder / FRONT, found.model_dump_json(indent=2) + "\n")
    write_whole(folder / PLOT, plots.draw(found).decode())
    return found


@dataclass(frozen=True, slots=True)
class _Bench:
    """All that scoring needs: the head, the rows it is scored on while searching and in the end, and the plan."""

    loaded: LoadedHead
    exam: Exam
    final: Exam
    plan: Plan
    keeping: Keeping
    jobs: int

    @classmethod
    def of(cls, spec: SearchSpec, checkpoint: Checkpoint, task: str, progress: Callable[[str], None]) -> _Bench:
        config, limit = checkpoint.config, checkpoint.max_sequence_length
        if spec.sequence_length > limit:
            raise InvalidOptionError("sequence_length", spec.sequence_length, f"at most {limit}, as the model has")
        full = (spec.sequence_length,) * int(config["num_hidden_layers"])
        keeping = Keeping.of(task, config, length_config=full, layer_config=())
        labels = checkpoint.sizes()["labels"]
        found = _read(Path(spec.data), task, spec.metric, labels, config)
        tokenizer = tokenization.require(checkpoint.path)
        progress("loading the weights")
        loaded = adaptable(modeling.load(checkpoint, task))
        order = Random(spec.seed).sample(range(len(found)), len(found))
        few, many = ([found[at] for at in sorted(order[:count])] for count in (spec.rows, spec.final_rows))
        exam = Exam(few, spec.metric, config, tokenizer, spec.sequence_length)
        plan = _plan(spec, checkpoint, task, len(few))
        jobs = spec.jobs if spec.cost == "macs" else 1
        return cls(loaded, exam, replace(exam, rows=many), plan, keeping or Keeping(), jobs)

    @contextmanager
    def scorers(self) -> Iterator[_Scorers]:
        held: SimpleQueue[Scorer] = SimpleQueue()
        for _ in range(self.jobs):
            held.put(Scorer(self.loaded, self.exam, self.keeping))
        pool = ThreadPoolExecutor(self.jobs)
        try:
            yield _Scorers(held, pool)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Scorers:
    held: SimpleQueue[Scorer]
    pool: ThreadPoolExecutor

    def each(self, run: Callable[[Scorer, Lengths], Trial], proposals: Sequence[Lengths]) -> Iterator[Trial]:
        def one(lengths: Lengths) -> Trial:
            scorer = self.held.get()
            try:
                return run(scorer, lengths)
            finally:
                self.held.put(scorer)

        return self.pool.map(one, proposals)


def _tried(scorers: _Scorers, plan: Plan, proposals: Sequence[Lengths], tell: Callable[[str], None]) -> list[Trial]:
    def run(scorer: Scorer, lengths: Lengths) -> Trial:
        cost = float(plan.space.macs(lengths)) if plan.cost == "macs" else scorer.milliseconds(lengths)
        return Trial(lengths=lengths, cost=cost, score=scorer.score(lengths))

    found: list[Trial] = []
    for trial in scorers.each(run, proposals):
        found.append(trial)
        tell(f"{len(found)} of {len(proposals)}")
    return found


def _final(scorers: _Scorers, search: Search, exam: Exam) -> list[Trial]:
    """Some points of the front, the cheapest and the full length among them, scored on more rows."""
    front, full = search.front, search.plan.space.full
    places = {round(step * (len(front) - 1) / (_LAST - 1)) for step in range(_LAST)}
    chosen = {trial.lengths: trial for trial in search.trials if trial.lengths == full}
    chosen |= {front[place].lengths: front[place] for place in sorted(places)}

    def run(scorer: Scorer, lengths: Lengths) -> Trial:
        return chosen[lengths].model_copy(update={"score": scorer.score(lengths, exam)})

    return list(scorers.each(run, tuple(chosen)))


def _plan(spec: SearchSpec, checkpoint: Checkpoint, task: str, few: int) -> Plan:
    config = checkpoint.config
    return Plan(
        model=Path(spec.model).name or spec.model,
        weights_sha256=checkpoint.weights_sha256(),
        data_sha256=hashlib.sha256(Path(spec.data).read_bytes()).hexdigest(),
        task=task,
        metric=spec.metric,
        cost="macs" if spec.cost == "macs" else "latency",
        rows=few,
        sequence_length=spec.sequence_length,
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        intermediate=int(config["intermediate_size"]),
        drop=spec.drop,
        population=spec.population,
        mutations=spec.children - spec.children // 2,
        crossovers=spec.children // 2,
        probability=_MUTATED,
        seed=spec.seed,
    )


def _read(path: Path, task: str, metric: str, labels: int, config: Any) -> Sequence[Row]:
    if metric != FIDELITY:
        return metrics.read_rows(path, task, labels, config)
    found = []
    for number, row in rows.read(path):
        try:
            answers.check(task, row)
        except TextError as error:
            raise DataFileError(path, number, first_line(error)) from error
        found.append(row)
    return found


def _resumed(plan: Plan, path: Path) -> Search:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(path.parent, error.strerror or str(error)) from error
    if not path.exists():
        return Search(plan=plan)
    held = read_search(path)
    differing = [name for name, value in plan if value != getattr(held.plan, name) and name != "model"]
    if differing:
        raise SearchChangedError(path.parent, differing)
    return held


def _late(spec: SearchSpec, begun: float, search: Search) -> bool:
    """Whether the time is up; the first population is always tried, as there is no front before."""
    if spec.time_budget is None or not search.trials:
        return False
    return time.monotonic() - begun >= spec.time_budget


@contextmanager
def _threads() -> Iterator[None]:
    # Cores are busy with configurations side by side; threads of one that wait for each other would take longer.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
