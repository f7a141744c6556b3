"""The steps of a layer on integer tensors, compiled by TorchScript, so that a traced program calls them by name.

Owns: what is done between two activations of 8 bits. Knows nothing of modules, scales or calibration. A step takes what
it needs as tensors and numbers, and is the definition of its integers: a faster kernel that knows a step by its name
(backends/integer_kernels.py) must give the same ones. `by` is always a dyadic ratio, (3, n) (scales.py).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from neuronbert.integers import nonlinear
from neuronbert.integers.scales import requantize

_gelu: Final[Any] = torch.jit.script(nonlinear.gelu)
_layer_norm: Final[Any] = torch.jit.script(nonlinear.layer_norm)
_softmax: Final[Any] = torch.jit.script(nonlinear.softmax)
_requantize: Final[Any] = torch.jit.script(requantize)


def _products(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    flat = torch._int_mm(hidden.reshape(-1, hidden.shape[-1]), weight.t())
    sizes = [hidden.shape[0], hidden.shape[1], weight.shape[0]]
    return (flat + bias).view(sizes)


_linear: Final[Any] = torch.jit.script(_products)


def _ibert_linear(hidden: Tensor, weight: Tensor, bias: Tensor, by: Tensor) -> Tensor:
    """A linear layer from 8 bits to 8 bits.

    Args:
        hidden: int8, (batch, sequence, k).
        weight: int8, (n, k).
        bias: int32, (n).
        by: To the result's scale, of each column.

    Returns:
        int8, (batch, sequence, n).
    """
    return _requantize(_linear(hidden, weight, bias), by, -128, 127).to(torch.int8)  # type: ignore[no-any-return]


def _ibert_gelu(hidden: Tensor, weight: Tensor, bias: Tensor, constants: Tensor, by: Tensor) -> Tensor:
    """A linear layer and GELU, from 8 bits to 8 bits; `constants` are those of `nonlinear.gelu`."""
    curved = _gelu(_linear(hidden, weight, bias), constants)
    return _requantize(curved, by, -128, 127).to(torch.int8)  # type: ignore[no-any-return]


def _ibert_add(left: Tensor, by_left: Tensor, right: Tensor, by_right: Tensor, bits: int) -> Tensor:
    """The sum of integers of two scales at a third, of a width: int32."""
    wide = 1 << 40
    total = _requantize(left, by_left, -wide, wide) + _requantize(right, by_right, -wide, wide)
    most = 1 << (bits - 1)
    return total.clamp(-most, most - 1).to(torch.int32)  # type: ignore[no-any-return]


_add: Final[Any] = torch.jit.script(_ibert_add)


def _ibert_norm(values: Tensor, bias: Tensor, shift: int, by: Tensor) -> Tensor:
    """LayerNorm of int32, to 8 bits; `bias` and `shift` are those of `nonlinear.layer_norm`."""
    return _requantize(_layer_norm(values, bias, shift), by, -128, 127).to(torch.int8)  # type: ignore[no-any-return]


_norm: Final[Any] = torch.jit.script(_ibert_norm)


def _ibert_add_norm(  # noqa: PLR0913  a kernel's signature
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    by_hidden: Tensor,
    residual: Tensor,
    by_residual: Tensor,
    norm_bias: Tensor,
    shift: int,
    by: Tensor,
) -> Tensor:
    """A linear layer, its residual, and LayerNorm of their 22 bits: from 8 bits to 8 bits."""
    total = _add(_linear(hidden, weight, bias), by_hidden, residual, by_residual, 22)
    return _norm(total, norm_bias, shift, by)  # type: ignore[no-any-return]


def _ibert_scores(query: Tensor, key: Tensor) -> Tensor:
    """Products of queries and keys: int8 (batch, heads, q or k, size), to int32 (batch, heads, q, k)."""
    left, right = query.to(torch.int32), key.to(torch.int32)
    sizes = [left.shape[0] * left.shape[1], left.shape[2], left.shape[3]]
    flat = torch.bmm(left.reshape(sizes), right.reshape([sizes[0], right.shape[2], sizes[2]]).transpose(1, 2))
    return flat.view([left.shape[0], left.shape[1], left.shape[2], right.shape[2]])


def _ibert_softmax(scores: Tensor, attended: Tensor, constants: list[int]) -> Tensor:
    """`nonlinear.softmax`."""
    return _softmax(scores, attended, constants)  # type: ignore[no-any-return]


def _ibert_context(probabilities: Tensor, value: Tensor, by: Tensor) -> Tensor:
    """What tokens gather: uint8 (batch, heads, q, k) times int8 (batch, heads, k, size), to int8 (batch, q, hidden)."""
    left, right = probabilities.to(torch.int32), value.to(torch.int32)
    heads = left.shape[0] * left.shape[1]
    flat = torch.bmm(left.reshape([heads, left.shape[2], -1]), right.reshape([heads, right.shape[2], -1]))
    gathered = flat.view([left.shape[0], left.shape[1], left.shape[2], right.shape[3]]).transpose(1, 2)
    narrow = _requantize(gathered, by, -128, 127).to(torch.int8)
    return narrow.reshape([left.shape[0], left.shape[2], -1])  # type: ignore[no-any-return]


products: Final[Any] = _linear
linear: Final[Any] = torch.jit.script(_ibert_linear)
gelu: Final[Any] = torch.jit.script(_ibert_gelu)
add: Final[Any] = _add
norm: Final[Any] = _norm
add_norm: Final[Any] = torch.jit.script(_ibert_add_norm)
scores: Final[Any] = torch.jit.script(_ibert_scores)
softmax: Final[Any] = torch.jit.script(_ibert_softmax)
context: Final[Any] = torch.jit.script(_ibert_context)
