"""Ranges from data, without training: the float encoder runs, and what I-BERT would round is looked at.

Owns: the arithmetic that looks, and what it makes of it. Knows nothing of files or texts, nor of how a range is chosen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from neuronbert.encoder.arithmetic import FloatArithmetic
from neuronbert.errors import IntegerRangeError
from neuronbert.integers.nonlinear import SUM_BITS
from neuronbert.integers.ranges import NORMS, Ranges, bits
from neuronbert.integers.scales import limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

_FREE_BITS: Final = 1
"""Rows of a call may deviate by twice as much as those of the calibration before a square sum exceeds 32 bits."""


class Watcher(Protocol):
    """Whatever is told the values at one place."""

    def add(self, values: Tensor) -> object:
        """Take values in."""


class Observing(FloatArithmetic):
    """Torch's operators, with a look at what I-BERT would round.

    Args:
        base: The encoder's module, whose sites are told apart by their names.
        watcher: Makes what is told the values of one place.
    """

    def __init__(self, base: Any, watcher: Callable[[], Watcher]) -> None:
        self._names = {id(module): name for name, module in base.named_modules()}
        self._layers = len(base.encoder.layer)
        self.seen: defaultdict[str, Watcher] = defaultdict(watcher)
        self.mask: Tensor | None = None
        """Which tokens count, bool, (batch, sequence); None for all of them."""
        self._deviations: dict[str, float] = {}

    def embed(self, site: Any, given: Mapping[str, Tensor | None]) -> Tensor:
        """See Arithmetic."""
        held: list[Tensor] = []
        hook = site.LayerNorm.register_forward_pre_hook(lambda _, args: held.append(args[0]))
        try:
            embedded = super().embed(site, given)
        finally:
            hook.remove()
        self.look("embeddings.embeddings_act1", held[0])
        self.deviation("embeddings.LayerNorm", held[0])
        return self.look("embeddings.output_activation", embedded)

    def project(self, site: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See Arithmetic."""
        name, found = self._names[id(site)], super().project(site, hidden)
        parts = zip(("query", "key", "value"), found, strict=True)
        query, key, value = (self.look(f"{name}.{part}_activation", values) for part, values in parts)
        return query, key, value

    def context(self, site: Any, probabilities: Tensor, value: Tensor) -> Tensor:
        """See Arithmetic."""
        name = f"{self._names[id(site)]}.output_activation"
        return self.look(name, super().context(site, probabilities, value))

    def activate(self, site: Any, hidden: Tensor) -> Tensor:
        """See Arithmetic."""
        layer = self._names[id(site)].removesuffix("intermediate")
        return self.look(f"{layer}pre_output_act", self.activated(site, hidden))

    def activated(self, site: Any, hidden: Tensor) -> Tensor:
        """The activation function of BertIntermediate, before it is looked at."""
        return super().activate(site, hidden)

    def add_norm(self, site: Any, hidden: Tensor, residual: Tensor) -> Tensor:
        """See Arithmetic."""
        name = self._names[id(site)]
        total = self.look(f"{name}.ln_input_act", hidden + residual)
        self.deviation(f"{name}.LayerNorm", total)
        first = name.endswith("attention.output")
        after = f"{name.removesuffix('attention.output')}pre_intermediate_act" if first else f"{name}.output_activation"
        return self.look(after, super().add_norm(site, hidden, residual))

    def look(self, name: str, values: Tensor) -> Tensor:
        """Take in what is at a place, and give what goes on from there: the same.

        Raises:
            IntegerRangeError: a value isn't finite.
        """
        told = values.transpose(1, 2) if values.dim() == 4 else values
        told = told if self.mask is None else told[self.mask]
        if not bool(torch.isfinite(told).all()):
            raise IntegerRangeError(name, "an activation is infinite or not a number")
        self.seen[name].add(told)
        return values

    def deviation(self, name: str, values: Tensor) -> None:
        """Take in what a LayerNorm is given."""
        values = values.detach()
        centred = values - values.mean(-1, keepdim=True)
        largest = float(centred.square().sum(-1).max().sqrt())
        self._deviations[name] = max(self._deviations.get(name, 0.0), largest)

    def ranges(self, choose: Callable[[str, Any], float]) -> Ranges:
        """What was found.

        Args:
            choose: The extent of a range, from its name and what was told its values.

        Raises:
            UncalibratedError: nothing ran.
        """
        found = Ranges({name: choose(name, watcher) for name, watcher in self.seen.items()})
        found.check(self._layers)
        for name, deviation in self._deviations.items():
            before = _before(name)
            found.shifts[name] = _shift(deviation, found.scale(before, bits(before)))
        return found


def _before(norm: str) -> str:
    """The range of what a LayerNorm is given."""
    for end in NORMS:
        if norm.endswith(end):
            return f"{norm.removesuffix('LayerNorm')}ln_input_act"
    return "embeddings.embeddings_act1"


def _shift(deviation: float, scale: float) -> int:
    """As few bits as keep the sum of squares within what I-BERT's hardware has."""
    needed = math.log2(max(deviation / scale, 1.0)) + _FREE_BITS - SUM_BITS / 2
    return min(max(0, math.ceil(needed)), limit(5))
