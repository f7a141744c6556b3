"""neuronbert search-lengths."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuronbert.adaptive.configuration import spell

from .. import _output
from .._options import Json, Revision, Token

if TYPE_CHECKING:
    from neuronbert.adaptive.search import Front


def search_lengths(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or a Hub id: BERT or RoBERTa.", metavar="MODEL")],
    data: Annotated[Path, typer.Option(help="Rows, one JSON object a line; labelled, unless the metric is fidelity.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where results go.")] = Path("length-search"),
    task: Annotated[str, typer.Option(help="The head's task; auto reads it off the checkpoint.")] = "auto",
    metric: Annotated[
        str,
        typer.Option(
            help="One of the task's own (accuracy, f1, exact_match, spearman), or fidelity: how near answers are to "
            "those at full length."
        ),
    ] = "fidelity",
    sequence_length: Annotated[int, typer.Option(help="Tokens that rows are padded and cut to.")] = 128,
    cost: Annotated[str, typer.Option(help="macs, in closed form; or latency, measured here.")] = "macs",
    generations: Annotated[int, typer.Option(help="Generations after the first population.")] = 30,
    children: Annotated[int, typer.Option(help="Configurations tried in a generation.")] = 30,
    population: Annotated[int, typer.Option(help="Configurations tried first.")] = 20,
    rows: Annotated[int, typer.Option(help="Rows that each is scored on.")] = 12,
    final_rows: Annotated[int, typer.Option(help="Rows that those of the front are scored on in the end.")] = 128,
    drop: Annotated[float, typer.Option(help="Share of its tokens that a layer drops at most, in the cheapest.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    jobs: Annotated[int, typer.Option(help="Configurations scored at once, a core each.")] = 2,
    time_budget: Annotated[
        float | None, typer.Option(help="Seconds after which no further generation is begun.")
    ] = None,
    revision: Revision = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Search for how many tokens each layer needs to keep, by evolution; the same command again goes on.

    Example: neuronbert search-lengths my-bert/ --data rows.jsonl --sequence-length 384 --output found/

    Then: neuronbert export --model my-bert/ --sequence-length 384 --speedup 2.0 --search found/front.json out/
    """
    with _output.steps() as (progress, _):
        from neuronbert import SearchSpec
        from neuronbert import search_lengths as run

        spec = SearchSpec(
            model=model,
            data=str(data),
            task=task,
            metric=metric,
            sequence_length=sequence_length,
            cost=cost,
            generations=generations,
            children=children,
            population=population,
            rows=rows,
            final_rows=final_rows,
            drop=drop,
            seed=seed,
            jobs=jobs,
            time_budget=time_budget,
            revision=revision,
        )
        try:
            found = run(spec, output, token=token, progress=progress)
        except KeyboardInterrupt:
            if (output / "search.json").exists():
                _output.note(f"The same command goes on from {output / 'search.json'}.")
            raise
    if json_:
        _output.as_json({"path": str(output / "front.json"), **found.model_dump(mode="json")})
        return
    _show(found)
    name, path = shlex.quote(model), shlex.quote(str(output / "front.json"))
    _output.note(
        f"Next: neuronbert export --model {name} --sequence-length {sequence_length} --speedup 2.0 --search {path} out/"
    )


def _show(found: "Front") -> None:
    points = [*found.front, *([] if found.full in found.front else [found.full])]
    lines = [
        [spell(point.length_config), f"{point.macs / 1e9:.3f}", f"{point.speedup:.2f}", f"{point.score:.4f}"]
        for point in points
    ]
    _output.table(["length_config", "GMAC", "speedup", found.plan.metric], lines)
    _output.data(f"{found.tried} tried in {found.generations} generations; scores are over {found.rows} rows")
