"""What a run and its workers tell each other, in files of one folder.

Owns: the schema of what is asked of a worker and of what it answers. Knows nothing of who runs where.
"""

from __future__ import annotations

from typing import Final, Literal

from neuronbert.data import Data
from neuronbert.matrix.schema import Cell
from neuronbert.report import ValidationReport

JOB: Final = "job.json"
ANSWER: Final = "answer.json"

Status = Literal["passed", "failed", "compiled", "skipped"]
"""compiled: exported for a target that can't run here. skipped: the target can't even be compiled for here."""
Stage = Literal["checkpoint", "export", "validate", "process"]


class Job(Data):
    """A cell to export and to validate, or a target to ask about."""

    cell: Cell | None = None
    checkpoint: str | None = None
    """The folder of the cell's model; None if it is made from the cell's config."""
    target: str = ""


class Probe(Data):
    """Why a target can't be compiled for here, and why it can't be run; empty if it can."""

    compiler: str = ""
    runtime: str = ""
    problem: str = ""
    """Why it couldn't be told."""


class Outcome(Data):
    """What became of one cell's artifact."""

    status: Status
    stage: Stage
    """What was done last; only after "validate" was anything compared."""
    reason: str = ""
    """Why it didn't pass, in one line."""
    log: str = ""
    """What the reason names of a compiler's files: its log, or the folder that it worked in."""
    report: ValidationReport | None = None
