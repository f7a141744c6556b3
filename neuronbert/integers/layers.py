"""The modules of an encoder with integers in place of their weights.

Owns: building them from transformers' modules and from ranges, which fixes every scale from the embedding to the last
layer, and running them step by step. Knows nothing of the order of the steps (encoder/model.py), nor of checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from neuronbert.errors import IntegerRangeError, UnsupportedFeatureError
from neuronbert.integers import steps
from neuronbert.integers.nonlinear import gelu_constants, norm_constants, softmax_constants
from neuronbert.integers.scales import dyadic, quantize, scale_of

if TYPE_CHECKING:
    from neuronbert.integers.ranges import Ranges

ForceDequant = Literal["none", "gelu", "softmax", "layernorm", "nonlinear"]
FORCE_DEQUANT: Final[tuple[ForceDequant, ...]] = get_args(ForceDequant)
PROBABILITY: Final = 2.0**-8
"""The scale of attention probabilities."""
_LEAST: Final = 2.0**-18
"""The least scale of a product: a row of weights that is nothing beside its bias would need an endless bias."""
_BIAS_BITS: Final = 28
_NORM_BITS: Final = 22


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


class IntegerEmbeddings(nn.Module):
    """BertEmbeddings or RobertaEmbeddings: the sum of three tables of 8 bits, normalized.

    Args:
        site: transformers' module.
        ranges: Of the whole encoder.
        dequantized: What is computed in floating point all the same.
    """

    word: Tensor
    token_type: Tensor
    position: Tensor

    def __init__(self, site: Any, ranges: Ranges, dequantized: ForceDequant) -> None:
        super().__init__()
        self.padding: int | None = getattr(
            site, "padding_idx", None
        )  # RoBERTa counts positions from there, and leaves padding out
        sum_scale = ranges.scale("embeddings.embeddings_act1", 16)
        for name in ("word", "token_type", "position"):
            table = getattr(site, f"{name}_embeddings").weight.detach()
            scale = scale_of(float(table.abs().max()), 8)
            self.register_buffer(name, quantize(table, scale, 8))
            self.register_buffer(f"by_{name}", dyadic(torch.tensor([scale / sum_scale]), 8))
        self.register_buffer("unchanged", dyadic(torch.ones(1), 16))
        self.scale = ranges.scale("embeddings.output_activation", 8)
        shift = ranges.shifts.get("embeddings.LayerNorm", 0)
        self.norm = Norm(site.LayerNorm, (sum_scale, self.scale), shift, dequantized)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """int8 (batch, sequence, hidden), at `scale`."""
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if position_ids is None:
            position_ids = self._positions(input_ids)
        words = nn.functional.embedding(input_ids, self.word)
        types = nn.functional.embedding(token_type_ids, self.token_type)
        places = nn.functional.embedding(position_ids, self.position)
        together = steps.add(words, self.by_word, types, self.by_token_type, 16)
        result: Tensor = self.norm(steps.add(together, self.unchanged, places, self.by_position, 16))
        return result

    def _positions(self, input_ids: Tensor) -> Tensor:
        if self.padding is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        told = (input_ids != self.padding).to(torch.int64)
        return torch.cumsum(told, 1) * told + self.padding


class IntegerAttention(nn.Module):
    """BertSelfAttention: the three projections as one, the scores, their softmax, and what is gathered by it.

    Args:
        site: transformers' module.
        scale: Of what it is given.
        ranges: Of the whole encoder.
        place: The name of its layer.
        dequantized: What is computed in floating point all the same.
    """

    def __init__(self, site: Any, scale: float, ranges: Ranges, place: str, dequantized: ForceDequant) -> None:
        super().__init__()
        self.attention_head_size = site.attention_head_size
        parts = ("query", "key", "value")
        self.products = Products([getattr(site, part) for part in parts], scale, place)
        self.query, self.key, self.value = (
            ranges.scale(f"{place}.attention.self.{part}_activation", 8) for part in parts
        )
        width = self.products.weight.shape[0] // 3
        targets = torch.tensor([self.query, self.key, self.value], dtype=torch.float64).repeat_interleave(width)
        self.register_buffer("by", dyadic(self.products.scales / targets, self.products.bits))
        self.scale = ranges.scale(f"{place}.attention.self.output_activation", 8)
        self.scores = self.query * self.key / float(self.attention_head_size) ** 0.5
        # Of at most 2 ** 13 tokens: 8 bits of probability, 7 of value.
        self.register_buffer("by_context", dyadic(torch.tensor([PROBABILITY * self.value / self.scale]), 28))
        self.real = dequantized in ("softmax", "nonlinear")
        try:
            self.constants = softmax_constants(self.scores, scale_of(1.0, 16))
        except OverflowError as error:
            problem = f"one step of its scores is {self.scores:.3g}, and it must be at most 1"
            raise IntegerRangeError(f"{place}.attention.self", problem) from error

    def forward(self, hidden: Tensor) -> Tensor:
        """Query, key and value side by side: int8 (batch, sequence, 3 * hidden)."""
        result: Tensor = steps.linear(hidden, self.products.weight, self.products.bias, self.by)
        return result

    def probabilities(self, scores: Tensor, attended: Tensor) -> Tensor:
        """uint8, at PROBABILITY."""
        if self.real:
            told = (scores * self.scores).masked_fill(~attended, torch.finfo(torch.float32).min)
            return (torch.softmax(told, -1) / PROBABILITY).round().clamp(0, 255).to(torch.uint8)
        result: Tensor = steps.softmax(scores, attended, self.constants)
        return result


class IntegerIntermediate(nn.Module):
    """BertIntermediate: a linear layer and GELU.

    Args:
        site: transformers' module.
        scale: Of what it is given.
        ranges: Of the whole encoder.
        place: The name of its layer.
        dequantized: What is computed in floating point all the same.
    """

    def __init__(self, site: Any, scale: float, ranges: Ranges, place: str, dequantized: ForceDequant) -> None:
        super().__init__()
        self.dense = Products([site.dense], scale, f"{place}.intermediate.dense")
        self.scale = ranges.scale(f"{place}.pre_output_act", 8)
        self.real = dequantized in ("gelu", "nonlinear")
        if self.real:
            self.register_buffer("scales", self.dense.scales.float())
            return
        try:
            constants, scales, bits = gelu_constants(self.dense.scales, self.dense.most)
            by = dyadic(scales / self.scale, bits)
        except OverflowError as error:
            raise IntegerRangeError(
                f"{place}.intermediate", "its weights are too small for a GELU of 64 bits"
            ) from error
        self.register_buffer("constants", constants)
        self.register_buffer("by", by)

    def forward(self, hidden: Tensor) -> Tensor:
        """int8 (batch, sequence, intermediate), at `scale`."""
        if self.real:
            products = steps.products(hidden, self.dense.weight, self.dense.bias)
            return narrow(nn.functional.gelu(products * self.scales), self.scale)
        result: Tensor = steps.gelu(hidden, self.dense.weight, self.dense.bias, self.constants, self.by)
        return result


class IntegerOutput(nn.Module):
    """BertSelfOutput or BertOutput: a linear layer, the residual, and LayerNorm of their sum.

    Args:
        site: transformers' module.
        scales: Of what it is given, of the residual, and of what it gives.
        ranges: Of the whole encoder.
        place: Its own name.
        dequantized: What is computed in floating point all the same.
    """

    def __init__(
        self, site: Any, scales: tuple[float, float, float], ranges: Ranges, place: str, dequantized: ForceDequant
    ) -> None:
        super().__init__()
        self.dense = Products([site.dense], scales[0], f"{place}.dense")
        sum_scale = ranges.scale(f"{place}.ln_input_act", _NORM_BITS)
        self.scale = scales[2]
        self.register_buffer("by", dyadic(self.dense.scales / sum_scale, self.dense.bits))
        self.register_buffer("by_residual", dyadic(torch.tensor([scales[1] / sum_scale]), 8))
        shift = ranges.shifts.get(f"{place}.LayerNorm", 0)
        self.norm = Norm(site.LayerNorm, (sum_scale, self.scale), shift, dequantized)

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


class Norm(nn.Module):
    """LayerNorm from integers of one scale to 8 bits of another.

    Args:
        site: transformers' module, with weight, bias and eps.
        scales: Of what it is given, and of what it gives.
        shift: Bits that centred values are shifted right by before they are squared.
        dequantized: What is computed in floating point all the same.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, site: Any, scales: tuple[float, float], shift: int, dequantized: ForceDequant) -> None:
        super().__init__()
        self.scales, self.shift = scales, shift
        self.real = dequantized in ("layernorm", "nonlinear")
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
            real = total * self.scales[0]
            return narrow(
                nn.functional.layer_norm(real, real.shape[-1:], self.weight, self.bias, self.eps), self.scales[1]
            )
        result: Tensor = steps.norm(total, self.bias, self.shift, self.by)
        return result


def narrow(values: Tensor, scale: float) -> Tensor:
    """8 bits of floating point, for what follows a function that was dequantized."""
    return torch.round(values / scale).clamp(-127, 126).to(torch.int8)


def convert(base: Any, ranges: Ranges, dequantized: ForceDequant = "none") -> None:
    """Put integers in the place of an encoder's weights.

    Args:
        base: transformers' model without a head, of BERT's layers; its modules are replaced.
        ranges: What its activations span.
        dequantized: What is computed in floating point all the same.

    Raises:
        UncalibratedError: ranges are missing.
        IntegerRangeError: a weight or a range makes integers too wide.
        UnsupportedFeatureError: the activation function is another one than GELU, or the model is a decoder.
    """
    if base.config.hidden_act != "gelu":
        raise UnsupportedFeatureError("hidden_act", base.config.hidden_act, "I-BERT's polynomial is GELU's alone")
    if getattr(base.config, "is_decoder", False):
        raise UnsupportedFeatureError("is_decoder", True, "I-BERT's heads see the whole row")
    ranges.check(len(base.encoder.layer))
    embeddings = IntegerEmbeddings(base.embeddings, ranges, dequantized)
    base.embeddings, scale = embeddings, embeddings.scale
    for index, layer in enumerate(base.encoder.layer):
        scale = _convert_layer(layer, scale, ranges, f"encoder.layer.{index}", dequantized)


def _convert_layer(layer: Any, scale: float, ranges: Ranges, place: str, dequantized: ForceDequant) -> float:
    attention = IntegerAttention(layer.attention.self, scale, ranges, place, dequantized)
    # transformers rounds to 8 bits twice in a row, before and between a layer's halves; here the second range counts.
    scales = (attention.scale, scale, ranges.scale(f"{place}.pre_intermediate_act", 8))
    attended = IntegerOutput(layer.attention.output, scales, ranges, f"{place}.attention.output", dequantized)
    inner = IntegerIntermediate(layer.intermediate, attended.scale, ranges, place, dequantized)
    scales = (inner.scale, attended.scale, ranges.scale(f"{place}.output.output_activation", 8))
    output = IntegerOutput(layer.output, scales, ranges, f"{place}.output", dequantized)
    layer.attention.self, layer.attention.output = attention, attended
    layer.intermediate, layer.output = inner, output
    return output.scale
