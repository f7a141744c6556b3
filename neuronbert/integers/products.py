"""Linear layers' weights and biases as integers.

Owns: Products, and that no sum of theirs overflows. Knows nothing of what the sums are used for.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from neuronbert.errors import IntegerRangeError
from neuronbert.integers.scales import quantize, scale_of

_LEAST: Final = 2.0**-18
"""The least scale of a product: a row of weights that is nothing beside its bias would need an endless bias."""
_BIAS_BITS: Final = 28


class Products(nn.Module):
    """A linear layer's weights as 8 bits for each row, with a bias at the scale of the products.

    Args:
        linears: What has weight and bias; several are put below each other.
        scale: Of what they are given.
        place: What they are called in errors.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, linears: list[Any], scale: float, place: str) -> None:
        super().__init__()
        weight = torch.cat([linear.weight.detach() for linear in linears]).double()
        bias = torch.cat([linear.bias.detach() for linear in linears]).double()
        if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise IntegerRangeError(place, "a weight is infinite or not a number")
        of_rows = torch.tensor([scale_of(extent, 8) for extent in weight.abs().amax(1).tolist()], dtype=torch.float64)
        of_rows = torch.maximum(of_rows, bias.abs() / 2**_BIAS_BITS / scale).clamp(min=_LEAST / scale)
        self.scales = of_rows * scale
        whole = quantize(weight, of_rows.unsqueeze(1), 8)
        whole_bias = quantize(bias, self.scales, 32)
        self.register_buffer("weight", whole)
        self.register_buffer("bias", whole_bias)
        self.most = whole.to(torch.int64).abs().sum(1) * 128 + whole_bias.abs()
        self.bits = int(self.most.max()).bit_length()
        if self.bits > 31:
            raise IntegerRangeError(place, f"its sums take {self.bits} bits, and 31 are there")
