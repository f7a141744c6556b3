"""LayerNorm's weight and bias as integers.

Owns: Norm. Knows nothing of where it stands in a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from neuronbert.integers import dequantized, steps
from neuronbert.integers.nonlinear import norm_constants
from neuronbert.integers.scales import dyadic

if TYPE_CHECKING:
    from neuronbert.integers.calibrated import Calibrated


class Norm(nn.Module):
    """LayerNorm from integers of one scale to 8 bits of another.

    Args:
        site: transformers' module, with weight, bias and eps.
        scales: Of what it is given, and of what it gives.
        place: Where it is.
    """

    weight: Tensor
    bias: Tensor
    by: Tensor

    def __init__(self, site: Any, scales: tuple[float, float], place: Calibrated) -> None:
        super().__init__()
        self.scales, self.shift = scales, place.shift
        self.real = place.leaves("layernorm")
        if self.real:
            self.eps = site.eps
            self.register_buffer("weight", site.weight.detach().clone())
            self.register_buffer("bias", site.bias.detach().clone())
            return
        bias, of_columns, bits = norm_constants(site.weight, site.bias)
        self.register_buffer("bias", bias)
        self.register_buffer("by", dyadic(of_columns / scales[1], bits))

    def forward(self, total: Tensor) -> Tensor:
        """int8, of int32."""
        if self.real:
            return dequantized.layer_norm(total, self, self.scales).to(torch.int8)
        result: Tensor = steps.norm(total, self.bias, self.shift, self.by)
        return result
