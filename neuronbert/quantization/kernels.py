"""The steps of an 8-bit program, as functions that a trace keeps whole.

Owns: what each step computes, in operators that every build of torch has. A program's file calls them by name; where it
is loaded, a backend may put the machine's own kernels in their place (backends/int8.py), and where it doesn't they run
as they stand. Bytes are signed, with zero at 0: a value is its byte times a scale. Multipliers hold, for each output
channel, the scales of what is multiplied over that of what comes out.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.jit.script
def int8_quantize(values: Tensor, inverse: float) -> Tensor:
    """Values to bytes: rounded to nearest even, clipped. `inverse` is 1 over the scale of a byte."""
    return torch.round(values * inverse).clamp(-128, 127).to(torch.int8)


@torch.jit.script
def int8_dequantize(values: Tensor, scale: float) -> Tensor:
    """Bytes to values."""
    return values.to(torch.float32) * scale


@torch.jit.script
def int8_linear_float(values: Tensor, weight: Tensor, multiplier: Tensor, bias: Tensor) -> Tensor:
    """Bytes [..., K] times the bytes of a weight [N, K], to values [..., N]."""
    sums = torch._int_mm(values.reshape(-1, weight.size(1)), weight.t())
    return (sums.to(torch.float32) * multiplier + bias).reshape(list(values.shape[:-1]) + [weight.size(0)])  # noqa: RUF005  TorchScript's list


@torch.jit.script
def int8_linear(values: Tensor, weight: Tensor, multiplier: Tensor, bias: Tensor) -> Tensor:
    """As int8_linear_float, to bytes: the scale of the result is in the multiplier and the bias."""
    return torch.round(int8_linear_float(values, weight, multiplier, bias)).clamp(-128, 127).to(torch.int8)


@torch.jit.script
def int8_linear_gelu(
    values: Tensor, weight: Tensor, multiplier: Tensor, bias: Tensor, approximate: str, inverse: float
) -> Tensor:
    """As int8_linear_float, through a GELU, to bytes of a scale that `inverse` is 1 over."""
    activated = torch.nn.functional.gelu(int8_linear_float(values, weight, multiplier, bias), approximate=approximate)
    return torch.round(activated * inverse).clamp(-128, 127).to(torch.int8)


@torch.jit.script
def int8_add_norm_float(
    local: Tensor, residual: Tensor, scales: tuple[float, float], weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """The sum of the bytes of a product and of a residual, each with its scale, through a LayerNorm, to values."""
    total = local.to(torch.float32) * scales[0] + residual.to(torch.float32) * scales[1]
    return torch.nn.functional.layer_norm(total, weight.shape, weight, bias, eps)


@torch.jit.script
def int8_add_norm(
    local: Tensor, residual: Tensor, scales: tuple[float, float], weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """As int8_add_norm_float, to bytes: weight and bias are over the scale of the result."""
    normal = int8_add_norm_float(local, residual, scales, weight, bias, eps)
    return torch.round(normal).clamp(-128, 127).to(torch.int8)
