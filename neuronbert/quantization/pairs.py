"""A simulated QDQBERT as ONNX writes it: pairs of QuantizeLinear and DequantizeLinear, and weights in bytes.

Owns: what each quantizer becomes in ONNX's operators. Knows nothing of files. A weight is a DequantizeLinear alone, of
bytes that lie as the product reads them, [inputs, outputs]. Source: the operators of ONNX, QuantizeLinear and
DequantizeLinear 13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from neuronbert.encoder.model import Encoder
from neuronbert.errors import SimulatedOnlyError
from neuronbert.quantization import placement
from neuronbert.quantization.qdq import QdqArithmetic

if TYPE_CHECKING:
    from torch import Tensor

_TYPES: Final = {(-128, 127): torch.int8, (0, 255): torch.uint8}
"""ONNX's types by the bounds of a quantizer: it has no narrower ones."""


def paired(model: Any) -> Any:
    """Put pairs in the place of a simulated model's quantizers.

    Args:
        model: What contains our encoder with calibrated quantizers; it is changed.

    Raises:
        SimulatedOnlyError: something is quantized to other than bytes.
        UncalibratedError: a quantizer has no range.
    """
    encoder = next(module for module in model.modules() if isinstance(module, Encoder))
    for name, quantizer in placement.of(model).items():
        if not quantizer.enabled:
            continue
        if quantizer.descriptor.bounds not in _TYPES:
            raise SimulatedOnlyError(name, "onnx", "8 bits without a narrow range")
        owner, _, attribute = name.rpartition(".")
        site = encoder.encoder.get_submodule(owner)
        weight = site.weight if attribute == placement.WEIGHT else None
        setattr(site, attribute, _Activations(quantizer) if weight is None else _Weight(quantizer, weight))
    encoder.arithmetic = OnnxArithmetic()
    return model


class OnnxArithmetic(QdqArithmetic):
    """QdqArithmetic with its products as ONNX has them."""

    def linear(self, site: Any, hidden: Tensor) -> Tensor:
        """See Arithmetic."""
        if not isinstance(site._weight_quantizer, _Weight):
            return super().linear(site, hidden)
        product: Tensor = torch.matmul(site._input_quantizer(hidden), site._weight_quantizer())
        return product if site.bias is None else product + site.bias


class _Activations(nn.Module):
    def __init__(self, quantizer: Any) -> None:
        super().__init__()
        kind = _TYPES[quantizer.descriptor.bounds]
        self.register_buffer("scale", quantizer.scale().detach().clamp(min=torch.finfo(torch.float32).tiny))
        self.register_buffer("zero", torch.zeros((), dtype=kind))

    def forward(self, values: Tensor) -> Tensor:
        pair: Tensor = _Pair.apply(values, self.scale, self.zero)  # type: ignore[no-untyped-call]
        return pair


class _Weight(nn.Module):
    def __init__(self, quantizer: Any, weight: Tensor) -> None:
        super().__init__()
        kind = _TYPES[quantizer.descriptor.bounds]
        scale = quantizer.scale().detach().clamp(min=torch.finfo(torch.float32).tiny)
        steps = torch.round(quantizer.quantize(weight).detach() / scale)
        self.register_buffer("narrow", steps.to(kind).t().contiguous())
        scales = scale.reshape(-1).expand(weight.shape[0]).contiguous()
        self.register_buffer("scale", scales)
        self.register_buffer("zero", torch.zeros(weight.shape[0], dtype=kind))

    def forward(self) -> Tensor:
        values: Tensor = _Dequantized.apply(self.narrow, self.scale, self.zero)  # type: ignore[no-untyped-call]
        return values


class _Pair(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        bounds = torch.iinfo(zero.dtype)
        return torch.round(values / scale).clamp(bounds.min, bounds.max) * scale

    @staticmethod
    def symbolic(graph: Any, values: Any, scale: Any, zero: Any) -> Any:
        return graph.op("DequantizeLinear", graph.op("QuantizeLinear", values, scale, zero), scale, zero)


class _Dequantized(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, narrow: Tensor, scale: Tensor, _zero: Tensor) -> Tensor:
        return narrow.to(torch.float32) * scale

    @staticmethod
    def symbolic(graph: Any, narrow: Any, scale: Any, zero: Any) -> Any:
        return graph.op("DequantizeLinear", narrow, scale, zero, axis_i=1)
