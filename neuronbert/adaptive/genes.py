"""Length configurations as a search has them: where they may lie, how one becomes another.

Owns: Space, mutation and crossover, after the published evolutionary search. Knows nothing of what a configuration is
worth. Two things are otherwise than in published code: a child that isn't one (known already, or out of bounds) doesn't
count as made, and the first population fits any number of layers and any length.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, repeat
from math import ceil
from typing import TYPE_CHECKING, Final

from neuronbert.adaptive.configuration import LEAST

if TYPE_CHECKING:
    from random import Random

    from neuronbert.adaptive.configuration import Lengths
    from neuronbert.adaptive.cost import EncoderSize

_HALVINGS: Final = 60
"""Of an interval of ratios: enough to tell any two doubles apart."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where a search looks.

    Attributes:
        size: The encoder's sizes.
        sequence_length: Tokens of a row.
        drop: The share of its tokens that each layer of the cheapest configuration drops.
    """

    size: EncoderSize
    sequence_length: int
    drop: float

    @property
    def full(self) -> Lengths:
        """The configuration that drops nothing."""
        return (self.sequence_length,) * self.size.layers

    @property
    def least(self) -> Lengths:
        """The cheapest configuration."""
        return self.shrinking(1 - self.drop)

    def shrinking(self, ratio: float) -> Lengths:
        """The configuration of which each layer keeps the same share of its tokens, rounded up."""
        layers = repeat(ratio, self.size.layers)
        kept = accumulate(layers, lambda width, share: max(LEAST, ceil(width * share)), initial=self.sequence_length)
        return tuple(kept)[1:]

    def macs(self, lengths: Lengths) -> int:
        """What a row costs with a configuration."""
        return self.size.macs(self.sequence_length, lengths)

    def holds(self, lengths: Lengths) -> bool:
        """Whether a configuration costs no less than the cheapest and no more than the full one."""
        return self.macs(self.least) <= self.macs(lengths) <= self.macs(self.full)

    def spread(self, count: int) -> list[Lengths]:
        """Configurations of even shrinking whose sums of tokens lie evenly from the cheapest's to the full one's."""
        low, high = sum(self.least), sum(self.full)
        sums = [low + (high - low) * step / max(1, count - 1) for step in range(count)]
        found = [self.least, *(self.shrinking(self._ratio(total)) for total in sums[1:-1]), self.full]
        return list(dict.fromkeys(lengths for lengths in found if self.holds(lengths)))

    def _ratio(self, total: float) -> float:
        """The least ratio at which a row that shrinks by it, layer by layer, has so many tokens in all."""
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(self.shrinking(middle)) < total else (low, middle)
        return high


def mutate(lengths: Lengths, space: Space, rng: Random, probability: float) -> Lengths:
    """A configuration in which some layers keep another number of tokens, between those of their neighbours."""
    child: list[int] = []
    for layer, length in enumerate(lengths):
        upper = child[-1] if child else space.sequence_length
        lower = lengths[layer + 1] if layer + 1 < len(lengths) else LEAST
        child.append(rng.randint(lower, upper) if rng.random() < probability else length)
    return tuple(child)


def cross(one: Lengths, other: Lengths) -> Lengths:
    """The mean of two configurations, rounded up."""
    return tuple((left + right + 1) // 2 for left, right in zip(one, other, strict=True))
