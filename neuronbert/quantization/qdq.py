"""QDQBERT's arithmetic: torch's operators on values that were rounded to 8 bits and back.

Owns: which step rounds what. It is the reference that integer programs are held against, and what is trained. Knows
nothing of ranges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neuronbert.encoder.arithmetic import FloatArithmetic, side_by_side

if TYPE_CHECKING:
    from torch import Tensor


class QdqArithmetic(FloatArithmetic):
    """FLOAT over the quantizers that placement.py hangs into the modules."""

    def scores(self, site: Any, query: Tensor, key: Tensor) -> Tensor:
        """See Arithmetic."""
        return super().scores(site, site.matmul_q_input_quantizer(query), site.matmul_k_input_quantizer(key))

    def context(self, site: Any, probabilities: Tensor, value: Tensor) -> Tensor:
        """See Arithmetic."""
        weights, values = site.matmul_a_input_quantizer(probabilities), site.matmul_v_input_quantizer(value)
        return side_by_side(torch.matmul(weights, values))

    def linear(self, site: Any, hidden: Tensor) -> Tensor:
        """See Arithmetic."""
        return nn.functional.linear(site._input_quantizer(hidden), site._weight_quantizer(site.weight), site.bias)

    def add_norm(self, site: Any, hidden: Tensor, residual: Tensor) -> Tensor:
        """See Arithmetic."""
        local = site.add_local_input_quantizer(site.dropout(hidden))
        normalized: Tensor = site.LayerNorm(local + site.add_residual_input_quantizer(residual))
        return normalized
