"""What each place of a calibrated model costs, and which to leave in float.

Owns: Cost, Noise, and how they are measured. Knows nothing of files or texts. A place is a linear layer with the
quantizers of its input and its weight, or one other quantizer; its name is what `keep_float` takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuronbert.quantization import placement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set

    from torch import Tensor

    from neuronbert.quantization.histograms import Histogram
    from neuronbert.quantization.quantizers import Quantizer

    Batch = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Cost:
    """A place, and what it alone costs.

    Attributes:
        name: As `keep_float` takes it.
        loss: How far the last hidden states move when only it is quantized: the squared difference over the variance.
    """

    name: str
    loss: float


@dataclass(frozen=True, slots=True)
class Noise:
    """What rounding does to what was seen at one place during calibration.

    Attributes:
        name: The quantizer of inputs, or I-BERT's range.
        range: What it clips at.
        largest: The largest value that it saw.
        clipped: The share of values beyond the range.
        noise: The root mean square of the error over that of the values.
    """

    name: str
    range: float
    largest: float
    clipped: float
    noise: float


def noise(name: str, amax: float, levels: int, histogram: Histogram) -> Noise:
    """The report of one place.

    Args:
        name: The place.
        amax: Its range; 0 makes everything zero.
        levels: The greatest integer.
        histogram: Of what was seen there.
    """
    centers = (np.arange(len(histogram.counts)) + 0.5) * histogram.width
    step = amax / levels if amax else 1.0
    error = np.minimum(np.rint(centers / step), levels) * step - centers if amax else centers
    total = histogram.counts.sum()
    size = np.sqrt(np.dot(histogram.counts, centers**2) / total)
    clipped = float(histogram.counts[centers > amax].sum() / total)
    share = float(np.sqrt(np.dot(histogram.counts, error**2) / total) / size)
    return Noise(name, amax, histogram.largest, clipped, share)


def costs(model: Any, batches: Sequence[Batch], progress: Callable[[int, int], None]) -> tuple[Cost, ...]:
    """Each place of an encoder and what it alone costs, most first.

    Args:
        model: An encoder with calibrated quantizers.
        batches: What it is called with, once for each place.
        progress: Told how many places of how many are done.
    """
    places = _places(model)
    found = []
    with placement.switches(model):
        wanted = _answers(model, batches, places, set())
        for done, name in enumerate(places, start=1):
            found.append(Cost(name, _distance(_answers(model, batches, places, {name}), wanted)))
            progress(done, len(places))
    return tuple(sorted(found, key=lambda cost: -cost.loss))


def proposal(model: Any, batches: Sequence[Batch], ranked: Sequence[Cost], limit: float) -> tuple[str, ...]:
    """The fewest places, of those that cost most, that left in float keep the model's loss within a limit.

    Args:
        model: As for `costs`.
        batches: As for `costs`.
        ranked: What `costs` gave.
        limit: The loss allowed, in the same unit.
    """
    places = _places(model)
    low, high = 0, len(ranked)
    with placement.switches(model):
        wanted = _answers(model, batches, places, set())
        while low < high:  # the more are in float, the less is lost
            middle = (low + high) // 2
            kept = {cost.name for cost in ranked[:middle]}
            enough = _distance(_answers(model, batches, places, places.keys() - kept), wanted) <= limit
            low, high = (low, middle) if enough else (middle + 1, high)
    return tuple(cost.name for cost in ranked[:low])


def _places(model: Any) -> dict[str, list[Quantizer]]:
    places: dict[str, list[Quantizer]] = {}
    for name, quantizer in placement.of(model).items():
        owner, _, attribute = name.rpartition(".")
        if quantizer.enabled:
            joint = attribute in (placement.INPUT, placement.WEIGHT)
            places.setdefault(owner if joint else name, []).append(quantizer)
    return places


def _answers(model: Any, batches: Sequence[Batch], places: Mapping[str, list[Quantizer]], on: Set[str]) -> list[Tensor]:
    for name, quantizers in places.items():
        for quantizer in quantizers:
            quantizer.enabled = name in on
    with torch.no_grad():
        return [model(**batch).last_hidden_state[batch["attention_mask"].bool()] for batch in batches]


def _distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    ours, theirs = torch.cat(found), torch.cat(wanted)
    return float((ours - theirs).square().mean() / theirs.var())
