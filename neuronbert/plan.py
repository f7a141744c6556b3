"""Which rows go together into which call, so that a list of rows of any lengths costs least.

Owns: Planner. Integers only: lengths in, shapes and places of rows out. Knows nothing of tensors, texts or models.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuronbert.errors import SequenceTooLongError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from neuronbert.shapes import StaticShape

CALL_TOKENS: Final = 24
"""What a call costs besides its tokens, in tokens: 18 to 28 by the times of eight programs of all-MiniLM-L6-v2 from
1x16 to 8x128 on one thread. It decides whether seven rows go one by one or as eight."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call.

    Attributes:
        shape: The program that runs it.
        rows: The places of its rows in the caller's list; as many as the program takes, or fewer.
    """

    shape: StaticShape
    rows: list[int]


@dataclass(frozen=True, slots=True)
class _Level:
    """Rows that need at least one sequence length, and what can run them.

    Attributes:
        length: The sequence length.
        choices: For each batch size the cheapest shape that is long enough, and its cost; the largest batch first.
        best: The one of them with the least cost for a row.
    """

    length: int
    choices: tuple[tuple[int, float, StaticShape], ...]
    best: tuple[int, float, StaticShape]


class Planner:
    """Splits rows over calls at the least cost there is for these shapes.

    A plan is exact: in the order of their lengths, longest first, rows can be dealt out to calls in one piece each
    (exchanging two rows between calls never makes either longer), so the best plan is a shortest path over the rows.

    Args:
        costs: What is compiled, and what a call of each costs, in any unit; by default `call_costs`.
    """

    def __init__(self, costs: Mapping[StaticShape, float]) -> None:
        self._most = max(shape.batch_size for shape in costs)
        lengths = sorted({shape.sequence_length for shape in costs}, reverse=True)
        self._levels = [_level(length, costs) for length in lengths]

    def plan(self, lengths: Sequence[int]) -> list[Step]:
        """The calls for rows of these lengths, longest first; each row is in exactly one of them.

        Raises:
            SequenceTooLongError: a row is longer than every shape.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        if not order:
            return []
        longest = self._levels[0].length
        too_long = bisect_left(order, -longest, key=lambda row: -lengths[row])
        if too_long:
            raise SequenceTooLongError(lengths[order[0]], longest, row=order[0], others=too_long - 1)
        counts = self._count(lengths, order)
        return list(self._steps(order, counts))

    def _count(self, lengths: Sequence[int], order: Sequence[int]) -> list[int]:
        # Rows of each level: those that are too long for the next shorter one.
        bounds = [bisect_left(order, -level.length, key=lambda row: -lengths[row]) for level in self._levels]
        return [after - first for first, after in zip(bounds, [*bounds[1:], len(order)], strict=True)]

    def _steps(self, order: list[int], counts: list[int]) -> Iterator[Step]:
        bulks = [self._bulk(level, count) for level, count in zip(self._levels, counts, strict=True)]
        kept = [count - bulk * level.best[0] for level, count, bulk in zip(self._levels, counts, bulks, strict=True)]
        chosen = self._choose(kept)
        place = first = 0  # among those that are kept, and among all
        end = 0
        for level, rows, bulk in zip(self._levels, kept, bulks, strict=True):
            end += rows
            size, _, shape = level.best
            if place < end:
                for _ in range(bulk):
                    yield Step(shape, order[first : first + size])
                    first += size
            while place < end:
                size, _, shape = chosen[place]
                yield Step(shape, order[first : first + size])
                place, first = place + size, first + size

    def _bulk(self, level: _Level, rows: int) -> int:
        """Calls of the best shape of a level that every best plan may be taken to have.

        Of n calls of other sizes, n being the best size, some add up to a multiple of it, and can be replaced at no
        cost: a best plan has fewer than n of them. So there are few rows of a level to choose for, however many it has.
        """
        size = level.best[0]
        return max(0, rows // size - self._most)

    def _choose(self, counts: Sequence[int]) -> list[tuple[int, float, StaticShape]]:
        # From the last row to the first: the cheapest call that begins with a row, and what all from there on cost.
        rows = sum(counts)
        costs = [0.0] * (rows + self._most)
        chosen: list[tuple[int, float, StaticShape]] = [self._levels[0].best] * rows
        for level, count in zip(reversed(self._levels), reversed(counts), strict=True):
            for place in range(rows - 1, rows - count - 1, -1):
                least = float("inf")
                for choice in level.choices:
                    cost = choice[1] + costs[place + choice[0]]
                    if cost < least:
                        least, chosen[place] = cost, choice
                costs[place] = least
            rows -= count
        return chosen


def call_costs(shapes: Iterable[StaticShape]) -> dict[StaticShape, float]:
    """What a call of each shape costs as far as its size tells: its tokens and what every call takes, in tokens."""
    return {shape: shape.tokens + CALL_TOKENS for shape in shapes}


def _level(length: int, costs: Mapping[StaticShape, float]) -> _Level:
    enough = [(cost, shape) for shape, cost in costs.items() if shape.sequence_length >= length]
    cheapest: dict[int, tuple[int, float, StaticShape]] = {}
    for cost, shape in sorted(enough, key=lambda item: (item[0], item[1].sequence_length)):
        cheapest.setdefault(shape.batch_size, (shape.batch_size, cost, shape))
    choices = tuple(cheapest[size] for size in sorted(cheapest, reverse=True))
    return _Level(length, choices, min(choices, key=lambda choice: choice[1] / choice[0]))
