"""neuronbert validate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuronbert.errors import InvalidOptionError, StorageError

from .. import _output
from .._options import FolderArgument, Json, Token

if TYPE_CHECKING:
    from neuronbert import ValidationReport


def validate(
    artifact: FolderArgument,
    model: Annotated[str | None, typer.Option(help="Where its checkpoint is now, if it was moved.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled rows, one JSON object a line: compare the task's metric too."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the report to this .json file, and as JUnit XML beside it (.xml)."),
    ] = None,
    record: Annotated[bool, typer.Option(help="Write the verdict and the model card into the artifact.")] = True,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Compare an artifact's programs with the CPU reference; exit 1 if they differ.

    Example: neuronbert validate out/ --report report.json
    """
    if report is not None and (not report.name or report.resolve().is_relative_to(artifact.resolve())):
        raise InvalidOptionError("--report", str(report), "a file outside the artifact")
    with _output.progress() as progress:
        from neuronbert import validate as run

        found = run(artifact, model=model, data=data, token=token, record=record, progress=progress)
    if json_:
        from neuronbert.report import to_json

        _output.data(to_json(found).rstrip())
    else:
        _show(found)
    if report is not None:
        _write(found, report)
    found.raise_if_failed()


def _write(found: "ValidationReport", path: Path) -> None:
    from neuronbert.report import to_json, to_junit

    base = path.with_suffix("") if path.suffix in (".json", ".xml") else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        base.with_name(base.name + ".json").write_text(to_json(found), encoding="utf-8")
        base.with_name(base.name + ".xml").write_text(to_junit(found), encoding="utf-8")
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error


def _show(found: "ValidationReport") -> None:
    rows = [
        [
            output,
            measure.name,
            f"{measure.value:.6g}",
            ("at most " if measure.name == "error" else "at least ") + f"{measure.limit:g}",
            str(count),
            "yes" if measure.passed else "NO",
        ]
        for output, measure, count in found.worst()
    ]
    if rows:
        _output.table(["output", "measure", "worst", "limit", "checks", "passed"], rows)
    if found.metrics:
        scores = [[m.name, str(m.rows), f"{m.program:.4f}", f"{m.reference:.4f}"] for m in found.metrics]
        _output.table(["metric", "rows", "program", "reference"], scores)
    for failure in found.failures:
        _output.note(f"failed: {failure}")
    _output.data(f"{'passed' if found.passed else 'FAILED'}: compared with {found.reference}")
