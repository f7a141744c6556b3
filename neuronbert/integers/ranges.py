"""What the activations of an encoder span, by I-BERT's own names: all that calibration finds out.

Owns: Ranges, the names that an encoder needs, and the average over batches. Knows nothing of how ranges are used.
Source of the names and of the average: transformers' IBertModel, whose checkpoints hold them as buffers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from neuronbert.errors import IntegerRangeError, UncalibratedError
from neuronbert.integers.scales import scale_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

EMBEDDINGS: Final = ("embeddings.embeddings_act1", "embeddings.output_activation")
LAYER: Final = (
    "attention.self.query_activation",
    "attention.self.key_activation",
    "attention.self.value_activation",
    "attention.self.output_activation",
    "attention.output.ln_input_act",
    "pre_intermediate_act",
    "pre_output_act",
    "output.ln_input_act",
    "output.output_activation",
)
"""Of each layer. That of the exponentials isn't among them: they are at most 1, whatever the data."""
_UNREAD: Final = (".softmax.act", ".LayerNorm.activation")
"""Ranges that transformers holds beside these: of exponentials, in units of its own, and of nothing."""
TWICE: Final = {
    "pre_intermediate_act": "attention.output.output_activation",
    "pre_output_act": "intermediate.output_activation",
}
"""Ranges that transformers holds twice, because it rounds twice in a row."""
NORMS: Final = ("attention.output.LayerNorm", "output.LayerNorm")
NARROW: Final = 8
"""The width of what goes into products. Wider places have levels enough for the largest value."""
_WIDE: Final = {"embeddings.embeddings_act1": 16, "ln_input_act": 22}
"""Their widths, by how their names end."""
MOMENTUM: Final = 0.95
_UNSET: Final = 1.1e-5
"""A fresh range of transformers is from -1e-5 to 1e-5."""
_LARGEST: Final = 1e6
_BUFFERS: Final = (
    *("x_min", "x_max", "act_scaling_factor", "shift"),
    *("weight_integer", "weight_scaling_factor", "fc_scaling_factor", "bias_integer"),
)
"""How names end that only a calibrated checkpoint has. All but the ranges and shifts are made anew from the weights."""


def names(layers: int) -> list[str]:
    """The ranges that an encoder of so many layers needs."""
    return [*EMBEDDINGS, *(f"encoder.layer.{index}.{name}" for index in range(layers) for name in LAYER)]


def bits(name: str) -> int:
    """The width that what is at a place is rounded to."""
    return next((width for end, width in _WIDE.items() if name.endswith(end)), NARROW)


@dataclass(slots=True)
class Ranges:
    """Ranges by name, and the shifts of LayerNorms.

    Attributes:
        extents: The largest magnitude of each.
        shifts: By the name of the LayerNorm; 0 where there is none.
    """

    extents: dict[str, float] = field(default_factory=dict)
    shifts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], prefix: str = "") -> Ranges:
        """The ranges among a checkpoint's tensors; those that were never set are left out.

        Args:
            weights: By name.
            prefix: What the names of the encoder's begin with, such as "bert.".

        Raises:
            IntegerRangeError: a range is no range.
        """
        found = cls()
        for name in weights:
            own = name.removeprefix(prefix)
            if own.endswith(".x_max"):
                place = own.removesuffix(".x_max")
                if place.endswith(_UNREAD):
                    continue
                extent = _extent(place, weights.get(name[: -len("max")] + "min"), weights[name])
                if extent >= _UNSET:
                    found.extents[place] = extent
            elif own.endswith("LayerNorm.shift"):
                found.shifts[own.removesuffix(".shift")] = _shift(own, weights[name])
        return found

    def check(self, layers: int) -> None:
        """Refuse to go on with less than an encoder needs.

        Raises:
            UncalibratedError: it says what is missing.
        """
        needed = names(layers)
        missing = [name for name in needed if name not in self.extents]
        if missing:
            raise UncalibratedError(missing[0])

    def scale(self, name: str, bits: int) -> float:
        """The scale of a width over a range."""
        return scale_of(self.extents[name], bits)

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """The ranges as transformers' IBertModel names and holds them."""
        extents = {twin: extent for name, extent in self.extents.items() for twin in _twins(name)}
        held = {f"{prefix}{name}.x_min": torch.tensor([-extent]) for name, extent in extents.items()}
        held |= {f"{prefix}{name}.x_max": torch.tensor([extent]) for name, extent in extents.items()}
        return held | {f"{prefix}{name}.shift": torch.tensor([float(shift)]) for name, shift in self.shifts.items()}


@dataclass(slots=True)
class RangeAverage:
    """What batches span, averaged as I-BERT does it: each new one counts for a twentieth.

    Attributes:
        low: The average of what was least.
        high: Of what was most.
    """

    low: float | None = None
    high: float | None = None

    def add(self, values: Tensor) -> None:
        """Take a batch's values in."""
        low, high = (float(bound) for bound in torch.aminmax(values.detach()))
        if self.low is None or self.high is None:
            self.low, self.high = low, high
            return
        self.low = MOMENTUM * self.low + (1 - MOMENTUM) * low
        self.high = MOMENTUM * self.high + (1 - MOMENTUM) * high

    @property
    def extent(self) -> float:
        """The largest magnitude; 0 before the first batch."""
        return max(abs(self.low or 0.0), abs(self.high or 0.0))


def is_range(name: str) -> bool:
    """Whether a tensor of a checkpoint is no weight but of an I-BERT's calibration, by its name."""
    return name.rpartition(".")[2] in _BUFFERS


def _twins(name: str) -> list[str]:
    for once, twice in TWICE.items():
        if name.endswith(f".{once}"):
            return [name, f"{name.removesuffix(once)}{twice}"]
    return [name]


def _extent(name: str, low: Tensor | None, high: Tensor) -> float:
    if low is None or low.numel() != 1 or high.numel() != 1:
        raise IntegerRangeError(name, "its range hasn't two ends")
    ends = float(low), float(high)
    if not all(abs(end) <= _LARGEST for end in ends):  # which nothing that is not a number is
        raise IntegerRangeError(name, f"its range is from {ends[0]} to {ends[1]}")
    return max(map(abs, ends))


def _shift(name: str, held: Tensor) -> int:
    value = float(held) if held.numel() == 1 else -1.0
    if not (0 <= value <= 22 and value == int(value)):
        raise IntegerRangeError(name, f"it is {value}, not a whole number from 0 to 22")
    return int(value)
