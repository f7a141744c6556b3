"""Rows to the texts that are tokenized for them, and to batches for a model to look at or learn from.

Owns: reading rows for their texts alone, and the sample that needs no file. Knows nothing of models.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from neuronbert import answers, rows
from neuronbert.errors import DataFileError, TextError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

SAMPLE: Final = "sample"
"""In place of a file: passages of the documentation that comes with Python."""
_TEXTS: Final = "feature-extraction"
"""The task whose rows are a text."""
_BATCH: Final = 8
_LEAST_PASSAGE: Final = 200
"""Characters. What is shorter is a heading or a rule of a grammar."""


def read(
    task: str, data: str | os.PathLike[str] | Iterable[Mapping[str, Any] | str], *, plain: bool = False
) -> Iterator[list[tuple[str, ...]]]:
    """What is tokenized for each row: a text, or a pair; of a row with choices, a pair for each.

    Args:
        task: Of the head: it says what a row's texts are called.
        data: A file (see `rows.stream`), "-" for stdin, rows, texts, or "sample".
        plain: A row of one text and nothing else will do, also for a task that takes more.

    Raises:
        MissingFileError: there is no such file.
        DataFileError: a row of it lacks a text.
        TextError: one of the rows that are given does.
    """
    if isinstance(data, str | os.PathLike):
        if str(data) == SAMPLE:
            for text in sample():
                yield [(text,)]
        else:
            yield from _read_file(task, os.fspath(data), plain=plain)
        return
    for place, item in enumerate(data):
        row = {"text": item} if isinstance(item, str) else item
        try:
            yield _pairs(task, row, plain=plain)
        except TextError as error:
            raise error.of_row(place) from None


def _read_file(task: str, path: str, *, plain: bool) -> Iterator[list[tuple[str, ...]]]:
    for number, row in rows.stream(path):
        try:
            yield _pairs(task, row, plain=plain)
        except TextError as error:
            raise DataFileError(path, number, str(error).rstrip(".")) from error


def _pairs(task: str, row: Mapping[str, Any], *, plain: bool) -> list[tuple[str, ...]]:
    kind = _TEXTS if plain and set(row) == {"text"} else task
    answers.check(kind, row)
    return answers.pairs_of(kind, row)


def sample() -> Iterator[str]:
    """Passages of the documentation that comes with Python: English prose, on any machine."""
    from pydoc_data.topics import topics  # noqa: PLC0415  it is large, and rarely asked for

    for name in sorted(topics):
        for passage in topics[name].split("\n\n"):
            text = " ".join(passage.split())
            if len(text) >= _LEAST_PASSAGE:
                yield text


def batches(texts: Iterator[tuple[str, ...]], tokenizer: Any, length: int) -> Iterator[dict[str, Tensor]]:
    """Texts in batches, tokenized and padded to the longest of each.

    Args:
        texts: Of rows as `read` gives them, one after the other.
        tokenizer: A tokenizer.
        length: Tokens that a row is cut to.
    """
    while block := list(islice(texts, _BATCH)):
        for size in sorted({len(item) for item in block}):  # texts and pairs can't share a call of the tokenizer
            columns = zip(*(item for item in block if len(item) == size), strict=True)
            encoded = tokenizer(
                *map(list, columns),
                padding=True,
                truncation=True,
                max_length=length,
                return_tensors="pt",
                verbose=False,
            )
            yield dict(encoded)
