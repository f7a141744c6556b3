"""neuronbert predict."""

import sys
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from neuronbert import rows
from neuronbert.errors import InvalidOptionError

from .. import _output
from .._options import ArtifactArgument, Json, Revision, Token


def predict(
    artifact: ArtifactArgument,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, lines of stdin.")] = None,
    pair: Annotated[str | None, typer.Option(help="The second text, for pairs and for next sentences.")] = None,
    context: Annotated[str | None, typer.Option(help="Where the answer to the question stands.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="A choice; give it once for each.")] = None,
    file: Annotated[Path | None, typer.Option(help="Rows, one JSON object a line, in place of texts.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Candidates for a mask or a next token.")] = 5,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long.")] = False,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            "--doc-stride",
            min=0,
            help="Answer texts that are too long in windows that share so many tokens "
            "(question answering, token classification).",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Run calls in so many processes, side by side.")] = None,
    revision: Revision = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Answer texts.

    Example: neuronbert predict out/ "Paris is the [MASK] of France."
    """
    asked = _rows(texts, file, pair, context, choice)
    with _output.progress() as progress:
        progress("loading")
        from neuronbert import Predictor

        predictor = Predictor.from_pretrained(artifact, revision=revision, token=token, workers=workers)
    with predictor.session:
        with _output.progress() as progress:
            progress("answering")
            answers = predictor.stream(asked, truncate=truncate, stride=stride, top_k=top_k)
            answered = chain([next(answers)], answers)  # a failure to run at all is told without a word on stdout
        if json_:
            _output.as_json_list({**answer.reply, "buckets": answer.buckets} for answer in answered)
            return
        for row, answer in zip(asked, answered, strict=True):
            _output.data(_line(row, answer.reply))


def _rows(
    texts: list[str] | None,
    file: Path | None,
    pair: str | None,
    context: str | None,
    choices: list[str] | None,
) -> list[dict[str, Any]]:
    if file is not None:
        if texts or pair or context or choices:
            raise InvalidOptionError("--file", str(file), "used without texts, --pair, --context and --choice")
        return [row for _, row in rows.read(file)]
    if (pair, context, choices).count(None) < 2:
        raise InvalidOptionError("--pair", pair, "used without --context and --choice, which are for other tasks")
    lines = texts or ([] if sys.stdin.isatty() else sys.stdin.read().splitlines())
    if context is not None:
        return [{"question": text, "context": context} for text in lines]
    if choices:
        return [{"text": text, "choices": choices} for text in lines]
    if pair is not None:
        return [{"text": text, "text_pair": pair} for text in lines]
    return [{"text": text} for text in lines]


def _line(row: dict[str, Any], answer: dict[str, Any]) -> str:
    text = str(row.get("text", row.get("question")))
    if "embedding" in answer:
        head = ", ".join(f"{value:+.4f}" for value in answer["embedding"][:6])
        return f"{text}\n  {len(answer['embedding'])} values: {head}, ..."
    lines = [text]
    for name, value in answer.items():
        lines.append(f"  {name}: {_short(value)}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return "; ".join(_short(item) for item in value) or "none"
    if isinstance(value, dict):
        return " ".join(_short(item) for item in value.values())
    return str(value)
