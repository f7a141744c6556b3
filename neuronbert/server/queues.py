"""Rows that wait.

Owns: what a request and its rows are while they wait, and the queue of one length. Knows nothing of bounds or clients.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SLACK: Final = 64
"""Entries of what is gone, which may lie about before they are swept."""


@dataclass(eq=False, slots=True)
class Request:
    """What one client asked for at once.

    Attributes:
        client: Who asked: clients take turns.
        size: Its bytes.
        rows: How many of its rows have not ended.
        waiting: Those that wait; None until they were queued.
    """

    client: str
    size: int
    rows: int
    waiting: set[Row] | None = None


@dataclass(eq=False, slots=True)
class Row:
    """One row that waits or runs.

    Attributes:
        request: What it is part of.
        item: The caller's own; None once the row was dropped.
        length: The sequence length of the programs that it waits for.
        turn: Its place in the order; among equals, that of its arrival.
    """

    request: Request
    item: Any
    length: int
    turn: tuple[int, int]

    def __lt__(self, other: Row) -> bool:
        return self.turn < other.turn


class Queue:
    """Rows that wait for programs of one length, in the order of their turns.

    Args:
        sizes: The compiled batch sizes, the smallest first.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._heap: list[Row] = []
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dropped

    def __iter__(self) -> Iterator[Row]:
        return filter(_waits, self._heap)

    def push(self, row: Row) -> None:
        """Let a row wait."""
        heapq.heappush(self._heap, row)

    def head(self) -> Row:
        """The row whose turn comes first; there must be one."""
        while not _waits(self._heap[0]):
            heapq.heappop(self._heap)
            self._dropped -= 1
        return self._heap[0]

    def pop(self) -> Row:
        """The same, which doesn't wait any more."""
        self.head()
        return heapq.heappop(self._heap)

    def drop(self, rows: int) -> None:
        """Take note that some rows, wherever they are, do not wait any more: all that were marked so since."""
        # One by one, a sweep would take out those that are still to be told of, and they would be counted twice.
        self._dropped += rows
        if self._dropped > len(self) + SLACK:
            self._heap = list(self)
            heapq.heapify(self._heap)
            self._dropped = 0

    def fit(self) -> int:
        """The batch size that runs next: the largest that the rows fill, or the smallest if they fill none."""
        return max((size for size in self._sizes if size <= len(self)), default=self._sizes[0])


def _waits(row: Row) -> bool:
    return row.request.waiting is not None and row in row.request.waiting
