"""neuronbert validate --matrix: run a matrix, tell of each cell, print what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _output

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuronbert.matrix import MatrixReport, Result


def run(path: Path, output: Path | None, settings: dict[str, Any], *, as_json: bool) -> None:
    """Run a matrix file and raise if it didn't pass; the reports are written in any case."""
    with _output.steps() as (progress, done):
        from neuronbert.matrix import Listener, Settings
        from neuronbert.matrix import run as run_matrix

        listener = Listener(progress=progress, finished=_teller(done))
        report = run_matrix(path, output, Settings(**settings), listener)
    if as_json:
        from neuronbert.matrix.results import to_json

        _output.data(to_json(report).rstrip())
    else:
        _show(report, output or Path("out", path.stem))
    report.raise_if_failed()


def _teller(done: "Callable[[str], None]") -> "Callable[[Result, int, int], None]":
    def tell(result: "Result", number: int, total: int) -> None:
        took = "kept" if result.kept else f"{result.seconds:.1f} s" if result.seconds else ""
        note = f" ({took})" if took else ""
        reason = f": {result.outcome.reason}" if result.status == "failed" else ""
        done(f"[{number:{len(str(total))}}/{total}] {result.status:<8} {result.cell.id}{note}{reason}")

    return tell


def _show(report: "MatrixReport", output: Path) -> None:
    for target, reason in report.skips:
        _output.note(f"{target} was not run: {reason}")
    for failure in report.failures:
        _output.note(f"failed: {failure}")
    counts = ", ".join(f"{count} {status}" for status, count in report.counts.items())
    verdict = "passed" if report.passed else "FAILED" if report.failures else "nothing ran"
    _output.data(f"{verdict}: {counts} of {len(report.results)} cells; see {output / 'report.html'}")
