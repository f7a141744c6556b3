"""Quantization-aware fine-tuning: the float encoder with I-BERT's arithmetic in it, whose gradients pass rounding by.

Owns: the arithmetic that is trained. Knows nothing of data, losses or files. As in the paper: weights, embedding
tables, attention probabilities and what lies between the steps are rounded to 8 bits, GELU and softmax are the
polynomials of nonlinear.py, ranges are averages over batches (they move in training mode only, and padding doesn't
move them), and the gradient of rounding is the identity inside a range and nothing beyond it. What has 16 bits or
more in the integer reference has fp32's here: LayerNorm is torch's own, and so are the sums before it. So the two
round a value differently where it lies near the middle of two integers, and only there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from neuronbert.integers.calibration import Observing
from neuronbert.integers.dequantized import LEAST, MOST, PROBABILITY
from neuronbert.integers.nonlinear import ERF_A, ERF_B, EXP_A, EXP_B, EXP_C, LN2, ROOT_2
from neuronbert.integers.ranges import NARROW, RangeAverage, Ranges, bits
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
        self._shifts = dict(ranges.shifts)
        base.register_forward_pre_hook(self._leave_padding_out, with_kwargs=True)
        for name, extent in ranges.extents.items():
            self.seen[name] = RangeAverage(-extent, extent)

    def learned(self) -> Ranges:
        """The ranges as they are now.

        Raises:
            UncalibratedError: there were none to begin with, and nothing ran.
        """
        found = self.ranges(lambda _, average: average.extent)
        found.shifts = self._shifts | found.shifts
        return found

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
            self._average(name, values)
        if bits(name) > NARROW:
            return values
        average = self.seen[name]
        extent = average.extent if isinstance(average, RangeAverage) else 0.0
        return rounded(values, torch.tensor(extent, dtype=values.dtype))

    def deviation(self, name: str, values: Tensor) -> None:
        """See Observing."""
        if self._base.training:
            super().deviation(name, values)

    def _average(self, name: str, values: Tensor) -> None:
        mask, tokens = self.mask, values.shape[-2]
        if mask is not None and mask.shape[1] != tokens:
            self.mask = None  # tokens were dropped, padding first: what is left counts
        super().look(name, values)
        self.mask = mask

    def _leave_padding_out(self, _: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        given = args[1] if len(args) > 1 else options.get("attention_mask")
        self.mask = given.bool() if given is not None and given.dim() == 2 and bool(given.any()) else None

    def _dropped(self, site: Any, shares: Tensor) -> Tensor:
        dropped: Tensor = site.dropout(shares)
        return dropped


def rounded(values: Tensor, extent: Tensor, *, weights: bool = False) -> Tensor:
    """Values rounded to 8 bits over a range; their gradient is the identity inside it, its ends too, and 0 beyond.

    Args:
        values: Of any shape.
        extent: The range's, which is 127 steps; of a shape that broadcasts.
        weights: They are cut off at -127 and 126 as weights are, not at -128 and 127 as what lies between the steps is.
    """
    extent = extent.clamp(min=SMALLEST_RANGE)
    scale = extent / limit(8)
    low, high = (-limit(8), limit(8) - 1) if weights else (LEAST, MOST)
    whole = torch.round(values.detach() / scale).clamp(low, high)
    # A clamp's own gradient is a half, or none, at the very ends, where the largest weight of each row is.
    inside = (values.detach().abs() <= extent).to(values.dtype)
    return _straight(values * inside, whole * scale)


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
