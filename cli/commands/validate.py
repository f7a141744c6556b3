"""neuronbert validate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronbert.errors import InvalidOptionError, MissingOptionError, StorageError

from .. import _matrix, _output
from .._options import Json, Token, size

if TYPE_CHECKING:
    from neuronbert import ValidationReport

_PANEL = "Options of --matrix"


def validate(
    artifact: Annotated[
        Path | None, typer.Argument(help="An artifact's folder; left out with --matrix.", metavar="ARTIFACT")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where its checkpoint is now, if it was moved.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled rows, one JSON object a line: compare the task's metric too."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the report to this .json file, and as JUnit XML beside it (.xml)."),
    ] = None,
    record: Annotated[
        bool | None,
        typer.Option(
            help="Write the verdict and the model card into the artifact.", show_default="record, but not with --model"
        ),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(help="Export and validate every cell of this YAML file instead of one artifact.", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where results and reports go.", show_default="out/NAME of the file", rich_help_panel=_PANEL),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only cells with this id, or pattern of ids.", rich_help_panel=_PANEL)
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Fail if this target (or all) can't be compiled for here; TARGET:run, if it can't be run here.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Repeat what passed in an earlier run.", rich_help_panel=_PANEL)
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Cells at once.", show_default="one a core", rich_help_panel=_PANEL)
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="What they may take together, as in 8G.", show_default="most of what is free", rich_help_panel=_PANEL
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a cell may take.", rich_help_panel=_PANEL)] = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Compare an artifact's programs with the CPU reference; exit 1 if they differ.

    Example: neuronbert validate out/ --report report.json

    With --matrix: export and validate every model, task, shape, target and auto-cast of a YAML file.

    Example: neuronbert validate --matrix configs/ci.yaml --require cpu
    """
    of_artifact = {"ARTIFACT": artifact, "--model": model, "--data": data, "--report": report, "--record": record}
    of_matrix = {
        "--output": output,
        "--only": only,
        "--require": require,
        "--fresh": fresh or None,
        "--jobs": jobs,
        "--max-memory": max_memory,
        "--timeout": timeout,
    }
    if matrix is not None:
        _refuse(of_artifact, "without --matrix, or left out")
        _matrix.run(
            matrix,
            output,
            {
                "only": tuple(only or ()),
                "require": tuple(require or ()),
                "fresh": fresh,
                "jobs": jobs,
                "max_memory": None if max_memory is None else size("--max-memory", max_memory),
                "timeout": timeout,
                "token": token,
            },
            as_json=json_,
        )
        return
    _refuse(of_matrix, "used with --matrix")
    if artifact is None:
        raise MissingOptionError(
            "ARTIFACT", "neuronbert validate out/, or neuronbert validate --matrix configs/ci.yaml"
        )
    _validate(artifact, report, json_, {"model": model, "data": data, "token": token, "record": record})


def _refuse(options: dict[str, Any], expected: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidOptionError(name, str(value), expected)


def _validate(artifact: Path, report: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    if report is not None and (not report.name or report.resolve().is_relative_to(artifact.resolve())):
        raise InvalidOptionError("--report", str(report), "a file outside the artifact")
    with _output.progress() as progress:
        from neuronbert import validate as run

        found = run(artifact, progress=progress, **options)
    if as_json:
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
