"""Batches to ranges.

Owns: running a model so that its quantizers see what they will round, and setting their ranges. Knows nothing of files
or texts. What is computed at padding isn't counted: a program may clip it as it likes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import torch

from neuronbert.errors import CalibrationError
from neuronbert.quantization import histograms, placement
from neuronbert.quantization.histograms import Histogram
from neuronbert.quantization.quantizers import widest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from weakref import ReferenceType

    from torch import Tensor

    from neuronbert.quantization.quantizers import Quantizer
    from neuronbert.schemes import CalibrationMethod

    Batch = Mapping[str, Tensor]

_DATA: Final = "the data"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibration saw.

    Attributes:
        rows: How many rows.
        histograms: Of the absolute values at each quantizer of inputs, by name; places that were given the same tensors
            share one.
    """

    rows: int
    histograms: Mapping[str, Histogram]


def calibrate(
    model: Any,
    batches: Iterable[Batch],
    method: CalibrationMethod,
    *,
    percentile: float = 99.99,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Calibrated:
    """Run batches through a model in float, and set the range of every quantizer.

    Weights get the range that clips nothing.

    Args:
        model: A model with our encoder and quantizers; in eval mode. Those that aren't enabled get no range.
        batches: What it takes, by name: input_ids, attention_mask and others, each [rows, tokens].
        method: How the ranges of inputs are chosen.
        percentile: The share of values, in percent, that the method of that name leaves unclipped.
        progress: Told after each batch how many rows are done.

    Raises:
        CalibrationError: there is no batch, its rows are all the same or all padding, or a quantizer saw values that no
            range can be chosen from.
    """
    quantizers = {name: item for name, item in placement.of(model).items() if item.enabled}
    with _watched(quantizers) as (seen, tell_mask):
        rows = run(model, batches, tell_mask, progress)
    chosen: dict[Histogram, float] = {}
    for name, histogram in seen.items():
        if histogram not in chosen:  # all inputs are quantized alike
            chosen[histogram] = choose(name, histogram, quantizers[name].descriptor.bounds[1], (method, percentile))
        quantizers[name].set_amax(torch.tensor(chosen[histogram]))
    set_weight_ranges(model)
    return Calibrated(rows, seen)


def set_weight_ranges(model: Any) -> None:
    """Give each quantizer of a weight the range that clips nothing of it.

    Raises:
        CalibrationError: a weight is not finite.
    """
    for name, quantizer in placement.of(model).items():
        if name.endswith(placement.WEIGHT) and quantizer.enabled:
            weight = placement.linear_of(model, name).weight
            if not bool(torch.isfinite(weight).all()):
                raise CalibrationError(name, "has a weight that is infinite or not a number")
            quantizer.set_amax(widest(weight, quantizer.descriptor))


def run(
    model: Any, batches: Iterable[Batch], tell_mask: Callable[[Tensor], None], progress: Callable[[int], None]
) -> int:
    """Run batches through a model, in float.

    Args:
        model: What is called.
        batches: What it takes, by name.
        tell_mask: Told before each batch which of its tokens are real.
        progress: Told after each batch how many rows are done.

    Returns:
        How many rows there were.

    Raises:
        CalibrationError: there is no batch, or its rows are all the same or all padding.
    """
    rows, first, differ = 0, None, False
    for batch in batches:
        mask = batch["attention_mask"].bool()
        if not bool(mask.any(dim=-1).all()):
            raise CalibrationError(_DATA, "has a row of padding only")
        tell_mask(mask)
        with torch.no_grad():
            model(**batch)
        for ids, kept in zip(batch["input_ids"], mask, strict=True):
            row = ids[kept].tolist()
            first = row if first is None else first
            differ = differ or row != first
        rows += len(mask)
        progress(rows)
    if not rows:
        raise CalibrationError(_DATA, "has no rows")
    if rows > 1 and not differ:
        raise CalibrationError(_DATA, f"has the same row {rows} times, and no other")
    return rows


@contextmanager
def _watched(
    quantizers: Mapping[str, Quantizer],
) -> Iterator[tuple[dict[str, Histogram], Callable[[Tensor], None]]]:
    """Quantizers that round nothing, while those of inputs count what they are given."""
    seen = {name: Histogram() for name in quantizers if not name.endswith(placement.WEIGHT)}
    masks: list[Tensor] = []
    counted: dict[int, tuple[ReferenceType[Tensor], Histogram]] = {}

    def watch(name: str) -> Callable[[Tensor], None]:
        def count(values: Tensor) -> None:
            known = counted.get(id(values))
            if known is not None and known[0]() is values:
                seen[name] = known[1]
                return
            counted[id(values)] = ref(values), seen[name]
            if not seen[name].add(_real(values, masks[-1])):
                raise CalibrationError(name, "saw an activation that is infinite or not a number")

        return count

    def tell_mask(mask: Tensor) -> None:
        masks[:] = [mask]
        counted.clear()

    for name, quantizer in quantizers.items():
        quantizer.observer = watch(name) if name in seen else _pass_over
    try:
        yield seen, tell_mask
    finally:
        for quantizer in quantizers.values():
            quantizer.observer = None


def _pass_over(_weight: Tensor) -> None:
    pass


def _real(values: Tensor, mask: Tensor) -> Tensor:
    """The values at real tokens of [B, S, H] or [B, N, S, D]."""
    if bool(mask.all()):
        return values
    return (values.transpose(1, 2) if values.dim() == 4 else values)[mask]


def choose(name: str, histogram: Histogram, levels: int, how: tuple[CalibrationMethod, float]) -> float:
    """The range of what a histogram counted.

    Args:
        name: Whose it is.
        histogram: Of its absolute values.
        levels: The greatest integer of its quantizer.
        how: The method, and the percentile of the method of that name.

    Raises:
        CalibrationError: all the values were zero.
    """
    method, percentile = how
    if histogram.largest == 0.0:
        raise CalibrationError(name, "saw nothing but zeros")
    if method == "percentile":
        return histograms.of_percentile(histogram, percentile)
    if method == "mse":
        return histograms.of_mse(histogram, levels)
    return histograms.of_entropy(histogram, levels) if method == "entropy" else histograms.of_max(histogram)
