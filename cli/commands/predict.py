"""neuronbert predict."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from neuronbert import rows
from neuronbert.errors import DataFileError, InvalidOptionError, TextError

from .. import _output
from .._options import ArtifactArgument, Json, Revision, Token

_STDIN = "stdin"


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
    asked, lines = _rows(texts, file, pair, context, choice)
    with _output.progress() as progress:
        progress("loading")
        from neuronbert import Predictor

        predictor = Predictor.from_pretrained(artifact, revision=revision, token=token, workers=workers)
    with predictor.session, _placed(str(file or _STDIN), lines):
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
) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows, and the line of each where they have one."""
    if file is not None:
        if texts or pair or context or choices:
            raise InvalidOptionError("--file", str(file), "used without texts, --pair, --context and --choice")
        numbered = rows.read(file)
        return [row for _, row in numbered], [number for number, _ in numbered]
    if (pair, context, choices).count(None) < 2:
        raise InvalidOptionError("--pair", pair, "used without --context and --choice, which are for other tasks")
    piped = [] if texts or sys.stdin is None or sys.stdin.isatty() else list(rows.texts(_STDIN, sys.stdin))
    given = [_row(text, pair, context, choices) for text in texts or (text for _, text in piped)]
    return given, [number for number, _ in piped]


def _row(text: str, pair: str | None, context: str | None, choices: list[str] | None) -> dict[str, Any]:
    if context is not None:
        return {"question": text, "context": context}
    if choices:
        return {"text": text, "choices": choices}
    return {"text": text} if pair is None else {"text": text, "text_pair": pair}


@contextmanager
def _placed(source: str, lines: list[int]) -> Iterator[None]:
    # What is wrong with a row that was read is told by its line.
    try:
        yield
    except TextError as error:
        if not lines:
            raise
        raise DataFileError(source, lines[error.row], error.problem.rstrip(".")) from error


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
