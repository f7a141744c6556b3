"""The schema of a benchmark: what is to be measured, and how long calls took beside the reference's.

Owns: BenchSpec, BenchReport and its JSON form, and what counts as unsteady. Knows nothing of how anything is timed.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from neuronbert.data import Data
from neuronbert.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neuronbert.shapes import StaticShape

UNSTEADY: Final = 0.1
"""What was measured round by round may lie so far apart, as a share of its median, before a warning is due."""
BUSY: Final = 0.5
"""The load average for each processor, before anything was measured, above which a warning is due."""
_MOST: Final = 10_000

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class BenchSpec:
    """What is measured, and for how long. Every combination of shape, batch size and cores is one case.

    Attributes:
        shapes: The buckets to measure; none stands for all of the artifact's.
        batch_sizes: Rows in a call; none stands for as many as each bucket was compiled for.
        cores: How many cores work: threads on the CPU target; none stands for those that torch takes.
        rounds: How often the program and the reference take turns.
        seconds: How long each is called for in a round.
        warm_up: Calls of each before the first round.

    Raises:
        InvalidOptionError: a number is out of its range.
    """

    shapes: tuple[StaticShape, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()
    rounds: int = 5
    seconds: float = 1.0
    warm_up: int = 3

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "cores"):
            for number in getattr(self, name):
                if number < 1:
                    raise InvalidOptionError(name, number, "1 or more")
        for name in ("rounds", "warm_up"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise InvalidOptionError(name, getattr(self, name), f"from 1 to {_MOST}")
        if not (math.isfinite(self.seconds) and 0 < self.seconds <= _MOST):
            raise InvalidOptionError("seconds", self.seconds, f"more than 0, and at most {_MOST}")


class Spread(Data):
    """The least, the middle and the most of what was measured once in each round."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of one value for each round."""
        return cls(min=min(values), median=statistics.median(values), max=max(values))

    @property
    def width(self) -> float:
        """How far the least and the most lie apart, as a share of the middle."""
        return (self.max - self.min) / self.median


class Timing(Data):
    """The calls of one candidate, in milliseconds.

    The percentiles are calls that were made, by nearest rank: of fewer than 100 calls p99 is the slowest.
    """

    calls: Annotated[int, Field(ge=1)]
    min_ms: Milliseconds
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds
    rows_per_second: float
    """Rows over the time that the calls took, one after the other."""
    tokens_per_second: float
    """The same for tokens; padding isn't counted."""
    rounds_ms: tuple[Milliseconds, ...]
    """The median call of each round."""

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]], rows: int, tokens: int) -> Timing:
        """Of the seconds of every call, round by round.

        Args:
            rounds: At least one, none of them empty.
            rows: In each call.
            tokens: In each call.
        """
        calls = sorted(seconds for taken in rounds for seconds in taken)
        return cls(
            calls=len(calls),
            min_ms=1e3 * calls[0],
            p50_ms=1e3 * percentile(calls, 50),
            p95_ms=1e3 * percentile(calls, 95),
            p99_ms=1e3 * percentile(calls, 99),
            rows_per_second=rows * len(calls) / sum(calls),
            tokens_per_second=tokens * len(calls) / sum(calls),
            rounds_ms=tuple(1e3 * statistics.median(taken) for taken in rounds),
        )


class Case(Data):
    """One bucket, with so many rows in a call, on so many cores."""

    bucket: str
    rows: int
    tokens: int
    """In each call; padding isn't counted."""
    cores: int
    program: Timing
    reference: Timing | None = None

    @property
    def name(self) -> str:
        """The case in a few words."""
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.bucket}, {self.rows} {'row' if self.rows == 1 else 'rows'}, {cores}"

    @property
    def speedup(self) -> Spread | None:
        """How many times as long the reference took, round by round; None without one."""
        if self.reference is None:
            return None
        pairs = zip(self.reference.rounds_ms, self.program.rounds_ms, strict=True)
        return Spread.of([reference / program for reference, program in pairs])

    @property
    def unsteady(self) -> str:
        """What the rounds disagree on, in one line; empty if they agree."""
        found = self.speedup or Spread.of(self.program.rounds_ms)
        if found.width <= UNSTEADY:
            return ""
        what = "ratio to the reference" if self.reference else "time"
        return f"{self.name}: the rounds' {what} differs by {found.width:.0%}: measure again on an idle machine"


class BenchReport(Data):
    """Everything that one benchmark measured."""

    neuronbert_version: str
    created: str
    artifact: str
    task: str
    target: str
    auto_cast: str
    """The operations, and the type unless there are none: "matmul bf16"."""
    program_sha256: str
    reference: str
    """What it is compared with; or why with nothing."""
    inputs: str
    """What the calls were made of."""
    rounds: int
    processors: int
    """Those that this process may use."""
    versions: dict[str, str]
    load_before: float | None
    """The load average of the last minute; None where the system has none."""
    load_after: float | None
    cases: tuple[Case, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the figures may be wrong, one line each."""
        found = [case.unsteady for case in self.cases if case.unsteady]
        if self.load_before is not None and self.load_before > BUSY * self.processors:
            load = f"{self.load_before:.2f} on {self.processors} processors"
            found.insert(0, f"the machine was busy before anything was measured: load average {load}")
        return tuple(found)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest of the values that so many percent of them don't exceed.

    Args:
        ordered: Values in ascending order, at least one.
        percent: From 1 to 100.
    """
    return ordered[-(-len(ordered) * percent // 100) - 1]


def to_json(report: BenchReport) -> str:
    """The report as JSON, with the ratios and the warnings spelled out for other tools."""
    body = report.model_dump(mode="json")
    for case, written in zip(report.cases, body["cases"], strict=True):
        written["speedup"] = case.speedup.model_dump() if case.speedup else None
    return json.dumps({**body, "warnings": list(report.warnings)}, indent=2) + "\n"
