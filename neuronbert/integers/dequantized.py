"""What I-BERT leaves in floating point if it is asked to: GELU, softmax or LayerNorm, or all three.

Owns: the choice, and these functions between whole numbers: what they give is rounded to 8 bits. Knows nothing of the
types that whole numbers are held in: what comes in any is made fp32 by name, since a program that was saved knows a
number of Python's as one of fp64, and what goes is fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

ForceDequant = Literal["none", "gelu", "softmax", "layernorm", "nonlinear"]
FORCE_DEQUANT: Final[tuple[ForceDequant, ...]] = get_args(ForceDequant)
PROBABILITY: Final = 2.0**-8
"""The scale of attention probabilities."""
LEAST: Final = -128
MOST: Final = 127
"""Where what lies between the steps is cut off, whatever computed it."""


def softmax(scores: Tensor, attended: Tensor, scale: float) -> Tensor:
    """Probabilities, 0 to 255, of scores that are multiplied by a scale; of those that are attended to."""
    told = (scores.to(torch.float32) * scale).masked_fill(~attended, torch.finfo(torch.float32).min)
    return (torch.softmax(told, -1) / PROBABILITY).round().clamp(0, 255)


def gelu(values: Tensor, scales: Tensor, scale: float) -> Tensor:
    """8 bits at a scale, of whole numbers at a scale for each column."""
    return _narrow(nn.functional.gelu(values * scales), scale)


def layer_norm(values: Tensor, site: Any, scales: tuple[float, float]) -> Tensor:
    """8 bits at the second scale, of whole numbers at the first; `site` has weight, bias and eps."""
    real = values.to(torch.float32) * scales[0]
    return _narrow(nn.functional.layer_norm(real, real.shape[-1:], site.weight, site.bias, site.eps), scales[1])


def _narrow(values: Tensor, scale: float) -> Tensor:
    return torch.round(values / scale).clamp(LEAST, MOST)
