"""Wide integers as limbs of 11 bits in fp32 tensors, for processors whose only exact arithmetic is that of fp32.

Owns: Limbs, and arithmetic on them that is exact by proof: with every number goes the interval that it lies in, worked
out before anything runs, and no sum or product that fp32 might round is ever made. Knows nothing of what the integers
stand for. The operators are sums, products and floors of fp32; a quotient is estimated by a division, and then put
right by its remainder, so that no operator has to be exact where it would leave the whole numbers below 2 ** 24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

BITS: Final = 11
"""Two limbs' product has 22 bits, so that four of them are added up without rounding."""
EXACT: Final = 2**24
"""Every whole number up to here is one of fp32's."""
_BASE: Final = 2**BITS
_ROUGH: Final = 2**14
"""An estimate of a quotient or a root is taken to be right to one part in so many: fp32's own is to 2 ** 23."""


@dataclass(frozen=True, slots=True)
class Limbs:
    """Whole numbers: the sum of `parts[i] * 2 ** (11 * i)`.

    Attributes:
        parts: fp32 tensors of shapes that broadcast, or floats; least first. All but the last are from 0 to 2047; the
            last has the sign.
        least: No number is less.
        most: No number is more.
    """

    parts: tuple[Any, ...]
    least: int
    most: int

    @classmethod
    def of(cls, values: Tensor, least: int, most: int) -> Limbs:
        """Whole numbers that fp32 holds exactly, as limbs.

        Raises:
            OverflowError: the interval has numbers that fp32 doesn't.
        """
        _check(least, most)
        return _carried([[(values, least, most)]], least, most)

    @classmethod
    def scalar(cls, value: int) -> Limbs:
        """One number."""
        return cls(tuple(map(float, digits(value))), value, value)

    def __add__(self, other: Limbs) -> Limbs:
        """The sum."""
        columns = [_bounded(self), _bounded(other)]
        height = max(map(len, columns))
        paired = [[column[index] for column in columns if index < len(column)] for index in range(height)]
        return _carried(paired, self.least + other.least, self.most + other.most)

    def __neg__(self) -> Limbs:
        """The number of the other sign."""
        if self.least == self.most:
            return Limbs.scalar(-self.most)
        columns = [[(-part, -most, -least)] for part, least, most in _bounded(self)]
        return _carried(columns, -self.most, -self.least)

    def __sub__(self, other: Limbs) -> Limbs:
        """The difference."""
        return self + -other

    def __mul__(self, other: Limbs) -> Limbs:
        """The product."""
        columns: list[list[_Term]] = [[] for _ in range(len(self.parts) + len(other.parts) - 1)]
        for row, left in enumerate(_bounded(self)):
            for column, right in enumerate(_bounded(other)):
                columns[row + column].append((left[0] * right[0], *_span(left[1:], right[1:])))
        return _carried(columns, *_span((self.least, self.most), (other.least, other.most)))

    def __rshift__(self, bits: int) -> Limbs:
        """The number divided by a power of two and rounded down."""
        whole, rest = divmod(bits, BITS)
        moved = self * Limbs.scalar(2 ** (BITS - rest)) if rest else self
        dropped = whole + bool(rest)
        beyond = dropped - len(moved.parts) + 1
        parts = (torch.floor(moved.parts[-1] * 2.0 ** (-BITS * beyond)),) if beyond > 0 else moved.parts[dropped:]
        return Limbs(parts, self.least >> bits, self.most >> bits)

    def total(self) -> Limbs:
        """The sum over the last dimension, which stays with a size of 1."""
        count = int(self.parts[0].shape[-1])
        columns = [[(part.sum(-1, keepdim=True), least * count, most * count)] for part, least, most in _bounded(self)]
        for ((_, least, most),) in columns:
            _check(least, most)
        return _carried(columns, self.least * count, self.most * count)

    def signed(self, sign: Tensor) -> Limbs:
        """The product with 1 or -1."""
        widest = max(abs(self.least), abs(self.most))
        columns = [
            [(part * sign, -max(abs(least), abs(most)), max(abs(least), abs(most)))]
            for part, least, most in _bounded(self)
        ]
        return _carried(columns, -widest, widest)

    def within(self, least: int, most: int) -> Limbs:
        """The same numbers, of which more is known than an interval's arithmetic can find out."""
        return Limbs(self.parts, max(least, self.least), min(most, self.most))

    def negative(self) -> Tensor:
        """Whether the number is below zero, bool."""
        below: Tensor = self.parts[-1] < 0
        return below

    def rounded(self) -> Tensor:
        """fp32: the number itself below 2 ** 24, and near it beyond."""
        value: Tensor = self.parts[-1]
        for part in reversed(self.parts[:-1]):
            value = value * _BASE + part
        return value

    def clamp(self, low: int, high: int) -> Tensor:
        """The number within limits of at most 24 bits, fp32 and exact: what was rounded is beyond them."""
        _check(low, high)
        return self.rounded().clamp(low, high)


_Term = tuple[Any, int, int]
"""A tensor or a float of whole numbers, the least that can be in it, and the most."""


def digits(value: int) -> list[int]:
    """The limbs of a number."""
    found = []
    while not -_BASE <= value < _BASE:
        found.append(value % _BASE)
        value >>= BITS
    return [*found, value]


def table(values: Sequence[int]) -> Tensor:
    """The limbs of constants, one for each column: fp32, (limbs, n)."""
    height = max(len(digits(value)) for value in values)
    rows = [[value >> BITS * index for value in values] for index in range(height)]
    lower = [[value % _BASE for value in row] for row in rows[:-1]]
    return torch.tensor([*lower, rows[-1]], dtype=torch.float32)


def quotient(numerator: Limbs, divisor: Limbs) -> Limbs:
    """A number over a positive one, rounded down.

    The estimate's error is at most one part in 2 ** 14. Each of two rounds divides the remainder, which leaves
    that part of a part; what a whole number can then be off by is 1.
    """
    rough = divisor.rounded()
    widest = max(abs(numerator.least), abs(numerator.most)) // divisor.least + 1
    found = _whole(torch.floor(numerator.rounded() / rough), widest + widest // _ROUGH + 1)
    for _ in range(2):
        left = numerator - found * divisor
        widest = widest // _ROUGH + 2
        found = found + _whole(torch.floor(left.rounded() / rough), widest)
    return _settled(found, numerator - found * divisor, divisor).within(
        numerator.least // divisor.least if numerator.least < 0 else numerator.least // divisor.most,
        numerator.most // divisor.least if numerator.most > 0 else numerator.most // divisor.most,
    )


def root(number: Limbs) -> Limbs:
    """The square root of a number of 0 or more, rounded down; of 0 it is 1, so that it can be divided by."""
    most = max(1, math.isqrt(number.most))
    widest = most
    found = _whole(torch.floor(torch.sqrt(number.rounded())).clamp(min=1.0), widest + widest // _ROUGH + 1)
    for _ in range(2):
        widest = widest // _ROUGH + 2
        left = number - found * found
        found = found + _whole(torch.floor(left.rounded() / (2 * found.rounded()).clamp(min=1.0)), widest)
    one = Limbs.scalar(1)
    found = _settled(found, number - found * found, found + found + one)
    missing = Limbs.of((found - one).negative().to(torch.float32), 0, 1)
    return (found + missing).within(1, most)


def _settled(found: Limbs, left: Limbs, step: Limbs) -> Limbs:
    """What is one too high or too low, put right: `left` is to be from 0 to below `step`."""
    low = left.negative().to(torch.float32)
    high = 1.0 - (left - step).negative().to(torch.float32)
    return found + Limbs.of(high - low, -1, 1)


def _whole(values: Tensor, widest: int) -> Limbs:
    """Whole numbers of fp32, which may be beyond 2 ** 24: then their last places are zeros."""
    widest = 1 << widest.bit_length()  # which fp32 has
    values = values.clamp(-widest, widest)
    if widest <= EXACT:
        return Limbs.of(values, -widest, widest)
    high = torch.floor(values / 2 ** (2 * BITS))
    low = values - high * 2 ** (2 * BITS)
    top = (widest >> 2 * BITS) + 1
    upper = Limbs.of(high, -top, top)
    both = Limbs.of(low, 0, 2 ** (2 * BITS)) + Limbs(
        (torch.zeros_like(high), torch.zeros_like(high), *upper.parts), -top << 2 * BITS, top << 2 * BITS
    )
    return both.within(-widest, widest)


def _bounded(number: Limbs) -> list[_Term]:
    last = len(number.parts) - 1
    lower: list[_Term] = [(part, 0, _BASE - 1) for part in number.parts[:last]]
    return [*lower, (number.parts[last], number.least >> BITS * last, number.most >> BITS * last)]


def _carried(columns: list[list[_Term]], least: int, most: int) -> Limbs:
    """The sum of columns of terms, the first worth 1, the next 2 ** 11, and so on."""
    parts, pending = [], [list(column) for column in columns]
    index = 0
    while index < len(pending):
        total, low, high = pending[index][0]
        for term, term_low, term_high in pending[index][1:]:
            if max(-(low + term_low), high + term_high) > EXACT:
                total, low, high = _overflow(pending, index, (total, low, high))
            total, low, high = total + term, low + term_low, high + term_high
            _check(low, high)
        last = index + 1 == len(pending)
        settled = low >= 0 and high < _BASE
        if not settled and (not last or (max(-low, high) > _BASE and not _fits(least, most, index + 1))):
            total, low, high = _overflow(pending, index, (total, low, high))
        parts.append(total)
        index += 1
    while len(parts) > 1 and _fits(least, most, len(parts) - 1):
        top = parts.pop()
        parts[-1] = parts[-1] + top * _BASE
    return Limbs(tuple(parts), least, most)


def _fits(least: int, most: int, limbs: int) -> bool:
    return max(-least, most) >> BITS * (limbs - 1) < _BASE


def _overflow(pending: list[list[_Term]], index: int, term: _Term) -> _Term:
    """A term's last 11 bits; the rest is put on top of the next column."""
    total, low, high = term
    carry = torch.floor(total * 2.0**-BITS)
    if index + 1 == len(pending):
        pending.append([])
    pending[index + 1].append((carry, low >> BITS, high >> BITS))
    return total - carry * _BASE, 0, _BASE - 1


def _span(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    ends = [one * other for one in left for other in right]
    return min(ends), max(ends)


def _check(least: int, most: int) -> None:
    if max(-least, most) > EXACT:
        raise OverflowError((least, most))
