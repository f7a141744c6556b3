"""Quantization-aware fine-tuning: the float encoder with I-BERT's rounding in it, and gradients that pass it by.

Owns: the arithmetic that is trained. Knows nothing of data, losses or files. As in the paper: weights and what lies
between the steps are rounded to 8 bits, ranges are averages over batches (they move in training mode only), and the
gradient is the identity inside a range and nothing beyond it. Unlike there, GELU, softmax and LayerNorm are torch's
own: their polynomials are the integer reference's alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neuronbert.integers.calibration import Observing
from neuronbert.integers.ranges import WIDE, RangeAverage, Ranges
from neuronbert.integers.scales import SMALLEST_RANGE, limit

if TYPE_CHECKING:
    from torch import Tensor


class Training(Observing):
    """Torch's operators on values that are rounded to 8 bits and back.

    Args:
        base: The encoder's module.
        ranges: Where the averages begin.
    """

    def __init__(self, base: Any, ranges: Ranges) -> None:
        super().__init__(base, RangeAverage)
        self._base = base
        for name, extent in ranges.extents.items():
            self.seen[name] = RangeAverage(-extent, extent)

    def learned(self) -> Ranges:
        """The ranges as they are now.

        Raises:
            UncalibratedError: there were none to begin with, and nothing ran.
        """
        return self.ranges(lambda _, average: average.extent)

    def linear(self, site: Any, hidden: Tensor) -> Tensor:
        """See Arithmetic."""
        extent = site.weight.detach().abs().amax(1, keepdim=True)
        return nn.functional.linear(hidden, rounded(site.weight, extent), site.bias)

    def look(self, name: str, values: Tensor) -> Tensor:
        """The values as 8 bits leave them."""
        if self._base.training:
            super().look(name, values)
        if name.endswith(WIDE):
            return values
        average = self.seen[name]
        extent = average.extent if isinstance(average, RangeAverage) else 0.0
        return rounded(values, torch.tensor(extent, dtype=values.dtype))

    def deviation(self, name: str, values: Tensor) -> None:
        """See Observing."""
        if self._base.training:
            super().deviation(name, values)


def rounded(values: Tensor, extent: Tensor) -> Tensor:
    """Values rounded to 8 bits over a range; their gradient is that of cutting them off at its ends."""
    scale = extent.clamp(min=SMALLEST_RANGE) / limit(8)
    cut = torch.maximum(torch.minimum(values, extent), -extent)
    return cut + (torch.round(cut / scale) * scale - cut).detach()
