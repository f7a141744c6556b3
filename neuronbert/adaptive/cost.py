"""What a row costs an encoder that drops tokens, in closed form.

Owns: the count of multiply-adds. Knows nothing of models: three sizes are all that it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """An encoder's sizes.

    Attributes:
        layers: How many layers it has.
        hidden: The size of a token's vector.
        intermediate: That of the feed-forward's.
    """

    layers: int
    hidden: int
    intermediate: int

    def macs(
        self, sequence_length: int, lengths: Sequence[int] | None = None, run: Collection[int] | None = None
    ) -> int:
        """The multiply-adds of all matrix products of the layers, for one row.

        A layer that gets c tokens and keeps k takes 4cH^2 for its projections, 2c^2H for scores and context, and 2kHF
        for the feed-forward.

        Args:
            sequence_length: Tokens of the row.
            lengths: What each layer keeps; None for all.
            run: The layers that are run; None for all.
        """
        total, width = 0, sequence_length
        for layer in range(self.layers):
            if run is not None and layer not in run:
                continue
            kept = width if lengths is None else lengths[layer]
            total += 4 * width * self.hidden**2 + 2 * width**2 * self.hidden
            total += 2 * kept * self.hidden * self.intermediate
            width = kept
        return total
