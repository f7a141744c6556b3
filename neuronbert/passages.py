"""Texts to batches for a model to look at: what it is calibrated with, or learns from.

Owns: what a row's texts are, whatever its task, and the sample that needs no file. Knows nothing of models.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from neuronbert import rows
from neuronbert.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

SAMPLE: Final = "sample"
"""In place of a file: passages of the documentation that comes with Python."""
_BATCH: Final = 8
_LEAST_PASSAGE: Final = 200
"""Characters. What is shorter is a heading or a rule of a grammar."""
_TEXTS: Final = (("question", "context"), ("prompt", "choices"), ("text", "text_pair"))
"""What a row of each task's file calls its texts."""


def read(data: str | os.PathLike[str] | Iterable[Mapping[str, Any] | str]) -> Iterator[tuple[str, ...]]:
    """The texts of each row: one, or a pair; of a row with choices, a pair for each.

    Args:
        data: A file (see `rows.stream`), "-" for stdin, rows, texts, or "sample".

    Raises:
        MissingFileError: there is no such file.
        DataFileError: a row has no text.
    """
    if isinstance(data, str | os.PathLike):
        if str(data) == SAMPLE:
            yield from ((text,) for text in sample())
            return
        for number, row in rows.stream(str(data)):
            yield from _texts(row, data, number)
        return
    for number, item in enumerate(data, start=1):
        yield from _texts({"text": item} if isinstance(item, str) else item, "The data", number)


def _texts(row: Mapping[str, Any], source: object, number: int) -> Iterator[tuple[str, ...]]:
    for first, second in _TEXTS:
        if first not in row:
            continue
        others = row[second] if isinstance(row.get(second), list) else [row.get(second)]
        for other in others:
            texts = tuple(text for text in (row[first], other) if text is not None)
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataFileError(source, number, f"its {first} or {second} is no text, or empty")
            yield texts
        return
    names = ", ".join(first for first, _ in _TEXTS)
    raise DataFileError(source, number, f"it has none of {names}")


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
        texts: What `read` gives.
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
