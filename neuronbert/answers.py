"""Rows of text to calls, one reader for each task.

Owns: READERS. A row is a mapping as it stands in a JSON Lines file. Knows nothing of programs or artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert import decoding, spans
from neuronbert.decoding import Call
from neuronbert.errors import (
    EmptyInputError,
    EmptyTextError,
    InvalidTextError,
    MissingTextError,
    NoMaskError,
    NotATextError,
    QuestionTooLongError,
    TextError,
)
from neuronbert.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from neuronbert.decoding import Item, Reply, Row

_ROWS: Final = "The list of texts"


@dataclass(frozen=True, slots=True)
class Reader:
    """How one task reads a row and words an answer.

    Attributes:
        fields: What a row must have: the names of texts.
        decode: A call and its outputs to an answer for each row; or, with `merge`, to what each window tells of it.
        optional: A second text that a row may have.
        many: The field that holds several texts, for multiple choice.
        merge: A row and what its windows tell, to its answer. Only such tasks can be answered window by window.
        cut: Which text is cut into windows: the first (0) or the second (1).
    """

    fields: tuple[str, ...]
    decode: Callable[[Call, Mapping[str, Tensor]], list[Any]]
    optional: str = ""
    many: str = ""
    merge: Callable[[Row, Sequence[Any]], Reply] | None = None
    cut: int = 0


def encode(task: str, tokenizer: Any, rows: Sequence[Row], *, max_length: int | None = None, **options: Any) -> Call:
    """Tokenize rows for a task into one call, padded to the longest.

    Args:
        task: A canonical task name.
        tokenizer: A fast tokenizer.
        rows: What to answer; for multiple choice all with as many choices.
        max_length: Truncate to so many tokens.
        options: As in Call.

    Raises:
        TextError: a row lacks a text, or has an empty one.
    """
    return assemble(task, tokenizer, rows, tokenize(task, tokenizer, rows, max_length=max_length), **options)


def decode(task: str, call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """An answer for each row of a call that holds the whole of each."""
    reader = READERS[task]
    found = reader.decode(call, outputs)
    return [reader.merge(row, [part]) for row, part in zip(call.rows, found, strict=True)] if reader.merge else found


def tokenize(task: str, tokenizer: Any, rows: Sequence[Row], *, max_length: int | None = None) -> list[Item]:
    """Tokenize rows for a task, without padding.

    Args:
        task: A canonical task name.
        tokenizer: A fast tokenizer.
        rows: What to answer.
        max_length: Truncate to so many tokens.

    Raises:
        TextError: a row lacks a text, or has an empty one; it says which row.
    """
    if not rows:
        raise EmptyInputError(_ROWS)
    reader = READERS[task]
    check_all(task, rows)
    texts = [(place, pair) for place, row in enumerate(rows) for pair in pairs_of(task, row)]
    try:
        windows = iter(_tokenize(task, tokenizer, [pair for _, pair in texts], max_length))
    except TextError as error:
        raise error.of_row(texts[error.row][0]) from None
    items = [tuple(islice(windows, len(row[reader.many]) if reader.many else 1)) for row in rows]
    if task == "fill-mask":
        for place, (window,) in enumerate(items):
            if tokenizer.mask_token_id not in window.take("ids"):
                raise NoMaskError(tokenizer.mask_token).of_row(place)
    return items


def _tokenize(task: str, tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int | None) -> list[Window]:
    # Texts and pairs can't share a call of the tokenizer. The row that an error names is the place of a text or pair.
    windows: dict[int, Window] = {}
    for size in sorted({len(text) for text in texts}):
        places = [place for place, text in enumerate(texts) if len(text) == size]
        firsts, *seconds = ([texts[place][side] for place in places] for side in range(size))
        encoded = tokenizer(
            firsts,
            *seconds,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a text that is too long is the program's to refuse
            **_truncation(task, tokenizer, firsts, max_length),
        )
        for place, encoding in zip(places, encoded.encodings, strict=True):
            windows[place] = Window.whole(encoding)
            _check_visible(encoding, size, place)
    return [windows[place] for place in range(len(texts))]


def _check_visible(encoding: Any, texts: int, place: int) -> None:
    found = set(encoding.sequence_ids)
    for sequence, name in enumerate(("text", "second text")[:texts]):
        if sequence not in found:  # white space of a kind that the tokenizer drops
            raise EmptyTextError(name).of_row(place)


def assemble(task: str, tokenizer: Any, rows: Sequence[Row], items: Sequence[Item], **options: Any) -> Call:
    """Tokenized rows as one call, padded to the longest.

    Args:
        task: A canonical task name.
        tokenizer: The one that they are from.
        rows: The rows; for multiple choice all with as many choices.
        items: What they, or windows of them, were tokenized to.
        options: As in Call.
    """
    windows = [window for item in items for window in item]
    width = max(map(len, windows))
    padding = tokenizer.pad_token_id or 0
    inputs = {
        "input_ids": [[*window.take("ids"), *repeat(padding, width - len(window))] for window in windows],
        "attention_mask": [[*repeat(1, len(window)), *repeat(0, width - len(window))] for window in windows],
    }
    if "token_type_ids" in tokenizer.model_input_names:
        filling = tokenizer.pad_token_type_id
        inputs["token_type_ids"] = [
            [*window.take("type_ids"), *repeat(filling, width - len(window))] for window in windows
        ]
    dims = (len(items), len(items[0]), width) if READERS[task].many else (len(items), width)
    return Call(rows, items, {name: torch.tensor(ids).view(dims) for name, ids in inputs.items()}, tokenizer, **options)


def _truncation(task: str, tokenizer: Any, firsts: list[str], max_length: int | None) -> dict[str, Any]:
    if max_length is None:
        return {}
    if task != "question-answering":
        return {"truncation": "longest_first", "max_length": max_length}
    around = tokenizer.num_special_tokens_to_add(pair=True)  # RoBERTa has a separator more than BERT
    for place, ids in enumerate(tokenizer(firsts, add_special_tokens=False, verbose=False)["input_ids"]):
        if len(ids) + around >= max_length:
            raise QuestionTooLongError(len(ids) + around, max_length).of_row(place)
    return {"truncation": "only_second", "max_length": max_length}


def check_all(task: str, rows: Sequence[Row]) -> None:
    """`check` of each row.

    Raises:
        TextError: it says which row, and what is wrong with it.
    """
    for place, row in enumerate(rows):
        try:
            check(task, row)
        except TextError as error:
            raise error.of_row(place) from None


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
        _check_text(name, _given(row, name), "a text")
    if reader.many:
        texts, expected = _given(row, reader.many), "a list of texts, one or more"
        if not isinstance(texts, list) or not texts:
            raise NotATextError(reader.many, texts, expected)
        for text in texts:
            _check_text(reader.many, text, expected)


def _given(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise MissingTextError(name, [other for other in row if other != name])
    return row[name]


def _check_text(name: str, text: object, expected: str) -> None:
    if not isinstance(text, str):
        raise NotATextError(name, text, expected)
    if not text.strip():
        raise EmptyTextError(name)
    check_encodable(name, text)


def check_encodable(name: str, text: str) -> None:
    """Refuse a text that no tokenizer takes.

    Raises:
        InvalidTextError: it holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(name) from error


def names(task: str) -> set[str]:
    """What the texts are called that a row may have."""
    reader = READERS[task]
    return {name for name in (*reader.fields, reader.optional, reader.many) if name}


def size(task: str, row: Row) -> int:
    """The characters that are tokenized for a row that `check` has passed."""
    return sum(len(text) for pair in pairs_of(task, row) for text in pair)


def pairs_of(task: str, row: Row) -> list[tuple[str, ...]]:
    """What is tokenized for a row that `check` has passed: a text, or a pair; of a row with choices a pair for each."""
    reader = READERS[task]
    first = row[reader.fields[0]]
    if reader.many:
        return [(first, text) for text in row[reader.many]]
    second = row.get(reader.fields[1] if len(reader.fields) > 1 else reader.optional)
    return [(first,) if second is None else (first, second)]


READERS: Final[Mapping[str, Reader]] = {
    "feature-extraction": Reader(("text",), decoding.decode_embedding, optional="text_pair"),
    "fill-mask": Reader(("text",), decoding.decode_fill_mask),
    "text-classification": Reader(("text",), decoding.decode_label, optional="text_pair"),
    "token-classification": Reader(("text",), spans.read_labels, merge=spans.word_entities),
    "question-answering": Reader(("question", "context"), spans.read_ends, merge=spans.word_span, cut=1),
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
