"""A simulated QDQBERT to one that computes with bytes, as the CPU target compiles it.

Owns: which modules a program holds in place of the float ones, and the arithmetic over them. Where every tensor around
a step is quantized, bytes go from kernel to kernel; where one is kept in float, the step is simulated around an integer
product. Tables of embeddings, which QDQBERT leaves in float, are stored in bytes too, with a scale for each row: the
program would be mostly these tables otherwise, and their error is far below that of the first quantizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from neuronbert.encoder.arithmetic import FLOAT, by_head, side_by_side
from neuronbert.encoder.model import Encoder
from neuronbert.errors import SimulatedOnlyError
from neuronbert.quantization import kernels, placement
from neuronbert.quantization.qdq import QdqArithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from neuronbert.quantization.quantizers import Quantizer

_GELUS: Final = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""Activations that are part of the product before them, by config.hidden_act."""
_OF_NOTHING: Final = 1e15
"""The scale of a range of nothing: it rounds all values to zero, as the simulation does, and has an inverse."""
_PROJECTIONS: Final = ("query", "key", "value")


def integers(model: Any) -> Any:
    """Put bytes in the place of a simulated model's weights and of what goes between them.

    Args:
        model: What contains our encoder with calibrated quantizers; it is changed.

    Raises:
        SimulatedOnlyError: something is quantized to other than signed bytes.
        UncalibratedError: a quantizer has no range.
    """
    for name, quantizer in placement.of(model).items():
        # A weight's bytes are clipped here, those of inputs by the kernels, at -128.
        allowed = ((-128, 127), (-127, 127)) if name.endswith(placement.WEIGHT) else ((-128, 127),)
        if quantizer.enabled and quantizer.descriptor.bounds not in allowed:
            raise SimulatedOnlyError(name, "cpu", "signed 8 bits on both sides, and no narrow range of inputs")
    encoder = next(module for module in model.modules() if isinstance(module, Encoder))
    layers = list(encoder.encoder.layer)
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        _tell_scales(layer, after)
    for layer in layers:
        _narrow_layer(layer, _GELUS.get(encoder.config.hidden_act, ""))
    _narrow_tables(model, encoder)
    encoder.arithmetic = IntegerArithmetic()
    return model.eval()


class IntegerLinear(nn.Module):
    """One or several nn.Linear of one input, in bytes.

    Args:
        linears: Calibrated, on both sides.
        scales: Of what comes out of each, in bytes; None for values.
        gelu: The approximation of the GELU that follows, or "" for none.
    """

    def __init__(self, linears: list[Any], scales: list[float] | None, gelu: str = "") -> None:
        super().__init__()
        self.scale = _scale(linears[0]._input_quantizer)
        self.gelu = gelu
        self.out = scales[0] if scales else None
        steps = [linear._weight_quantizer.scale().detach().reshape(-1) for linear in linears]
        outs = [1.0] * len(linears) if gelu or scales is None else scales
        weights = [_bytes_of(linear._weight_quantizer, linear.weight) for linear in linears]
        together = zip(linears, steps, outs, strict=True)
        multipliers = [(self.scale * step / out).expand(linear.out_features) for linear, step, out in together]
        biases = [_bias(linear) / out for linear, out in zip(linears, outs, strict=True)]
        self.weight: Tensor
        self.multiplier: Tensor
        self.bias: Tensor
        self.register_buffer("weight", torch.cat(weights))
        self.register_buffer("multiplier", torch.cat(multipliers).contiguous())
        self.register_buffer("bias", torch.cat(biases).detach())

    def forward(self, values: Tensor) -> Tensor:
        """Bytes [..., K] to bytes or values [..., N]."""
        given = values, self.weight, self.multiplier, self.bias
        result: Tensor
        if self.out is None:
            result = kernels.int8_linear_float(*given)
        elif self.gelu:
            result = kernels.int8_linear_gelu(*given, self.gelu, 1.0 / self.out)
        else:
            result = kernels.int8_linear(*given)
        return result


class NarrowEmbedding(nn.Module):
    """A table in bytes, with a scale for each row.

    Args:
        weight: The table, [rows, columns].
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = weight.detach().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.table: Tensor
        self.scale: Tensor
        self.register_buffer("table", torch.round(weight.detach() / scale).to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows, in fp32."""
        rows = nn.functional.embedding(ids, self.table).to(torch.float32)
        return rows * nn.functional.embedding(ids, self.scale)

    def values(self) -> Tensor:
        """The whole table, in fp32."""
        return self.table.to(torch.float32) * self.scale


class TiedLinear(nn.Module):
    """A head's product with the table of tokens.

    Args:
        table: The table.
        bias: Of the head.
    """

    def __init__(self, table: NarrowEmbedding, bias: Tensor) -> None:
        super().__init__()
        self.table = table
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary."""
        return nn.functional.linear(hidden, self.table.values(), self.bias)


@dataclass(slots=True)
class Hidden:
    """What goes from step to step: values, or bytes of one or more scales, or both."""

    real: Tensor | None = None
    narrow: dict[float, Tensor] = field(default_factory=dict)

    def at(self, scale: float) -> Tensor:
        """The bytes of a scale."""
        if scale not in self.narrow:
            self.narrow[scale] = kernels.int8_quantize(self.values(), 1.0 / scale)
        return self.narrow[scale]

    def values(self) -> Tensor:
        """The values."""
        if self.real is None:
            scale, narrow = next(iter(self.narrow.items()))
            restored: Tensor = kernels.int8_dequantize(narrow, scale)
            return restored
        return self.real


class IntegerArithmetic(QdqArithmetic):
    """QdqArithmetic's steps on bytes."""

    def embed(self, site: Any, given: Mapping[str, Tensor | None]) -> Any:
        """See Arithmetic."""
        return Hidden(FLOAT.embed(site, given))

    def project(self, site: Any, hidden: Any) -> Any:
        """See Arithmetic."""
        joint = getattr(site, "joint", None)
        if joint is None:
            return tuple(by_head(site, self._real_linear(getattr(site, name), hidden)) for name in _PROJECTIONS)
        narrow = joint(hidden.at(joint.scale))
        parts = narrow.view(*narrow.shape[:-1], 3, -1, site.attention_head_size).permute(2, 0, 3, 1, 4)
        # Integers in fp32: the products of heads are exact there, and there is no batched product of bytes.
        query, key, value = parts.to(torch.float32, memory_format=torch.contiguous_format).unbind(0)
        return query, key, value

    def scores(self, site: Any, query: Any, key: Any) -> Any:
        """See Arithmetic."""
        if not hasattr(site, "joint"):
            return super().scores(site, query, key)
        factor = _scale(site.matmul_q_input_quantizer) * _scale(site.matmul_k_input_quantizer) * site.scaling
        return torch.matmul(query * factor, key.transpose(2, 3))

    def context(self, site: Any, probabilities: Any, value: Any) -> Any:
        """See Arithmetic."""
        quantizer = site.matmul_a_input_quantizer
        if not hasattr(site, "joint") or not quantizer.enabled:
            return Hidden(super().context(site, probabilities, value * self._unit(site)))
        scale = _scale(quantizer)
        counts = torch.round(probabilities * (1.0 / scale)).clamp(max=quantizer.descriptor.bounds[1])
        gathered = torch.matmul(counts, value)
        factor = scale * _scale(site.matmul_v_input_quantizer)
        if site.out is None:
            return Hidden(side_by_side(gathered * factor))
        narrow = kernels.int8_quantize(gathered, factor / site.out)
        return Hidden(narrow={site.out: side_by_side(narrow)})

    def linear(self, site: Any, hidden: Any) -> Any:
        """See Arithmetic."""
        if isinstance(site, IntegerLinear):
            product = site(hidden.at(site.scale))
            return Hidden(product) if site.out is None else Hidden(narrow={site.out: product})
        return Hidden(self._real_linear(site, hidden))

    def activate(self, site: Any, hidden: Any) -> Any:
        """See Arithmetic."""
        if isinstance(site.dense, IntegerLinear) and site.dense.gelu:
            return hidden
        return Hidden(super().activate(site, hidden.values()))

    def add_norm(self, site: Any, hidden: Any, residual: Any) -> Any:
        """See Arithmetic."""
        if hidden.real is not None or not site.add_residual_input_quantizer.enabled:
            return Hidden(super().add_norm(site, hidden.values(), residual.values()))
        ((local_scale, local),) = hidden.narrow.items()
        scale = _scale(site.add_residual_input_quantizer)
        summands = local, residual.at(scale), (local_scale, scale)
        norm, out = site.LayerNorm, site.out
        if out is None:
            return Hidden(kernels.int8_add_norm_float(*summands, norm.weight, norm.bias, norm.eps))
        return Hidden(narrow={out: kernels.int8_add_norm(*summands, norm.weight / out, norm.bias / out, norm.eps)})

    def over_tokens(self, value: Any, move: Callable[[Tensor], Tensor]) -> Any:
        """See Arithmetic."""
        real = None if value.real is None else move(value.real)
        return Hidden(real, {scale: move(narrow) for scale, narrow in value.narrow.items()})

    def leave(self, value: Any) -> Any:
        """See Arithmetic."""
        return value.values() if isinstance(value, Hidden) else value

    def _real_linear(self, site: Any, hidden: Hidden) -> Tensor:
        if isinstance(site, IntegerLinear):
            return site(hidden.at(site.scale))  # type: ignore[no-any-return]
        return super().linear(site, hidden.values())

    def _unit(self, site: Any) -> float:
        # The values of a joint projection are integers still.
        return _scale(site.matmul_v_input_quantizer) if hasattr(site, "joint") else 1.0


def _tell_scales(layer: Any, after: Any) -> None:
    """Note at each place where one scale is all that its readers want; None where they want values, or several."""
    attention, output = layer.attention, layer.output
    attention.self.out = _wanted([attention.output.dense])
    attention.output.out = _wanted([layer.intermediate.dense], output.add_residual_input_quantizer)
    output.out = None
    if after is not None:
        readers = [getattr(after.attention.self, name) for name in _PROJECTIONS]
        output.out = _wanted(readers, after.attention.output.add_residual_input_quantizer)


def _wanted(linears: list[Any], *quantizers: Quantizer) -> float | None:
    if not all(map(_is_narrow, linears)) or not all(quantizer.enabled for quantizer in quantizers):
        return None
    scales = {_scale(item) for item in (*(linear._input_quantizer for linear in linears), *quantizers)}
    return scales.pop() if len(scales) == 1 else None


def _narrow_layer(layer: Any, gelu: str) -> None:
    attention = layer.attention.self
    parts = [getattr(attention, name) for name in _PROJECTIONS]
    products = [getattr(attention, f"matmul_{part}_input_quantizer") for part in "qkv"]
    if _wanted(parts) is not None and all(quantizer.enabled for quantizer in products):
        attention.joint = IntegerLinear(parts, [_scale(quantizer) for quantizer in products])
        for name in _PROJECTIONS:
            delattr(attention, name)
    else:
        for name, part in zip(_PROJECTIONS, parts, strict=True):
            setattr(attention, name, _narrowed(part))
    inner, down = layer.intermediate, layer.output
    bytes_after = gelu and _is_narrow(down.dense)
    inner.dense = _narrowed(inner.dense, _scale(down.dense._input_quantizer) if bytes_after else None, gelu)
    for site in (layer.attention.output, down):
        quantizer = site.add_local_input_quantizer
        both = quantizer.enabled and site.add_residual_input_quantizer.enabled
        site.dense = _narrowed(site.dense, _scale(quantizer) if both else None)


def _narrowed(linear: Any, out: float | None = None, gelu: str = "") -> Any:
    """A linear in bytes; one that is quantized on one side only, or on none, stays as it is."""
    if not _is_narrow(linear):
        return linear
    return IntegerLinear([linear], None if out is None else [out], gelu if out is not None else "")


def _narrow_tables(model: Any, encoder: Encoder) -> None:
    tables = encoder.embeddings
    words = tables.word_embeddings.weight
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        setattr(tables, name, NarrowEmbedding(getattr(tables, name).weight))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child.weight is words:
                setattr(module, name, TiedLinear(tables.word_embeddings, child.bias))


def _is_narrow(linear: Any) -> bool:
    return bool(linear._input_quantizer.enabled and linear._weight_quantizer.enabled)


def _scale(quantizer: Quantizer) -> float:
    return float(quantizer.scale()) or _OF_NOTHING


def _bias(linear: Any) -> Tensor:
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias


def _bytes_of(quantizer: Quantizer, weight: Tensor) -> Tensor:
    scale = quantizer.scale()
    steps = torch.where(scale > 0, quantizer.quantize(weight).detach() / scale, 0.0)
    return torch.round(steps).to(torch.int8)
