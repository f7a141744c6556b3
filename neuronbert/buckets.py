"""Lengths of rows to the sequence lengths that programs are compiled for.

Owns: the choice of buckets and its figures: exact, over a histogram. Knows nothing of texts, models or files.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from neuronbert.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Cost = Callable[[int], float]
"""What a row of so many tokens costs, padding included, in any unit."""


def tokens(length: int) -> int:
    """The cost of a row if every token costs the same."""
    return length


@dataclass(frozen=True, slots=True)
class Operations:
    """The cost of a row, counted: what an encoder's matrix products multiply and add.

    Attributes:
        constant: For a row, whatever its length: a pooler, a classifier.
        linear: For each token: projections, feed-forward layers, a vocabulary.
        quadratic: For each pair of tokens: the two products of attention.
    """

    constant: int
    linear: int
    quadratic: int

    def __call__(self, length: int) -> int:
        """The operations of a row of so many tokens."""
        return self.constant + length * (self.linear + length * self.quadratic)

    @classmethod
    def through(cls, counted: Mapping[int, int]) -> Operations:
        """The cost of which the operations of at most three lengths are known, to whole operations."""
        terms = [Fraction(0)] * 3
        for length, operations in counted.items():
            others = [other for other in counted if other != length]
            scale = Fraction(operations, math.prod(length - other for other in others))
            powers = (
                [1] if not others else [-others[0], 1] if len(others) == 1 else [math.prod(others), -sum(others), 1]
            )
            for place, value in enumerate(powers):
                terms[place] += scale * value
        return cls(*map(round, terms))


@dataclass(frozen=True, slots=True)
class Bucket:
    """One program and the rows it serves.

    Attributes:
        sequence_length: The tokens that its rows are padded to.
        batch_size: The rows of a call.
        rows: How many of the rows it serves.
        tokens: The tokens of these rows, without padding.
    """

    sequence_length: int
    batch_size: int
    rows: int
    tokens: int

    @property
    def calls(self) -> int:
        """How many calls they take; the last may be short of rows, and costs as much."""
        return -(-self.rows // self.batch_size)

    @property
    def program_tokens(self) -> int:
        """The tokens that the program computes for them, with those of padding."""
        return self.calls * self.batch_size * self.sequence_length

    @property
    def padding(self) -> float:
        """The share of padding among these, from 0 to 1."""
        return 1 - self.tokens / self.program_tokens if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Buckets:
    """Programs for rows of mixed lengths, each row in the shortest that it fits in.

    Attributes:
        buckets: The programs, shortest first.
        cost: What all calls cost together, in the unit of a row's cost.
    """

    buckets: tuple[Bucket, ...]
    cost: float

    @property
    def lengths(self) -> tuple[int, ...]:
        """The sequence length of every program."""
        return tuple(bucket.sequence_length for bucket in self.buckets)

    @property
    def program_tokens(self) -> int:
        """The tokens that the programs compute, with those of padding."""
        return sum(bucket.program_tokens for bucket in self.buckets)

    @property
    def padding(self) -> float:
        """The share of padding among these, from 0 to 1."""
        return 1 - sum(bucket.tokens for bucket in self.buckets) / max(1, self.program_tokens)


def choose_buckets(
    lengths: Mapping[int, int] | Iterable[int], max_buckets: int, *, batch_size: int = 1, cost: Cost = tokens
) -> Buckets:
    """The sequence lengths that compute given rows at the least cost: no other choice of as many costs less.

    Each row goes to the shortest bucket that it fits in, and the rows of a bucket go in calls of the batch size, of
    which the last is filled with padding. There are fewer buckets than asked for where more would save nothing. The
    longest length gets a bucket even if it has 0 rows: it is what the longest text may be.

    Args:
        lengths: The tokens of each row; or how many rows there are of each length.
        max_buckets: How many there may be at most.
        batch_size: Rows of a call.
        cost: What a row of a length costs: no less than a shorter one. By default its tokens.

    Raises:
        InvalidOptionError: there are no lengths, or a number is out of range.

    Example:
        >>> from neuronbert import choose_buckets
        >>> choose_buckets([5, 6, 6, 30], 2).lengths
        (6, 30)
    """
    histogram = _histogram(lengths)
    _check_count("max_buckets", max_buckets)
    _check_count("batch_size", batch_size)
    ends = sorted(histogram)
    costs = _costs(cost, ends)
    rows = [histogram[end] for end in ends]
    chosen = _cheapest(rows, costs, batch_size, min(max_buckets, len(ends)))
    return measure(histogram, [ends[place] for place in chosen], batch_size=batch_size, cost=cost)


def measure(
    lengths: Mapping[int, int] | Iterable[int], buckets: Sequence[int], *, batch_size: int = 1, cost: Cost = tokens
) -> Buckets:
    """What given sequence lengths cost, as `choose_buckets` counts it.

    Raises:
        InvalidOptionError: a row is longer than all of them.
    """
    histogram, ends = _histogram(lengths), sorted(set(buckets))
    if not ends or max(histogram) > ends[-1]:
        raise InvalidOptionError("buckets", ends, f"lengths of which one takes {max(histogram)} tokens")
    rows, held = [0] * len(ends), [0] * len(ends)
    for length, count in histogram.items():
        place = bisect_left(ends, length)
        rows[place] += count
        held[place] += count * length
    made = tuple(Bucket(end, batch_size, *figures) for end, *figures in zip(ends, rows, held, strict=True))
    return Buckets(made, sum(bucket.calls * batch_size * cost(bucket.sequence_length) for bucket in made))


def powers_of_two(lengths: Iterable[int], limit: int) -> tuple[int, ...]:
    """The powers of two that rows of these lengths need, and the limit in place of those above it."""
    return tuple(sorted({min(limit, 1 << (length - 1).bit_length()) for length in lengths}))


def _histogram(lengths: Mapping[int, int] | Iterable[int]) -> dict[int, int]:
    pairs = dict(lengths if isinstance(lengths, Mapping) else Counter(lengths))
    longest = max(pairs, default=0)
    for length, rows in pairs.items():
        _check_count("a length", length)
        if _as_int(rows) < 0:
            name = f"the rows of length {length}"
            raise InvalidOptionError(name, rows, "a whole number, 0 or more")
    if not sum(pairs.values()):
        raise InvalidOptionError("lengths", "empty", "those of at least one row")
    return {int(length): int(rows) for length, rows in pairs.items() if rows or length == longest}


def _as_int(value: Any) -> int:
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def _check_count(name: str, value: Any) -> None:
    if _as_int(value) < 1:
        raise InvalidOptionError(name, value, "a whole number, 1 or more")


def _costs(cost: Cost, ends: Sequence[int]) -> list[float]:
    costs: list[float] = []
    for end in ends:
        value = cost(end)
        if not math.isfinite(value) or value < (costs[-1] if costs else 0):
            raise InvalidOptionError(f"cost({end})", value, "a finite number, no less than a shorter row's")
        costs.append(value)
    return costs


def _cheapest(rows: Sequence[int], costs: Sequence[float], batch_size: int, most: int) -> list[int]:
    """The places of the lengths to take, the last of them included, by dynamic programming.

    The first `end` lengths in at most k buckets cost the least of: the first `start` in at most k - 1, and the rest in
    one. Partial calls spoil the inequality that faster methods rest on, so all pairs are tried.

    Args:
        rows: How many there are of each length.
        costs: Of a row of each length.
        batch_size: Rows of a call.
        most: How many may be taken.
    """
    size, total = len(rows), sum(rows)
    whole = all(isinstance(cost, int) for cost in costs)
    # 64 bits hold whole numbers exactly, unless they are huge: Python's own are slower, and exact as well.
    small = max(total, costs[-1] * (total // batch_size + most)) < 1 << 62
    price = np.array(costs, dtype=(np.int64 if whole else np.float64) if small else object)
    before = np.array([0, *accumulate(rows)], dtype=np.int64 if small else object)

    def last(end: int) -> Any:
        return -((before[:end] - before[end]) // batch_size) * price[end - 1]

    best = np.zeros((most, size + 1), dtype=price.dtype)
    for end in range(1, size + 1):
        tail = last(end)
        best[0, end] = tail[0]
        if most > 1:
            best[1:, end] = (best[:-1, :end] + tail).min(axis=1)
    end, row = size, int(best[:, size].argmin())
    chosen = []
    while end:
        chosen.append(end - 1)
        end = int((best[row - 1, :end] + last(end)).argmin()) if row else 0
        row -= 1
    return chosen[::-1]
