"""The evolutionary search over length configurations, as plain data.

Owns: Plan, Search and Front, their JSON, and what is tried next. Knows nothing of how a configuration is scored: who
runs a search asks it for `proposals`, scores them in any order, and goes on with what `advanced` gives. All that is
random in a generation comes from the seed and its number, so a search that was broken off goes on as it would have.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from neuronbert.adaptive.configuration import check
from neuronbert.adaptive.cost import EncoderSize
from neuronbert.adaptive.genes import Space, cross, mutate
from neuronbert.data import Data
from neuronbert.errors import DataFileError, InvalidOptionError, MissingFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from neuronbert.adaptive.configuration import Lengths

Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
COSTS: Final = ("macs", "latency")
_TRIES: Final = 100
"""For one child: in a space that is nearly used up there may be none left."""
Kind = TypeVar("Kind", bound=Data)
_OUT_OF_SPACE: Final = "a configuration isn't one of the plan's model"
_NO_FULL: Final = "the full length, which all others are compared with, isn't among what was tried"


class Trial(Data):
    """A configuration that was tried."""

    lengths: tuple[int, ...]
    cost: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """In what the plan says: multiply-adds of a row, or milliseconds."""
    score: Finite
    """More is better."""


class Plan(Data):
    """All that decides what a search finds, but for how long it goes on."""

    model: str
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    data_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    task: str
    metric: str
    cost: Literal["macs", "latency"]
    rows: Count
    """How many rows of the data a configuration is scored on."""
    sequence_length: Annotated[int, Field(ge=2)]
    layers: Annotated[int, Field(ge=1, le=1000)]
    hidden: Count
    intermediate: Count
    drop: Annotated[float, Field(gt=0, lt=1)]
    population: Annotated[int, Field(ge=2)]
    mutations: Annotated[int, Field(ge=0)]
    crossovers: Annotated[int, Field(ge=0)]
    probability: Annotated[float, Field(ge=0, le=1)]
    seed: int

    @property
    def space(self) -> Space:
        """Where it looks."""
        size = EncoderSize(self.layers, self.hidden, self.intermediate)
        return Space(size, self.sequence_length, self.drop)


class Search(Data):
    """How far a search has come.

    Attributes:
        plan: What is searched, and how.
        generation: How many generations are done; the first population is generation 0.
        trials: What was tried, in order.
    """

    plan: Plan
    generation: Annotated[int, Field(ge=0)] = 0
    trials: tuple[Trial, ...] = ()

    @model_validator(mode="after")
    def _check_trials(self) -> Self:
        try:
            for trial in self.trials:
                check(trial.lengths, self.plan.layers, self.plan.sequence_length)
        except InvalidOptionError as error:
            raise ValueError(_OUT_OF_SPACE) from error
        if self.trials and all(trial.lengths != self.plan.space.full for trial in self.trials):
            raise ValueError(_NO_FULL)
        return self

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in cost and score both: cheapest first, and each better than the last."""
        return pareto(self.trials)

    def proposals(self) -> tuple[Lengths, ...]:
        """What is to be tried next, each configuration once; empty if nothing new was found."""
        plan, space = self.plan, self.plan.space
        if not self.trials:
            return tuple(space.spread(plan.population))
        rng = Random(f"{plan.seed}/{self.generation}")
        parents = [trial.lengths for trial in self.front]
        known = {trial.lengths for trial in self.trials}
        children: list[Lengths] = []
        if len(parents) > 1:
            children += _new(lambda: cross(*rng.sample(parents, 2)), space, known, plan.crossovers)
        more = plan.mutations + plan.crossovers - len(children)  # a small front has few pairs
        children += _new(lambda: mutate(rng.choice(parents), space, rng, plan.probability), space, known, more)
        return tuple(children)

    def advanced(self, trials: Iterable[Trial]) -> Search:
        """The search after a generation: what was proposed, scored."""
        return self.model_copy(update={"generation": self.generation + 1, "trials": (*self.trials, *trials)})


def _new(make: Callable[[], Lengths], space: Space, known: set[Lengths], wanted: int) -> list[Lengths]:
    """So many children that are in the space and not known, or as many as are found; they are known then."""
    found: list[Lengths] = []
    for _ in range(wanted * _TRIES):
        child = make()
        if child not in known and space.holds(child):
            known.add(child)
            found.append(child)
        if len(found) == wanted:
            break
    return found


def pareto(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trials that no other one beats in cost and score both, cheapest first."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.cost, -trial.score, trial.lengths)):
        if not best or trial.score > best[-1].score:
            best.append(trial)
    return tuple(best)


class FrontPoint(Data):
    """A configuration that a search found, and what it is worth."""

    length_config: tuple[int, ...]
    macs: Count
    speedup: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The full length's cost over its own."""
    score: Finite


class Front(Data):
    """What a search found.

    Attributes:
        format_version: Of this file.
        plan: What was searched, and how.
        generations: How many generations were done.
        tried: How many configurations were tried.
        rows: How many rows the scores of the front are of.
        full: What the model is worth when it drops nothing.
        front: The configurations that no other one beats, fastest first.
    """

    format_version: Literal[1] = 1
    plan: Plan
    generations: Annotated[int, Field(ge=0)]
    tried: Count
    rows: Count
    full: FrontPoint
    front: Annotated[tuple[FrontPoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        try:
            for point in (self.full, *self.front):
                check(point.length_config, self.plan.layers, self.plan.sequence_length)
        except InvalidOptionError as error:
            raise ValueError(_OUT_OF_SPACE) from error
        return self

    @classmethod
    def of(cls, search: Search, rows: int, scored: Iterable[Trial]) -> Self:
        """What a search found, with the scores of its front, and of the full length, over so many rows."""
        plan, trials = search.plan, list(scored)
        full = next(trial for trial in trials if trial.lengths == plan.space.full)
        points = {
            trial.lengths: FrontPoint(
                length_config=trial.lengths,
                macs=plan.space.macs(trial.lengths),
                speedup=full.cost / trial.cost,
                score=trial.score,
            )
            for trial in trials
        }
        front = tuple(points[trial.lengths] for trial in pareto(trials))
        generations = max(0, search.generation - 1)
        tried = len(search.trials)
        return cls(plan=plan, generations=generations, tried=tried, rows=rows, full=points[full.lengths], front=front)

    def at_least(self, speedup: float) -> FrontPoint:
        """The best point that is so much faster than the full length.

        Raises:
            InvalidOptionError: none is.
        """
        fast = [point for point in self.front if point.speedup >= speedup]
        if not fast:
            most = max(point.speedup for point in self.front)
            raise InvalidOptionError("speedup", speedup, f"at most {most:.2f}, the fastest that the search found")
        return max(fast, key=lambda point: (point.score, point.speedup))


def read_search(path: Path) -> Search:
    """The search in a file.

    Raises:
        MissingFileError: there is no such file.
        DataFileError: it holds something else.
    """
    return _read(path, Search, "the state of a search")


def read_front(path: Path) -> Front:
    """The front in a file.

    Raises:
        MissingFileError: there is no such file.
        DataFileError: it holds something else.
    """
    return _read(path, Front, "what a search found (its front.json)")


def _read(path: Path, kind: type[Kind], name: str) -> Kind:
    if not path.is_file():
        raise MissingFileError(path)
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        where = ""
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False, include_url=False)[0]
            where = f": {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg'].lower()}"
        raise DataFileError(path, 0, f"it doesn't hold {name}{where}") from error
