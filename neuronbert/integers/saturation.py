"""How much of a model's integers lies at the ends of their range, where what is beyond is cut off.

Owns: counting, and what of it is worth telling. Knows nothing of what made the integers.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert.integers.arithmetic import IntegerArithmetic
from neuronbert.integers.dequantized import LEAST, MOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from neuronbert.integers.arithmetic import Integers

NOTABLE: Final = 0.01
"""A share at one place that says that its range is of other data."""


@dataclass(slots=True)
class Share:
    """How many values there were at one place, and how many of them at an end.

    Attributes:
        ends: The values that are the least or the greatest of 8 bits.
        total: All of them.
    """

    ends: int = 0
    total: int = 0

    @property
    def ratio(self) -> float:
        """The share at the ends, from 0 to 1."""
        return self.ends / self.total if self.total else 0.0


class _Counting(IntegerArithmetic):
    """I-BERT's arithmetic, which counts what is at the ends of 8 bits after every step that rounds to them."""

    def __init__(self, base: Any, shares: dict[str, Share]) -> None:
        self._names = {id(module): name for name, module in base.named_modules()}
        self._shares = shares

    def embed(self, site: Any, given: Mapping[str, Tensor | None]) -> Integers:
        """See Arithmetic."""
        return self._count(site, super().embed(site, given))

    def project(self, site: Any, hidden: Integers) -> tuple[Integers, Integers, Integers]:
        """See Arithmetic."""
        query, key, value = super().project(site, hidden)
        self._count(site, query, "query")
        self._count(site, key, "key")
        self._count(site, value, "value")
        return query, key, value

    def context(self, site: Any, probabilities: Integers, value: Integers) -> Integers:
        """See Arithmetic."""
        return self._count(site, super().context(site, probabilities, value))

    def activate(self, site: Any, hidden: Integers) -> Integers:
        """See Arithmetic."""
        return self._count(site, super().activate(site, hidden))

    def add_norm(self, site: Any, hidden: Integers, residual: Integers) -> Integers:
        """See Arithmetic."""
        return self._count(site, super().add_norm(site, hidden, residual))

    def _count(self, site: Any, result: Integers, part: str = "") -> Integers:
        name = f"{self._names[id(site)]}.{part}" if part else self._names[id(site)]
        share = self._shares.setdefault(name, Share())
        share.ends += int(((result.values == LEAST) | (result.values == MOST)).sum())
        share.total += result.values.numel()
        return result


@contextmanager
def counted(model: Any) -> Iterator[dict[str, Share]]:
    """Count in every call of a model while this lasts; its integers stay the same.

    Args:
        model: What holds an integer encoder; of any other nothing is counted.

    Yields:
        The shares so far, by the name of the module in the encoder.
    """
    shares: dict[str, Share] = {}
    found = [module for module in model.modules() if isinstance(getattr(module, "arithmetic", None), IntegerArithmetic)]
    before = [encoder.arithmetic for encoder in found]
    for encoder in found:
        encoder.arithmetic = _Counting(encoder, shares)
    try:
        yield shares
    finally:
        for encoder, arithmetic in zip(found, before, strict=True):
            encoder.arithmetic = arithmetic


def summary(shares: Mapping[str, Share]) -> str:
    """A sentence on the places where too much is cut off, or nothing."""
    found = sorted(((share.ratio, name) for name, share in shares.items() if share.ratio > NOTABLE), reverse=True)
    if not found:
        return ""
    worst, name = found[0]
    places = f"at {len(found)} of {len(shares)} places more than {NOTABLE:.0%} of the integers are"
    return f"{places} at the end of their range, most at {name} ({worst:.1%}): calibrate with texts like these"
