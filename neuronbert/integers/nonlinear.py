"""The functions of an encoder that aren't linear, on integers alone: exp, softmax, GELU, square root, LayerNorm.

Owns: I-BERT's polynomials, their constants for a scale, and the functions. Knows nothing of layers or weights.

Each function has a second one that makes its constants, before anything runs, from the scale of what it is going to be
given; those are Python's or int64 numbers, and they bound what the function can meet, so that nothing overflows.
The functions are written so that TorchScript compiles them: they have neither branches nor loops.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from neuronbert.integers.scales import WORD_BITS, dyadic, limit

EXP_A: Final = 0.35815147
EXP_B: Final = 0.96963238 / EXP_A
EXP_C: Final = 1.0 / EXP_A
LN2: Final = 0.6931
ERF_A: Final = -0.2888
ERF_B: Final = -1.769
ROOT_2: Final = 1.4142
"""As I-BERT rounds them; checkpoints are trained with these."""
SUM_BITS: Final = 32
"""What a sum of squares may take on I-BERT's hardware."""
GELU_SHIFT: Final = 14
_FINEST: Final = 2.0**-14
"""The finest scale that scores are taken at: the polynomial's value has 30 bits then."""
_DIVISION: Final = 34
"""A division by ln 2's integer is a product and a shift; exact below 2 ** 34 for the product of both numbers."""


class Exp(NamedTuple):
    """The constants of exp for a scale.

    Attributes:
        coarser: Bits that the argument is shifted right by first, so that nothing needs more than 31.
        ln2: ln 2 at that scale.
        reciprocal: 2 ** 34 / ln2, rounded up.
        b: The polynomial's second constant.
        c: Its third.
        scale: What the polynomial's value stands for, per unit.
    """

    coarser: int
    ln2: int
    reciprocal: int
    b: int
    c: int
    scale: float


def exp_constants(scale: float) -> Exp:
    """The constants of exp for arguments of a scale.

    Raises:
        OverflowError: the scale is above 1: then one step of an integer is more than exp can tell apart.
    """
    if not 0 < scale <= 1:
        raise OverflowError(scale)
    coarser = max(0, math.ceil(math.log2(_FINEST / scale)))
    scale *= 2.0**coarser
    ln2 = math.ceil(LN2 / scale)
    return Exp(
        coarser,
        ln2,
        2**_DIVISION // ln2 + 1,
        math.floor(EXP_B / scale),
        math.floor(EXP_C / scale**2),
        EXP_A * scale**2,
    )


def exp(values: Tensor, constants: list[int]) -> tuple[Tensor, Tensor]:
    """I-BERT's exp of numbers that aren't positive: a polynomial of what is left of a multiple of ln 2.

    Args:
        values: Integers of 0 or less.
        constants: The first five of `Exp`.

    Returns:
        The polynomial's values, positive and below 2 ** 30, and how often each is to be halved, 0 to 30 times. Both are
        int64.
    """
    coarser, ln2, reciprocal, b, c = constants[0], constants[1], constants[2], constants[3], constants[4]
    below = ((-values.to(torch.int64) + ((1 << coarser) >> 1)) >> coarser).clamp(0, 30 * ln2)
    halvings = (below * reciprocal) >> 34
    rest = halvings * ln2 - below
    return (rest + b) * rest + c, halvings


def softmax_constants(scale: float, exp_scale: float, bits: int = 16) -> list[int]:
    """The constants of softmax: those of exp, and of rounding its values to a width.

    Args:
        scale: Of the scores.
        exp_scale: Of the rounded exponentials.
        bits: Their width.

    Returns:
        The first five of `Exp`, the multiplier and the shift of the dyadic ratio, and the largest number of the width.

    Raises:
        OverflowError: the scale is out of what exp takes.
    """
    *of_exp, unit = exp_constants(scale)
    multiplier, _, shift = dyadic(torch.tensor([unit / exp_scale]), WORD_BITS - 32)[:, 0].tolist()
    return [*map(int, of_exp), multiplier, shift, limit(bits)]


def softmax(scores: Tensor, attended: Tensor, constants: list[int]) -> Tensor:
    """I-BERT's softmax over the last dimension.

    Args:
        scores: int32.
        attended: Which scores count, bool, of a shape that broadcasts; the others get 0. A row of which none counts is
            spread evenly.
        constants: See `softmax_constants`.

    Returns:
        uint8: probabilities, 256 to the whole; a certain one is 255.
    """
    multiplier, shift, most = constants[5], constants[6], constants[7]
    shown = scores.masked_fill(torch.logical_not(attended), -2147483647).to(torch.int64)
    values, halvings = exp(shown - shown.amax(-1, keepdim=True), constants)
    shifts = (halvings + shift).clamp(max=62)
    rounded = ((values * multiplier + (torch.ones_like(shifts) << (shifts - 1))) >> shifts).clamp(max=most)
    total = rounded.sum(-1, keepdim=True)
    factor = torch.full_like(total, 4294967296) // total
    return ((rounded * factor) >> 24).clamp(max=255).to(torch.uint8)


def gelu_constants(scales: Tensor, most: Tensor) -> tuple[Tensor, Tensor, int]:
    """The constants of GELU.

    Args:
        scales: Of its argument, one for each column, double precision.
        most: The largest magnitude that the argument can have in each column, int64.

    Returns:
        (3, n), int64: I-BERT's b, c, and 1; the scales of the result (they are negative); and the bits that no result's
        magnitude exceeds.

    Raises:
        OverflowError: a column's result could be too wide.
    """
    rows, bits = [], 0
    for scale, largest in zip((scales.double() / ROOT_2).tolist(), most.tolist(), strict=True):
        b, c = math.floor(ERF_B / scale), math.floor(1 / ERF_A / scale**2)
        one = math.floor(1 / (ERF_A * scale**2 * 2**GELU_SHIFT))
        widest = largest * ((b * b - c) // 2**GELU_SHIFT + 1 - one)
        bits = max(bits, widest.bit_length(), (b * b - c).bit_length())
        if bits > WORD_BITS:
            raise OverflowError(scale)
        rows.append((-b, c, one))
    of_erf = ERF_A * (scales.double() / ROOT_2) ** 2 * 2**GELU_SHIFT
    return torch.tensor(rows, dtype=torch.int64).t().contiguous(), scales.double() * of_erf / 2, bits


def gelu(values: Tensor, constants: Tensor) -> Tensor:
    """I-BERT's GELU: half of x times 1 + erf, where erf is a parabola up to a point, and flat from there.

    Args:
        values: Integers, (..., n).
        constants: See `gelu_constants`.

    Returns:
        int64.
    """
    wide = values.to(torch.int64)
    beyond = torch.minimum(wide.abs(), constants[0]) - constants[0]
    erf = (torch.sign(wide) * (beyond * beyond + constants[1])) >> 14
    return wide * (erf + constants[2])


def _newton(number: Tensor, root: Tensor) -> Tensor:
    return torch.minimum(root, (root + number // root) >> 1)


def sqrt(number: Tensor) -> Tensor:
    """The square root, rounded down, of integers from 0 to 2 ** 62: Newton's steps from the power of two above it.

    It falls until it is there; a start less than twice too high is there in six steps.

    Returns:
        int64; of 0 it is 1, so that it can be divided by.
    """
    wide = number.to(torch.int64).clamp(min=1)
    powers = torch.ones_like(wide).unsqueeze(-1) << torch.arange(62)
    bits = (wide.unsqueeze(-1) >= powers).sum(-1)
    root = torch.ones_like(wide) << ((bits + 1) >> 1)
    root = _newton(wide, _newton(wide, _newton(wide, root)))
    return _newton(wide, _newton(wide, _newton(wide, root)))


def norm_scale(width: int) -> float:
    """The scale of what `layer_norm` gives before its weight: one to `2 ** 30 / sqrt(width)`."""
    return math.sqrt(width) / 2**30


def norm_constants(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, int]:
    """The constants of LayerNorm.

    A weight that is nothing beside its bias would need an endless bias at its scale: it is raised to a 2 ** -20 of it,
    which adds at most 2 ** -15 of the bias to a result of 1024 columns.

    Args:
        weight: gamma.
        bias: beta.

    Returns:
        The bias, int64; the scales of the result, double precision (negative where the weight is); and the bits that no
        result's magnitude exceeds.
    """
    weight, bias = weight.detach().double(), bias.detach().double()
    least = (bias.abs() * 2.0**-20).clamp(min=2.0**-60)
    weight = torch.where(weight.abs() < least, torch.copysign(least, weight), weight)
    unit = norm_scale(weight.numel())
    added = torch.floor(bias / weight / unit).to(torch.int64)
    return added, weight * unit, max(31, int(added.abs().max()).bit_length()) + 1


def layer_norm(values: Tensor, bias: Tensor, shift: int) -> Tensor:
    """I-BERT's LayerNorm over the last dimension, without its weight, which is in the scale of what it gives.

    Args:
        values: Integers below 2 ** 22, (..., n), n up to 2 ** 13.
        bias: Of `norm_constants`.
        shift: Bits that centred values are shifted right by before they are squared.

    Returns:
        int64, at most 2 ** 31 beside the bias: no centred value is as much as twice the root of the sum of all their
        squares, rounded down.
    """
    wide = values.to(torch.int64)
    width = wide.shape[-1]
    mean = (wide.sum(-1, keepdim=True) * 2 + width) // (2 * width)
    centred = wide - mean
    shifted = centred >> shift
    deviation = sqrt((shifted * shifted).sum(-1, keepdim=True)) << shift
    return ((centred * (torch.full_like(deviation, 2147483648) // deviation)) >> 1) + bias
