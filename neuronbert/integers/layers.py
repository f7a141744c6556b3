"""The modules of a layer with integers in place of their weights.

Owns: building them from transformers' modules and from ranges, and running them step by step. Knows nothing of the
order of the steps (encoder/model.py), nor of what a layer is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from neuronbert.errors import IntegerRangeError
from neuronbert.integers import dequantized, steps
from neuronbert.integers.dequantized import FORCE_DEQUANT as FORCE_DEQUANT
from neuronbert.integers.dequantized import PROBABILITY
from neuronbert.integers.dequantized import ForceDequant as ForceDequant
from neuronbert.integers.nonlinear import gelu_constants, softmax_constants
from neuronbert.integers.norms import Norm
from neuronbert.integers.products import Products
from neuronbert.integers.scales import dyadic, scale_of

if TYPE_CHECKING:
    from neuronbert.integers.calibrated import Calibrated

_NORM_BITS: Final = 22


class IntegerAttention(nn.Module):
    """BertSelfAttention: the three projections as one, the scores, their softmax, and what is gathered by it.

    Args:
        site: transformers' module.
        scale: Of what it is given.
        place: Its layer.
    """

    by: Tensor
    by_context: Tensor

    def __init__(self, site: Any, scale: float, place: Calibrated) -> None:
        super().__init__()
        self.attention_head_size = site.attention_head_size
        parts = ("query", "key", "value")
        self.products = Products([getattr(site, part) for part in parts], scale, place.name)
        self.query, self.key, self.value = (place.scale(f"attention.self.{part}_activation", 8) for part in parts)
        width = self.products.weight.shape[0] // 3
        targets = torch.tensor([self.query, self.key, self.value], dtype=torch.float64).repeat_interleave(width)
        self.register_buffer("by", dyadic(self.products.scales / targets, self.products.bits))
        self.scale = place.scale("attention.self.output_activation", 8)
        self.scores = self.query * self.key / float(self.attention_head_size) ** 0.5
        # Of at most 2 ** 13 tokens: 8 bits of probability, 7 of value.
        self.register_buffer("by_context", dyadic(torch.tensor([PROBABILITY * self.value / self.scale]), 28))
        self.real = place.leaves("softmax")
        try:
            self.constants = softmax_constants(self.scores, scale_of(1.0, 16))
        except OverflowError as error:
            problem = f"one step of its scores is {self.scores:.3g}, and it must be at most 1"
            raise IntegerRangeError(f"{place.name}.attention.self", problem) from error

    def forward(self, hidden: Tensor) -> Tensor:
        """Query, key and value side by side: int8 (batch, sequence, 3 * hidden)."""
        result: Tensor = steps.linear(hidden, self.products.weight, self.products.bias, self.by)
        return result

    def products_of(self, query: Tensor, key: Tensor) -> Tensor:
        """Their scores: int32, at `scores`."""
        result: Tensor = steps.scores(query, key)
        return result

    def probabilities(self, scores: Tensor, attended: Tensor) -> Tensor:
        """uint8, at PROBABILITY."""
        if self.real:
            return dequantized.softmax(scores, attended, self.scores).to(torch.uint8)
        result: Tensor = steps.softmax(scores, attended, self.constants)
        return result

    def gathered(self, probabilities: Tensor, value: Tensor) -> Tensor:
        """int8 (batch, sequence, hidden), at `scale`."""
        result: Tensor = steps.context(probabilities, value, self.by_context)
        return result


class IntegerIntermediate(nn.Module):
    """BertIntermediate: a linear layer and GELU.

    Args:
        site: transformers' module.
        scale: Of what it is given.
        place: Its layer.
    """

    scales: Tensor
    constants: Tensor
    by: Tensor

    def __init__(self, site: Any, scale: float, place: Calibrated) -> None:
        super().__init__()
        self.dense = Products([site.dense], scale, f"{place.name}.intermediate.dense")
        self.scale = place.scale("pre_output_act", 8)
        self.real = place.leaves("gelu")
        if self.real:
            self.register_buffer("scales", self.dense.scales.float())
            return
        try:
            constants, scales, bits = gelu_constants(self.dense.scales, self.dense.most)
            by = dyadic(scales / self.scale, bits)
        except OverflowError as error:
            raise IntegerRangeError(
                f"{place.name}.intermediate", "its weights are too small for a GELU of 64 bits"
            ) from error
        self.register_buffer("constants", constants)
        self.register_buffer("by", by)

    def forward(self, hidden: Tensor) -> Tensor:
        """int8 (batch, sequence, intermediate), at `scale`."""
        if self.real:
            products = steps.products(hidden, self.dense.weight, self.dense.bias)
            return dequantized.gelu(products, self.scales, self.scale).to(torch.int8)
        result: Tensor = steps.gelu(hidden, self.dense.weight, self.dense.bias, self.constants, self.by)
        return result


class IntegerOutput(nn.Module):
    """BertSelfOutput or BertOutput: a linear layer, the residual, and LayerNorm of their sum.

    Args:
        site: transformers' module.
        scales: Of what it is given, of the residual, and of what it gives.
        place: Where it is.
    """

    by: Tensor
    by_residual: Tensor

    def __init__(self, site: Any, scales: tuple[float, float, float], place: Calibrated) -> None:
        super().__init__()
        self.dense = Products([site.dense], scales[0], f"{place.name}.dense")
        sum_scale = place.scale("ln_input_act", _NORM_BITS)
        self.scale = scales[2]
        self.register_buffer("by", dyadic(self.dense.scales / sum_scale, self.dense.bits))
        self.register_buffer("by_residual", dyadic(torch.tensor([scales[1] / sum_scale]), 8))
        self.norm = Norm(site.LayerNorm, (sum_scale, self.scale), place)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """int8 (batch, sequence, hidden), at `scale`."""
        norm, dense = self.norm, self.dense
        if norm.real:
            products = steps.products(hidden, dense.weight, dense.bias)
            total = steps.add(products, self.by, residual, self.by_residual, _NORM_BITS)
            return norm(total)  # type: ignore[no-any-return]
        return steps.add_norm(  # type: ignore[no-any-return]
            hidden, dense.weight, dense.bias, self.by, residual, self.by_residual, norm.bias, norm.shift, norm.by
        )
