"""neuronbert embed-dataset."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import _output
from .._options import ArtifactArgument, Json, Revision, Token


def embed_dataset(
    artifact: ArtifactArgument,
    data: Annotated[
        Path, typer.Argument(help="Texts: a Parquet or JSON Lines file, or a folder of them.", metavar="INPUT")
    ],
    output: Annotated[Path, typer.Argument(help="The folder to write: Parquet files with `id` and `embedding`.")],
    column: Annotated[str, typer.Option(help="Where a row has its text.")] = "text",
    id_column: Annotated[
        str | None, typer.Option(help="Where a row has its id; by default rows are numbered from 0.")
    ] = None,
    rows_per_part: Annotated[int, typer.Option(min=1, help="Rows of a file that is written.")] = 8192,
    auto_truncate: Annotated[
        bool, typer.Option("--auto-truncate/--no-auto-truncate", help="Cut texts that are too long, or refuse them.")
    ] = True,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; by default one to a NeuronCore, or one to a node for the CPU target."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster; by default one is started here.", envvar="RAY_ADDRESS")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")] = False,
    revision: Revision = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Write a vector for each text of a dataset, in many processes through Ray.

    Example: neuronbert embed-dataset minilm/ texts.parquet vectors/ --id-column id
    """
    told: list[tuple[int, int]] = []
    try:
        with _output.progress() as progress:
            progress("reading")
            from neuronbert.dataset.job import Plan, embed
            from neuronbert.dataset.source import Columns

            def advance(done: int, rows: int) -> None:
                told.append((done, rows))
                progress(f"{done} of {rows} rows")

            plan = Plan(
                Columns(column, id_column),
                rows_per_part=rows_per_part,
                auto_truncate=auto_truncate,
                workers=workers,
                address=address,
                resume=resume,
                revision=revision,
                token=token,
            )
            summary = embed(artifact, data, output, plan, advance)
    except KeyboardInterrupt:
        if told:
            _output.note(f"{told[-1][0]} of {told[-1][1]} rows are written. Go on with: --resume.")
        raise
    if json_:
        _output.as_json(asdict(summary))
        return
    kept = f" ({summary.kept} were there already)" if summary.kept else ""
    _output.data(f"{summary.output}: {summary.rows} vectors in {summary.parts} parts{kept}")
