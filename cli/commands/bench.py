"""neuronbert bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronbert import rows
from neuronbert.errors import DataFileError, InvalidOptionError
from neuronbert.shapes import StaticShape

from .. import _output
from .._options import FolderArgument, Json, Token, check_picture, sizes

if TYPE_CHECKING:
    from neuronbert import BenchReport
    from neuronbert.benchmark.report import Case, Timing


def bench(
    artifact: FolderArgument,
    bucket_: Annotated[
        list[str] | None,
        typer.Option("--bucket", help="Measure this one, as in 8x128; give it once for each.", show_default="all"),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Rows in a call, as in 1 or 1,8.", show_default="the bucket's own")
    ] = None,
    cores: Annotated[
        str | None,
        typer.Option(help="Cores that work, as in 2 or 1,2: threads on the CPU target.", show_default="all"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often program and reference take turns.")] = 5,
    seconds: Annotated[float, typer.Option(help="How long each is called for in a round.")] = 1.0,
    warm_up: Annotated[int, typer.Option(help="Calls of each before the first round.")] = 3,
    texts: Annotated[
        Path | None,
        typer.Option(help='Texts to call with, one {"text": ...} a line.', show_default="full rows of random ids"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", "--model", help="What to compare with.", show_default="what it was exported from"),
    ] = None,
    no_reference: Annotated[bool, typer.Option("--no-reference", help="Compare with nothing.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the latencies into this .svg file.")] = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Measure latency and throughput of an artifact's programs, in turn with transformers' eager model in fp32.

    Every bucket is measured with every batch size on every number of cores. The ratio is how many times as long
    the reference takes: its middle, least and most of the rounds. p99 of fewer than 100 calls is the slowest.

    Example: neuronbert bench out/ --batch-size 1,8 --cores 1,2 --plot out.svg
    """
    if no_reference and reference is not None:
        raise InvalidOptionError("--reference", reference, "left out with --no-reference")
    _check_plot(plot, artifact)
    from neuronbert import BenchSpec

    spec = BenchSpec(
        shapes=tuple(StaticShape.parse(text) for text in bucket_ or ()),
        batch_sizes=sizes("--batch-size", batch_size) if batch_size else (),
        cores=sizes("--cores", cores) if cores else (),
        rounds=rounds,
        seconds=seconds,
        warm_up=warm_up,
    )
    given = None if texts is None else _texts(texts)
    with _output.progress() as progress:
        from neuronbert import bench as run

        model = False if no_reference else reference or True
        found = run(artifact, spec, model=model, texts=given, token=token, progress=progress)
    if json_:
        from neuronbert.benchmark.report import to_json

        _output.data(to_json(found).rstrip())
    else:
        _show(found)
    for warning in found.warnings:
        _output.note(f"Warning: {warning}")
    if plot is not None:
        from neuronbert import pictures
        from neuronbert.benchmark import plots

        pictures.save(plots.draw(found), plot)


def _check_plot(path: Path | None, artifact: Path) -> None:
    if path is None:
        return
    check_picture("--plot", path)
    if path.resolve().is_relative_to(artifact.resolve()):
        raise InvalidOptionError("--plot", str(path), "a file outside the artifact")


def _texts(path: Path) -> list[str]:
    found = []
    for number, row in rows.read(path):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise DataFileError(path, number, 'it has no "text"')
        found.append(text)
    return found


def _show(found: "BenchReport") -> None:
    on = f"{found.target}, {found.auto_cast} auto-cast" if found.auto_cast != "none" else found.target
    _output.data(f"{found.artifact}: {found.task} on {on}; {found.inputs}, {found.rounds} rounds")
    _output.data(f"reference: {found.reference}")
    loads = [f"{load:.2f}" if load is not None else "unknown" for load in (found.load_before, found.load_after)]
    _output.data(f"load average: {loads[0]} before, {loads[1]} after, on {found.processors} processors")
    _output.data("")
    columns = ["bucket", "rows", "cores", "who", "calls", "min ms", "p50", "p95", "p99", "rows/s", "tokens/s"]
    compared = any(case.reference for case in found.cases)
    lines = [line for case in found.cases for line in _lines(case)]
    if compared:
        _output.table([*columns, "ratio [min .. max]"], lines)
    else:
        _output.table(columns, [line[: len(columns)] for line in lines])


def _lines(case: "Case") -> list[list[str]]:
    named = [case.bucket, str(case.rows), str(case.cores)]
    ratio = case.speedup
    shown = f"{ratio.median:.2f} x [{ratio.min:.2f} .. {ratio.max:.2f}]" if ratio else ""
    lines = [[*named, "program", *_figures(case.program), shown]]
    if case.reference:
        lines.append(["", "", "", "reference", *_figures(case.reference), ""])
    return lines


def _figures(timing: "Timing") -> list[Any]:
    times = [timing.min_ms, timing.p50_ms, timing.p95_ms, timing.p99_ms]
    rates = [timing.rows_per_second, timing.tokens_per_second]
    return [str(timing.calls), *(f"{time:.3f}" for time in times), *(_rate(rate) for rate in rates)]


def _rate(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:.0f}"
