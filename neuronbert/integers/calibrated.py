"""What is known of a place in an encoder before a module of integers is built for it.

Owns: Calibrated. Knows nothing of the modules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuronbert.integers.dequantized import ForceDequant
    from neuronbert.integers.ranges import Ranges


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A place, with the ranges of the whole encoder.

    Attributes:
        name: Of the place, as transformers names the module there.
        ranges: Of every place.
        force_dequant: What is computed in floating point all the same.
    """

    name: str
    ranges: Ranges
    force_dequant: ForceDequant

    def below(self, part: str) -> Calibrated:
        """A part of it."""
        return replace(self, name=f"{self.name}.{part}")

    def scale(self, part: str, bits: int) -> float:
        """The scale of a width over the range of a part."""
        return self.ranges.scale(f"{self.name}.{part}", bits)

    @property
    def shift(self) -> int:
        """What its LayerNorm shifts centred values by."""
        return self.ranges.shifts.get(f"{self.name}.LayerNorm", 0)

    def leaves(self, function: ForceDequant) -> bool:
        """Whether a function is computed in floating point."""
        return self.force_dequant in (function, "nonlinear")
