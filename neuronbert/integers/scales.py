"""What an integer stands for: scales, and how integers of one scale become integers of another.

Owns: symmetric quantization, dyadic numbers and requantization. Knows nothing of layers. Scales are made before
anything runs, in double precision; only integers remain at run time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_RANGE: Final = 1e-8
"""The range of what is zero everywhere."""
MULTIPLIER_BITS: Final = 31
WORD_BITS: Final = 62
"""Magnitudes stay below 2 to this, so that a sum of two of them fits into 64 bits with its sign."""


def limit(bits: int) -> int:
    """The largest number of a signed width: 127 of 8 bits."""
    return int(2 ** (bits - 1)) - 1


def scale_of(extent: float, bits: int) -> float:
    """The scale at which a range from -extent to extent fills a width.

    It is rounded to fp32, which is what checkpoints hold.
    """
    return float(torch.tensor(max(extent, SMALLEST_RANGE) / limit(bits), dtype=torch.float32))


def quantize(values: Tensor, scale: Tensor | float, bits: int) -> Tensor:
    """The integers nearest to `values / scale`, halves to even, from -limit to limit - 1.

    The highest one is left out, as in I-BERT's own quantizer of weights.

    Args:
        values: Floating point.
        scale: One, or one for each row.
        bits: The width, 32 at most.

    Returns:
        int8 for up to 8 bits, else int32.
    """
    top = limit(bits)
    whole = torch.round(values.double() / scale).clamp(-top, top - 1)
    return whole.to(torch.int8 if bits <= 8 else torch.int32)


def dyadic(ratios: Tensor, bits: int) -> Tensor:
    """Numbers as `multiplier / 2 ** shift`, exact to one part in 2 ** 31 where `bits` leaves room for that.

    Args:
        ratios: What integers are to be multiplied by, double precision, one dimension; negative ones, too.
        bits: How wide the integers are that they multiply: their magnitude is at most 2 ** bits.

    Returns:
        (3, n), int64: the multipliers, a half of 2 ** shift, and the shifts. The product of a multiplier and an integer
        of the given width stays below 2 ** 62, and so does its sum with the half.

    Raises:
        OverflowError: the integers are too wide, or become too wide to tell them apart from an overflow.
    """
    room = min(MULTIPLIER_BITS, WORD_BITS - 1 - bits)
    if room < 8:  # less would be coarser than the 8 bits that come out
        raise OverflowError(bits)
    rows = [_dyadic(ratio, room) for ratio in ratios.double().tolist()]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).t().contiguous()


def _dyadic(ratio: float, room: int) -> tuple[int, int, int]:
    if not math.isfinite(ratio):
        raise OverflowError(ratio)
    mantissa, exponent = math.frexp(ratio)
    multiplier, shift = math.floor(abs(mantissa) * 2**room + 0.5), room - exponent
    if shift > WORD_BITS - 1:  # what is left is less than a half of the last place for every integer of the width
        return 0, 0, 0
    if shift < 1:  # more than 2 ** room times: nothing that is quantized to a width needs it
        raise OverflowError(ratio)
    return (multiplier if mantissa >= 0 else -multiplier), 2 ** (shift - 1), shift


def requantize(values: Tensor, by: Tensor, low: int, high: int) -> Tensor:
    """Integers of one scale as those of another: `(values * multiplier + half) >> shift`, between two limits.

    Args:
        values: Integers, (..., n).
        by: The ratio of the scales as `dyadic` makes it, for n columns or for all of them.
        low: The least result.
        high: The largest result.

    Returns:
        int64.
    """
    return ((values.to(torch.int64) * by[0] + by[1]) >> by[2]).clamp(low, high)
