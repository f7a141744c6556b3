"""Quantization-aware fine-tuning: the float encoder with I-BERT's arithmetic in it, whose gradients pass rounding by.

Owns: the arithmetic that is trained. Knows nothing of data, losses or files. As in the paper: weights and what lies
between the steps are rounded to 8 bits, GELU and softmax are the polynomials of nonlinear.py, ranges are averages over
batches (they move in training mode only), and the gradient of rounding is the identity inside a range and nothing
beyond it. What has 16 bits or more in the integer reference has fp32's here: LayerNorm is torch's own, and so are the
sums before it. So the two round a value differently where it lies near the middle of two integers, and only there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from neuronbert.integers.calibration import Observing
from neuronbert.integers.dequantized import PROBABILITY
from neuronbert.integers.nonlinear import ERF_A, ERF_B, EXP_A, EXP_B, EXP_C, LN2, ROOT_2
from neuronbert.integers.ranges import WIDE, RangeAverage, Ranges
from neuronbert.integers.scales import SMALLEST_RANGE, limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neuronbert.integers.dequantized import ForceDequant

_TABLES = ("word_embeddings", "token_type_embeddings", "position_embeddings")
_HALVINGS = 30


class Training(Observing):
    """I-BERT's arithmetic on floating-point numbers that are rounded to 8 bits and back.

    Args:
        base: The encoder's module.
        ranges: Where the averages begin.
        force_dequant: What is torch's own function all the same.
    """

    def __init__(self, base: Any, ranges: Ranges, force_dequant: ForceDequant = "none") -> None:
        super().__init__(base, RangeAverage)
        self._base = base
        self._force_dequant = force_dequant
        for name, extent in ranges.extents.items():
            self.seen[name] = RangeAverage(-extent, extent)

    def learned(self) -> Ranges:
        """The ranges as they are now.

        Raises:
            UncalibratedError: there were none to begin with, and nothing ran.
        """
        return self.ranges(lambda _, average: average.extent)

    def embed(self, site: Any, given: Mapping[str, Tensor | None]) -> Tensor:
        """See Arithmetic."""
        tables = {f"{name}.weight": getattr(site, name).weight for name in _TABLES}
        rounded_ = {name: rounded(table, table.detach().abs().max(), weights=True) for name, table in tables.items()}

        def sites(**given: Tensor | None) -> Tensor:
            embedded: Tensor = functional_call(site, rounded_, kwargs=given)
            return embedded

        sites.LayerNorm = site.LayerNorm  # type: ignore[attr-defined]
        return super().embed(sites, given)

    def softmax(self, site: Any, scores: Tensor, mask: Tensor | None) -> Tensor:
        """See Arithmetic."""
        if self._force_dequant in ("softmax", "nonlinear"):
            shares = nn.functional.softmax(scores if mask is None else scores + mask, dim=-1)
            return self._dropped(
                site, _straight(shares, torch.round(shares / PROBABILITY).clamp(max=255) * PROBABILITY)
            )
        return self._dropped(site, softmax(scores, mask))

    def linear(self, site: Any, hidden: Tensor) -> Tensor:
        """See Arithmetic."""
        extent = site.weight.detach().abs().amax(1, keepdim=True)
        return nn.functional.linear(hidden, rounded(site.weight, extent, weights=True), site.bias)

    def activated(self, site: Any, hidden: Tensor) -> Tensor:
        """See Observing."""
        if self._force_dequant in ("gelu", "nonlinear"):
            return super().activated(site, hidden)
        return gelu(hidden)

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

    def _dropped(self, site: Any, shares: Tensor) -> Tensor:
        dropped: Tensor = site.dropout(shares)
        return dropped


def rounded(values: Tensor, extent: Tensor, *, weights: bool = False) -> Tensor:
    """Values rounded to 8 bits over a range; their gradient is that of cutting them off at its ends.

    Args:
        values: Of any shape.
        extent: The range's, which is 127 steps; of a shape that broadcasts.
        weights: They are cut off at -127 and 126 as weights are, not at -128 and 127 as what lies between the steps is.
    """
    scale = extent.clamp(min=SMALLEST_RANGE) / limit(8)
    low, high = (-limit(8), limit(8) - 1) if weights else (-limit(8) - 1, limit(8))
    cut = torch.maximum(torch.minimum(values, high * scale), low * scale)
    return _straight(cut, torch.round(cut / scale) * scale)


def gelu(values: Tensor) -> Tensor:
    """I-BERT's GELU of real numbers."""
    argument = values / ROOT_2
    parabola = ERF_A * (argument.abs().clamp(max=-ERF_B) + ERF_B).square() + 1
    return values / 2 * (1 + torch.sign(argument) * parabola)


def softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """I-BERT's softmax of real numbers: its probabilities are rounded down to 256ths, as the integers' are.

    Args:
        scores: (..., keys).
        mask: 0 where a score counts; None if all do.
    """
    attended = torch.ones_like(scores, dtype=torch.bool) if mask is None else (mask == 0).expand_as(scores)
    attended = attended | ~attended.any(-1, keepdim=True)
    below = (scores.masked_fill(~attended, -torch.inf).amax(-1, keepdim=True) - scores).clamp(0, _HALVINGS * LN2)
    halvings = torch.floor(below.detach() / LN2)
    rest = halvings * LN2 - below
    values = EXP_A * ((rest + EXP_B) * rest + EXP_C) * torch.exp2(-halvings) * attended
    most = limit(16)
    narrow = _straight(values, torch.round(values * most) / most)
    shares = narrow / narrow.sum(-1, keepdim=True)
    return _straight(shares, torch.floor(shares.detach() / PROBABILITY).clamp(max=255) * PROBABILITY)


def _straight(values: Tensor, rounded_: Tensor) -> Tensor:
    """What was rounded, with the gradient of what it was."""
    return values + (rounded_ - values).detach()
