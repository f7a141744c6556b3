"""The steps of a layer on integers that are carried in fp32 tensors: the integers of steps.py, without a wider type.

Owns: requantization, the functions that aren't linear, and the matrix products of a layer on such tensors. Knows
nothing of modules. Each function gives, bit for bit, what its namesake in steps.py or nonlinear.py gives; what it does
in between is exact by the intervals of limbs.py, and refused where they are too wide for a proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from neuronbert.integers.limbs import BITS, EXACT, Limbs, quotient, root, table
from neuronbert.integers.nonlinear import GELU_SHIFT

if TYPE_CHECKING:
    from torch import Tensor

TOKENS: Final = 512
"""Rows of so many at most: 512 exponentials of 15 bits are what fp32 adds up without rounding."""
_HALVINGS: Final = 5
"""The bits of the number of halvings, at most 30."""


class Constants(nn.Module):
    """Integers known beforehand, one for each column, as limbs.

    Args:
        values: Of any width.
    """

    parts: Tensor

    def __init__(self, values: list[int]) -> None:
        super().__init__()
        self.register_buffer("parts", table(values))
        self._least, self._most = min(values), max(values)

    def forward(self) -> Limbs:
        """The limbs, each (n)."""
        return Limbs(tuple(self.parts.unbind(0)), self._least, self._most)


class Ratio(nn.Module):
    """A dyadic ratio for each column, all with one shift: shorter ones are made up for in their multipliers.

    Args:
        by: As `scales.dyadic` makes it, (3, n).
    """

    def __init__(self, by: Tensor) -> None:
        super().__init__()
        multipliers, _, shifts = by.tolist()
        self.shift: int = -(-max(*shifts, 1) // BITS) * BITS  # whole limbs, which are just left out
        pairs = zip(multipliers, shifts, strict=True)
        self.multipliers = Constants([multiplier << self.shift - shift for multiplier, shift in pairs])

    def forward(self, values: Limbs) -> Limbs:
        """`scales.requantize` without its limits."""
        product: Limbs = values * self.multipliers()
        return (product + Limbs.scalar(1 << self.shift - 1)) >> self.shift


def pieces(weight: Tensor) -> list[tuple[int, int]]:
    """Into what parts of k a linear layer's sums are split, each so short that fp32 has all sums of it.

    Args:
        weight: int8, (n, k).

    Returns:
        The width of each, and the largest magnitude that a sum over it can have.
    """
    for count in range(1, weight.shape[1] + 1):
        parts = torch.split(weight.to(torch.int64).abs(), -(-weight.shape[1] // count), 1)
        found = [(part.shape[1], int(part.sum(1).max()) * 128) for part in parts]
        if all(most <= EXACT for _, most in found):
            return found
    raise AssertionError  # a part of one column is at most 2 ** 14


def products(hidden: Tensor, weight: Tensor, bias: Limbs, parts: list[tuple[int, int]]) -> Limbs:
    """A linear layer's sums.

    Args:
        hidden: Of 8 bits, (batch, sequence, k).
        weight: int8, (n, k).
        bias: (n).
        parts: See `pieces`.
    """
    widths = [width for width, _ in parts]
    total = bias
    split = zip(torch.split(hidden, widths, -1), torch.split(weight, widths, 1), parts, strict=True)
    for left, right, (_, most) in split:
        total = Limbs.of(nn.functional.linear(left, right.to(torch.float32)), -most, most) + total
    return total


def softmax(scores: Tensor, attended: Tensor, constants: list[int]) -> Tensor:
    """`nonlinear.softmax` of scores whose differences `softmax_fits`: 0 to 255.

    Raises:
        OverflowError: there are more than TOKENS of them.
    """
    tokens = scores.shape[-1]
    if tokens > TOKENS:
        raise OverflowError(tokens)
    scores = scores.masked_fill(~attended, 0.0)
    attended = attended | ~attended.any(-1, keepdim=True)  # a row without tokens is even
    below = scores.masked_fill(~attended, -float(EXACT)).amax(-1, keepdim=True) - scores
    rounded = _exponentials(below, constants) * attended.to(torch.float32)
    total = Limbs.of(rounded.sum(-1, keepdim=True), _highest(constants), EXACT)
    low, high = quotient(Limbs.scalar(2**32), total).parts
    # (rounded * (high * 2 ** 11 + low)) >> 24: its numbers have 15 bits, 7 and 11
    lower = torch.floor(rounded * low * 2.0**-BITS)
    return torch.floor((rounded * high + lower) * 2.0 ** (BITS - 24)).clamp(max=255.0)


def softmax_fits(size: int, coarser: int) -> bool:
    """Whether fp32 has each difference of two scores, and half a step of what they are rounded to more.

    Args:
        size: Of a head: a score adds so many products of two bytes up.
        coarser: The first constant of `Exp`.
    """
    return size * 2**15 + ((1 << coarser) >> 1) <= EXACT


def _highest(constants: list[int]) -> int:
    """The rounded exponential of 0, which every row has."""
    _, _, _, _, c, multiplier, shift, most = constants
    highest = min((c * multiplier + (1 << shift - 1)) >> shift, most)
    if highest < 2**14 or most >= 2**15:
        raise OverflowError(highest)
    return highest


def _exponentials(below: Tensor, constants: list[int]) -> Tensor:
    """`nonlinear.exp` of numbers below the row's highest, rounded to 15 bits."""
    coarser, ln2, _, b, c, multiplier, shift, most = constants
    half = (1 << coarser) >> 1
    if half > EXACT:
        raise OverflowError(coarser)
    below = torch.floor((below + half) * 2.0**-coarser).clamp(0, 30 * ln2)
    halvings = torch.floor(below * (1.0 / ln2))
    rest = halvings * ln2 - below
    late, soon = (rest <= -ln2).to(torch.float32), (rest > 0).to(torch.float32)
    halvings, rest = halvings + late - soon, rest + (late - soon) * ln2
    first = Limbs.of(rest, -ln2, 0)
    polynomial = (Limbs.of(rest + b, b - ln2, b) * first + Limbs.scalar(c)).within(0, 2**30)
    doubled = (polynomial * Limbs.scalar(multiplier)) >> (shift - 1)
    halved = torch.floor(doubled.clamp(0, EXACT) * _power(halvings))
    return torch.floor((halved + 1) * 0.5).clamp(max=float(most))


def _power(halvings: Tensor) -> Tensor:
    """2 to minus a whole number from 0 to 31, exactly: no operator for powers has to be."""
    found, left = torch.ones_like(halvings), halvings
    for bit in reversed(range(_HALVINGS)):
        has = (left >= 2**bit).to(torch.float32)
        left = left - has * 2**bit
        found = found * (1.0 - has * (1.0 - 2.0 ** -(2**bit)))
    return found


def gelu(values: Limbs, edge: Limbs, least: Limbs, one: Limbs) -> Limbs:
    """`nonlinear.gelu`, whose constants are `edge`, below 2 ** 24, `least` and `one`."""
    sign = 1.0 - 2.0 * values.negative().to(torch.float32)
    beyond = torch.minimum(values.rounded().abs(), edge.rounded()) - edge.rounded()
    parabola = Limbs.of(beyond, -edge.most, 0)
    erf = (parabola * parabola + least).signed(sign) >> GELU_SHIFT
    return values * (erf + one)


def layer_norm(values: Tensor, bias: Limbs, shift: int) -> Limbs:
    """`nonlinear.layer_norm` of fp32 below 2 ** 21."""
    width = int(values.shape[-1])
    total = Limbs.of(values, -(2**21), 2**21).total()
    twice = Limbs.scalar(2 * width)
    mean = quotient(total + total + Limbs.scalar(width), twice).within(-(2**21), 2**21)
    centred = values - mean.rounded()
    shifted = Limbs.of(torch.floor(centred * 2.0**-shift), -(2**22) >> shift, 2**22 >> shift)
    squares = (shifted * shifted).within(0, 2**44 >> 2 * shift).total()
    deviation = root(squares)
    if shift:
        deviation = deviation * Limbs.scalar(2**shift)
    factor = quotient(Limbs.scalar(2**31), deviation)
    product = Limbs.of(centred, -(2**22), 2**22) * factor
    return (product.within(-(2**33), 2**33) >> 1) + bias
