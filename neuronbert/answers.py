"""Rows of text to calls, one reader for each task.

Owns: READERS. A row is a mapping as it stands in a JSON Lines file. Knows nothing of programs or artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert import decoding
from neuronbert.decoding import Call
from neuronbert.errors import (
    EmptyInputError,
    EmptyTextError,
    InvalidTextError,
    MissingTextError,
    QuestionTooLongError,
    UnevenRowsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from neuronbert.decoding import Reply, Row

_ROWS: Final = "The list of texts"


@dataclass(frozen=True, slots=True)
class Reader:
    """How one task reads a row and words an answer.

    Attributes:
        fields: What a row must have: the names of texts.
        decode: A call and its outputs to an answer for each row.
        optional: A second text that a row may have.
        many: The field that holds several texts, for multiple choice.
    """

    fields: tuple[str, ...]
    decode: Callable[[Call, Mapping[str, Tensor]], list[Reply]]
    optional: str = ""
    many: str = ""


def encode(task: str, tokenizer: Any, rows: Sequence[Row], **options: Any) -> Call:
    """Tokenize rows for a task, padded to the longest.

    Args:
        task: A canonical task name.
        tokenizer: A fast tokenizer.
        rows: What to answer.
        options: `max_length` truncates; the rest as in Call.

    Raises:
        TextError: a row lacks a text, or has an empty one.
    """
    if not rows:
        raise EmptyInputError(_ROWS)
    reader = READERS[task]
    for row in rows:
        check(task, row)
    firsts, seconds = _texts(reader, rows)
    truncation = _truncation(task, tokenizer, firsts, options.pop("max_length", None))
    encoding = tokenizer(
        firsts,
        seconds,
        padding=True,
        return_tensors="pt",
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # a text that is too long is the program's to refuse
        **truncation,
    )
    for index in range(len(firsts)):
        found = set(encoding.sequence_ids(index))
        for place, name in enumerate(("text", "second text")[: 1 + (seconds is not None)]):
            if place not in found:  # white space of a kind that the tokenizer drops
                raise EmptyTextError(name)
    inputs = {name: encoding[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoding}
    if reader.many:
        inputs = {name: tensor.view(len(rows), -1, tensor.shape[-1]) for name, tensor in inputs.items()}
    return Call(rows, encoding, inputs, tokenizer, **options)


def _truncation(task: str, tokenizer: Any, firsts: list[str], max_length: int | None) -> dict[str, Any]:
    if max_length is None:
        return {}
    if task != "question-answering":
        return {"truncation": "longest_first", "max_length": max_length}
    for question in firsts:
        taken = len(tokenizer(question)["input_ids"]) + 1  # and the separator after the context
        if taken >= max_length:
            raise QuestionTooLongError(taken, max_length)
    return {"truncation": "only_second", "max_length": max_length}


def check(task: str, row: Row) -> None:
    """Refuse a row that lacks a text that the task takes, or has one that can't be tokenized.

    Raises:
        TextError: it says which.
    """
    reader = READERS[task]
    if not isinstance(row, Mapping):
        raise MissingTextError(reader.fields[0], [type(row).__name__])
    second = [reader.optional] if reader.optional and row.get(reader.optional) is not None else []
    for name in (*reader.fields, *second):
        if not isinstance(row.get(name), str):
            raise MissingTextError(name, list(row))
        _check_text(name, row[name])
    if reader.many:
        texts = row.get(reader.many)
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise MissingTextError(reader.many, list(row))
        for text in texts:
            _check_text(reader.many, text)


def _check_text(name: str, text: str) -> None:
    if not text.strip():
        raise EmptyTextError(name)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(name) from error


def _texts(reader: Reader, rows: Sequence[Row]) -> tuple[list[str], list[str] | None]:
    if reader.many:
        if len({len(row[reader.many]) for row in rows}) > 1:
            raise UnevenRowsError(reader.many)
        firsts = [row[reader.fields[0]] for row in rows for _ in row[reader.many]]
        return firsts, [text for row in rows for text in row[reader.many]]
    firsts = [row[reader.fields[0]] for row in rows]
    name = reader.fields[1] if len(reader.fields) > 1 else reader.optional
    seconds = [row[name] for row in rows if name and row.get(name) is not None]
    if seconds and len(seconds) < len(rows):
        raise UnevenRowsError(name)
    return firsts, seconds or None


READERS: Final[Mapping[str, Reader]] = {
    "feature-extraction": Reader(("text",), decoding.decode_embedding, optional="text_pair"),
    "fill-mask": Reader(("text",), decoding.decode_fill_mask),
    "text-classification": Reader(("text",), decoding.decode_label, optional="text_pair"),
    "token-classification": Reader(("text",), decoding.decode_tokens),
    "question-answering": Reader(("question", "context"), decoding.decode_span),
    "multiple-choice": Reader(("text",), decoding.decode_choice, many="choices"),
    "next-sentence-prediction": Reader(("text", "text_pair"), decoding.decode_next),
    "pre-training": Reader(("text", "text_pair"), decoding.decode_pre_training),
    "text-generation": Reader(("text",), decoding.decode_generation),
    "replaced-token-detection": Reader(("text",), decoding.decode_replaced),
    "sentence-embedding": Reader(("text",), decoding.decode_sentence),
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config.json decides how answers are worded: the options of `encode`."""
    names = config.get("id2label")
    named = names.items() if isinstance(names, dict) else ()
    return {
        "labels": {int(index): str(name) for index, name in named if str(index).isdecimal()},
        "independent": config.get("problem_type") == "multi_label_classification",
    }
