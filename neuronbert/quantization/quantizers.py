"""A tensor to the nearest values that integers and a scale can express, and how its range is found.

Owns: Quantizer, a module with one range, and the rounding. Knows nothing of where quantizers go. The name of its buffer
is that of the pytorch-quantization toolkit, whose checkpoints hold it; so is the arithmetic: the scale is the range
over the greatest integer, rounding is to nearest even, zero is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from neuronbert.errors import UncalibratedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from neuronbert.schemes import Descriptor

_LEAST_RANGE: Final = 2.0**-24
"""At or below it everything becomes zero, as in the toolkit: the scale of such a range isn't finite in fp32."""


class Quantizer(nn.Module):
    """Rounds a tensor to the values that its range allows; gradients pass where it doesn't clip.

    Args:
        name: What errors call it.
        descriptor: How it quantizes.

    Attributes:
        enabled: Whether it quantizes; if not, it lets tensors through.
        observer: Told of every tensor in place of quantizing it, while ranges are looked for.
    """

    def __init__(self, name: str, descriptor: Descriptor) -> None:
        super().__init__()
        self.name = name
        self.descriptor = descriptor
        self.enabled = True
        self.observer: Callable[[Tensor], None] | None = None
        self._amax: Tensor | None
        self.register_buffer("_amax", None)

    def forward(self, values: Tensor) -> Tensor:
        """The nearest values that can be expressed.

        Raises:
            UncalibratedError: its range was never set.
        """
        if self.observer is not None:
            self.observer(values)
            return values
        return self.quantize(values) if self.enabled else values

    def quantize(self, values: Tensor) -> Tensor:
        """As `forward`, whether it is enabled or not."""
        amax, (least, most) = self.amax().float(), self.descriptor.bounds
        there = amax > _LEAST_RANGE
        steps = values.float() * torch.where(there, most / amax, 0.0)
        clipped = steps.clamp(least, most)
        rounded = torch.round(clipped)
        if clipped.requires_grad:
            # The range times (most / range) may be above most by a rounding, and isn't clipped for that.
            edge = (values.float().abs() == amax) & (steps > least - 0.5)
            clipped = torch.where(edge, steps, clipped)
            rounded = clipped + (rounded - clipped).detach()  # straight through
        return (rounded * torch.where(there, amax / most, 0.0)).to(values.dtype)

    def scale(self) -> Tensor:
        """What one integer step stands for: a scalar, or [rows, 1].

        Raises:
            UncalibratedError: its range was never set.
        """
        amax = self.amax().float()
        return torch.where(amax > _LEAST_RANGE, amax / self.descriptor.bounds[1], 0.0)

    def amax(self) -> Tensor:
        """The range.

        Raises:
            UncalibratedError: it was never set.
        """
        if self._amax is None:
            raise UncalibratedError(self.name)
        return self._amax

    def set_amax(self, amax: Tensor) -> None:
        """Set the range: a scalar, or one value for each row of a weight, as [rows, 1]."""
        self._amax = amax.detach().clone().float()

    def follow(self, amax: Tensor) -> None:
        """Quantize with a range that something else computes, and pass gradients on to it."""
        self._amax = amax

    def learn(self) -> None:
        """Make the range a parameter, which training moves with the weights.

        Raises:
            UncalibratedError: it was never set.
        """
        amax = self.amax()
        del self._amax
        self._amax = nn.Parameter(amax.clone())


def widest(weight: Tensor, descriptor: Descriptor) -> Tensor:
    """The range that clips nothing of a weight [rows, columns]: a scalar, or [rows, 1] with an axis."""
    size = weight.detach().abs()
    return size.amax() if descriptor.axis is None else size.amax(dim=1, keepdim=True)
