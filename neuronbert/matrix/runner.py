"""A matrix file to its reports.

Owns: which cells are meant, and what a result is worth where its target is required. Knows nothing of processes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuronbert._version import __version__
from neuronbert.errors import InvalidOptionError
from neuronbert.matrix import pages
from neuronbert.matrix.expansion import load
from neuronbert.matrix.results import MatrixReport
from neuronbert.matrix.session import Session
from neuronbert.matrix.settings import Listener, Settings
from neuronbert.matrix.store import Store, versions

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from neuronbert.matrix.results import Result
    from neuronbert.matrix.schema import Cell

_RUN: Final = ":run"
_ALL: Final = "all"


def run(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    listener: Listener | None = None,
) -> MatrixReport:
    """Export and validate every cell of a matrix file, and write the reports.

    Each cell is done in a process of its own. What passed in an earlier run with the same output is not repeated,
    unless something that decides it has changed: the cell, the model's files, a library, the Neuron SDK's settings.

    Args:
        path: The YAML file.
        output: The folder for results and reports (report.json, .xml, .md, .html); by default out/ and the file's name.
        settings: How it is run.
        listener: Who is told.

    Returns:
        The report, passed or not: see `MatrixReport.raise_if_failed`.

    Raises:
        MissingFileError: there is no such file.
        MatrixError: the file can't be used; every problem is named.
        InvalidOptionError: a setting can't be used.
        StorageError: the output can't be written.
    """
    settings = settings or Settings()
    matrix = load(path)
    cells = _choose(matrix.cells, settings.only)
    _check_required(settings.require, cells)
    with Store(output or Path("out", matrix.path.stem)) as place:
        results = Session(place, settings, listener or Listener(), cells).results()
        report = MatrixReport(
            neuronbert_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            matrix=str(matrix.path),
            versions=versions(),
            results=tuple(_hold_to(settings.require, result) for result in results),
        )
        pages.write(report, place)
    return report


def _choose(cells: tuple[Cell, ...], only: tuple[str, ...]) -> tuple[Cell, ...]:
    for pattern in only:
        if not any(_matches(cell, pattern) for cell in cells):
            raise InvalidOptionError("only", pattern, f"the id of a cell or a pattern of ids, as in {cells[0].id}")
    return tuple(cell for cell in cells if not only or any(_matches(cell, pattern) for pattern in only))


def _matches(cell: Cell, pattern: str) -> bool:
    return cell.id == pattern or fnmatchcase(cell.id, pattern)


def _check_required(require: Sequence[str], cells: Iterable[Cell]) -> None:
    targets = sorted({cell.target for cell in cells})
    for name in require:
        if name.removesuffix(_RUN) not in (_ALL, *targets):
            expected = f"all, or a target of this matrix ({', '.join(targets)}), and may end with {_RUN}"
            raise InvalidOptionError("require", name, expected)


def _hold_to(require: Sequence[str], result: Result) -> Result:
    """The same result, failed if it falls short of what was required of its target."""
    names = (result.cell.target, _ALL)
    run = any(name + _RUN in require for name in names)
    short = result.status == "skipped" and (run or any(name in require for name in names))
    if not short and not (run and result.status == "compiled"):
        return result
    reason = f"{result.cell.target} is required here, but {result.outcome.reason}"
    return result.model_copy(
        update={"outcome": result.outcome.model_copy(update={"status": "failed", "reason": reason})}
    )
