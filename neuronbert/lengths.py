"""Rows of text to a histogram of their lengths, and to what a row of a length costs the model.

Owns: counting tokens with the checkpoint's own tokenizer, a block of rows at a time. Knows nothing of programs.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert import inputs, modeling, passages, sources, tokenization
from neuronbert.architectures import find_head
from neuronbert.buckets import Operations
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import DataFileError, EmptyInputError, InvalidOptionError
from neuronbert.preflight.recording import record
from neuronbert.shapes import StaticShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from neuronbert.decoding import Row
    from neuronbert.modeling import LoadedHead
    from neuronbert.spec import ExportSpec

logger = logging.getLogger("neuronbert")

_SAMPLE: Final = "The sample of texts"
_ROWS: Final = 1024
_CHARACTERS: Final = 1 << 20
"""A block ends with the row that reaches either."""
_PROBE: Final = 64
"""Tokens of the longest program whose operations are counted; those of longer ones follow."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of the rows of a sample.

    Attributes:
        counts: How many rows there are of each length in tokens, special ones included; those that are cut have the
            limit's length.
        cut: How many rows are longer than the limit.
        limit: The longest row that is taken.
        cost: What a row of a length costs the model: the operations of its matrix products.
    """

    counts: Mapping[int, int]
    cut: int
    limit: int
    cost: Operations

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(self.counts.values())

    @property
    def longest(self) -> int:
        """The length of the longest of them."""
        return max(length for length, count in self.counts.items() if count)

    def up_to(self, longest: int) -> Lengths:
        """The same rows, cut at a length of the caller's, which is kept even if no row has it.

        Raises:
            InvalidOptionError: it is more than the limit.
        """
        if not 0 < longest <= self.limit:
            raise InvalidOptionError("sequence_length", longest, f"from 1 to the model's {self.limit} tokens")
        counts = Counter({longest: 0})
        for length, count in self.counts.items():
            counts[min(length, longest)] += count
        more = sum(count for length, count in self.counts.items() if longest < length)
        return Lengths(dict(counts), max(more, self.cut), longest, self.cost)


def count_lengths(
    spec: ExportSpec,
    texts: str | os.PathLike[str] | Iterable[Row],
    *,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Lengths:
    """Tokenize a sample of texts as the model's user will, and count the lengths.

    However many there are, little memory is taken: rows are read a block at a time, and only counts are kept.

    Args:
        spec: What would be exported: model, revision and task; the choices of its first shape count for a row's cost,
            and the rest plays no part.
        texts: A file of rows (see `rows.stream`), "-" for stdin, or rows: mappings with the texts that the task takes.
        token: For the Hub; None takes the one that is logged in.
        progress: Told what is being done.

    Raises:
        UsageError: the spec makes no program, or a row lacks a text that the task takes.
        DataError: the checkpoint is broken or unsafe.
        UnavailableError: the model, its tokenizer or the file isn't there.
    """
    progress("finding the checkpoint")
    with sources.opened(spec.model, revision=spec.revision, token=token, progress=progress) as (_, checkpoint):
        task = canonical_task(spec.task, checkpoint)
        find_head(checkpoint.architecture, task)
        tokenizer = tokenization.require(checkpoint.path)
        limit = checkpoint.max_sequence_length
        counts, cut = _count(task, tokenizer, texts, limit, progress)
        progress("loading the weights")
        loaded = modeling.load(checkpoint, task, allow_random_weights=spec.allow_random_weights)
    return Lengths(counts, cut, limit, count_operations(loaded, limit, spec.shapes[0].num_choices))


def count_operations(loaded: LoadedHead, limit: int, choices: int | None = None) -> Operations:
    """What a head's matrix products take for a row: each has one or two dimensions of the row's length, or none.

    Args:
        loaded: The head.
        limit: The longest row that it takes.
        choices: Choices to a question.
    """
    longest = min(limit, _PROBE)
    shapes = [StaticShape(1, length, choices) for length in sorted({-(-longest // 4), -(-longest // 2), longest})]
    graphs = {shape.sequence_length: record(loaded.head, inputs.example(loaded.inputs, shape)) for shape in shapes}
    return Operations.through({length: graph.flops for length, graph in graphs.items()})


def _count(
    task: str,
    tokenizer: Any,
    texts: str | os.PathLike[str] | Iterable[Row],
    limit: int,
    progress: Callable[[str], None],
) -> tuple[dict[int, int], int]:
    counts: Counter[int] = Counter()
    cut = read = 0
    for block in _blocks(task, texts):
        for length in _tokens(tokenizer, block):
            counts[min(length, limit)] += 1
            cut += length > limit
        read += len(block)
        progress(f"{read:,} rows read")
    if not read and isinstance(texts, str | os.PathLike):
        raise DataFileError(texts, 0, "it holds no rows")
    if not read:
        raise EmptyInputError(_SAMPLE)
    return dict(counts), cut


def _blocks(task: str, texts: str | os.PathLike[str] | Iterable[Row]) -> Iterator[list[list[tuple[str, ...]]]]:
    """Blocks of rows, each row as the texts or pairs that are tokenized for it."""
    block: list[list[tuple[str, ...]]] = []
    characters = 0
    for row in passages.read(task, texts):
        block.append(row)
        characters += sum(len(text) for pair in row for text in pair)
        if len(block) == _ROWS or characters >= _CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _tokens(tokenizer: Any, block: list[list[tuple[str, ...]]]) -> list[int]:
    """The length of each row; of one with several choices, that of the longest."""
    lengths = [1] * len(block)
    for width in (1, 2):
        some = [(index, texts) for index, row in enumerate(block) for texts in row if len(texts) == width]
        if some:
            columns = (list(column) for column in zip(*(texts for _, texts in some), strict=True))
            ids = tokenizer(*columns, return_attention_mask=False, return_token_type_ids=False, verbose=False)
            for (index, _), row in zip(some, ids["input_ids"], strict=True):
                lengths[index] = max(lengths[index], len(row))
    return lengths
