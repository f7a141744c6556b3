"""Hand-made cells, results and reports of a matrix: nothing is run."""

from __future__ import annotations

from typing import Any

from neuronbert.matrix.messages import Outcome
from neuronbert.matrix.results import MatrixReport, Result
from neuronbert.matrix.schema import Cell
from tests.unit.builders import make_check, make_measure, make_report

HOSTILE = "<script>alert(1)</script>|`x`\"'&amp;]]>"
LONG = "a/b " * 30


def make_cell(**changes: Any) -> Cell:
    fields = {"model": "m", "task": "fill-mask", "shape": "2x8", "target": "cpu", "auto_cast": "matmul-bf16"}
    return Cell(**{**fields, **changes})


def make_outcome(status: str = "passed", **changes: Any) -> Outcome:
    fields: dict[str, Any] = {"status": status, "stage": "validate", "reason": "" if status == "passed" else "why"}
    if status == "passed":
        fields["report"] = make_report(make_check(make_measure("error", 0.001, 0.01)))
    return Outcome(**{**fields, **changes})


def make_result(status: str = "passed", *, cell: Cell | None = None, **changes: Any) -> Result:
    outcome = changes.pop("outcome", None) or make_outcome(status)
    fields: dict[str, Any] = {"cell": cell or make_cell(), "outcome": outcome, "seconds": 1.25, "peak_bytes": 1 << 28}
    return Result(**{**fields, **changes})


def make_matrix_report(*results: Result, **changes: Any) -> MatrixReport:
    fields: dict[str, Any] = {
        "neuronbert_version": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "matrix": "configs/x.yaml",
        "versions": {"torch": "2.9"},
        "results": results,
    }
    return MatrixReport(**{**fields, **changes})
