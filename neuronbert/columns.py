"""Rows as columns, as `datasets` has them.

Owns: columns to rows, and answers to columns. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuronbert.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def to_rows(batch: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """One mapping for each row.

    Args:
        batch: Columns by name, all of one length.

    Raises:
        InvalidOptionError: they aren't columns, or of several lengths.
    """
    if not isinstance(batch, Mapping):
        raise InvalidOptionError("batch", type(batch).__name__, 'columns by name, as in {"text": ["A.", "B."]}')
    for name, column in batch.items():
        if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
            raise InvalidOptionError(name, type(column).__name__, "a column: a list with an entry for each row")
    sizes = {name: len(column) for name, column in batch.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidOptionError("batch", sizes, "columns of one length")
    return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


def from_replies(replies: Sequence[Mapping[str, Any]], kept: Iterable[str]) -> dict[str, list[Any]]:
    """One column for each part of answers that have the same parts.

    Args:
        replies: The answers.
        kept: Columns that none of these may replace: `map` would, and a gold label be lost.

    Raises:
        InvalidOptionError: one would.
    """
    for name in kept:
        if name in replies[0]:
            others = f"called otherwise, as the answers have a {name} of their own: rename_column({name!r}, ...)"
            raise InvalidOptionError("column", name, others)
    return {name: [reply[name] for reply in replies] for name in replies[0]}
