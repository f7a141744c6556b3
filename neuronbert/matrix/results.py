"""What came of a matrix: the schema of one cell's result and of the whole report.

Owns: Result, MatrixReport and what is read off them. Knows nothing of how anything was run or shown.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from neuronbert.data import Data
from neuronbert.errors import NothingRanError, ValidationFailedError
from neuronbert.matrix.messages import Outcome, Status
from neuronbert.matrix.schema import Cell

if TYPE_CHECKING:
    from neuronbert.report import ValidationReport


class Result(Data):
    """One cell, and what came of it."""

    cell: Cell
    outcome: Outcome
    key: str = ""
    """Digest of everything that decided it; empty if that couldn't be told."""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    peak_bytes: Annotated[int, Field(ge=0)] = 0
    """The most memory that its process, or the largest of that one's own, held at once; 0 if it isn't known."""
    finished: str = ""
    kept: bool = False
    """Whether it was found by an earlier run."""

    @property
    def status(self) -> Status:
        """Passed, failed, compiled or skipped."""
        return self.outcome.status

    @property
    def task(self) -> str:
        """The task, as soon as "auto" is known to be one."""
        return self.outcome.report.task if self.outcome.report else self.cell.task

    @property
    def failure(self) -> str:
        """What failed, in one line; empty if nothing did."""
        return f"{self.cell.id}: {self.outcome.reason}" if self.status == "failed" else ""


class Drift(Data):
    """How far one output of one program is from fp32: the worst value of each batch."""

    shape: str
    output: str
    measure: str
    limit: float
    batches: dict[str, float]
    passed: bool

    @property
    def worst(self) -> float:
        """The worst of any batch."""
        return (max if self.measure == "error" else min)(self.batches.values())


def drifts(report: ValidationReport) -> tuple[Drift, ...]:
    """What a validation measured, by shape, output and measure."""
    found: dict[tuple[str, str, str], tuple[float, dict[str, float], bool]] = {}
    for check in report.checks:
        for measure in check.measures:
            key = (check.shape, check.output, measure.name)
            limit, batches, passed = found.get(key, (measure.limit, {}, True))
            worse = max if measure.name == "error" else min
            batches[check.batch] = worse(measure.value, batches.get(check.batch, measure.value))
            found[key] = (limit, batches, passed and measure.passed)
    return tuple(
        Drift(shape=shape, output=output, measure=name, limit=limit, batches=batches, passed=passed)
        for (shape, output, name), (limit, batches, passed) in found.items()
    )


class MatrixReport(Data):
    """Everything one run of a matrix found, in the order of its cells."""

    neuronbert_version: str
    created: str
    matrix: str
    versions: dict[str, str]
    """Of the libraries that decide the programs."""
    results: tuple[Result, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many cells passed, failed, were only compiled, were skipped."""
        found = Counter(result.status for result in self.results)
        return {status: found[status] for status in ("passed", "failed", "compiled", "skipped") if found[status]}

    @property
    def failures(self) -> tuple[str, ...]:
        """Every failure, one line each."""
        return tuple(result.failure for result in self.results if result.failure)

    @property
    def skips(self) -> tuple[tuple[str, str], ...]:
        """The targets that were skipped, or only compiled for, each with every reason why."""
        held = (result for result in self.results if result.status in ("skipped", "compiled"))
        return tuple(dict.fromkeys((result.cell.target, result.outcome.reason) for result in held))

    @property
    def passed(self) -> bool:
        """Whether something ran and nothing failed."""
        return not self.failures and any(result.status != "skipped" for result in self.results)

    def raise_if_failed(self) -> None:
        """Raise if it hasn't passed.

        Raises:
            ValidationFailedError: a cell failed.
            NothingRanError: every cell was skipped.
        """
        if self.failures:
            raise ValidationFailedError(self.failures)
        if not self.passed:
            raise NothingRanError(self.matrix, [f"{target}: {why}" for target, why in self.skips])


def to_json(report: MatrixReport) -> str:
    """The report as JSON for other tools: the verdict, the counts, and each cell with what was measured at worst."""
    body = report.model_dump(mode="json", exclude={"results": {"__all__": {"outcome": {"report"}}}})
    for row, result in zip(body["results"], report.results, strict=True):
        row["id"] = result.cell.id
        found = drifts(result.outcome.report) if result.outcome.report else ()
        row["drift"] = [{**drift.model_dump(mode="json"), "worst": drift.worst} for drift in found]
    verdict = {"passed": report.passed, "counts": report.counts, "failures": list(report.failures)}
    return json.dumps({**verdict, **body}, indent=2) + "\n"
