"""Values to a range: what a quantizer clips at.

Owns: a histogram of absolute values that takes any number of batches, and four ways to choose a range from it. Knows
nothing of models. Two runs over the same batches give the same range, bit for bit. Sources: H. Wu et al., Integer
Quantization for Deep Learning Inference (2020), section 3.3; S. Migacz, 8-bit Inference with TensorRT (2017).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Counts = np.ndarray[tuple[int], np.dtype[np.float64]]

_BINS: Final = 2048
_MOST_BINS: Final = 2 * _BINS
_SAMPLES: Final = 2**17
"""The most values that are counted of one tensor. Counting all would take longer than computing them."""
_FACTORS: Final = 2 * 3 * 5 * 7
"""Of the usual widths of layers: a step that shared one with the width would never meet some of its columns."""
_FIRST: Final = 128
"""The lowest range that is tried, in bins: below it a signed byte has more levels than the histogram has bins."""
_TRIED: Final = 1024
"""The most ranges that are tried, evenly spaced: more would take longer than running the model."""


class Histogram:
    """Counts of absolute values, in bins of one width from 0 on.

    The first batch chooses the width. A later, larger value adds bins; when there would be too many, neighbours are put
    together. Of a large tensor evenly spaced values are counted; its largest is always known.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(0)
        self.width = 0.0
        self.largest = 0.0

    def add(self, values: Tensor) -> bool:
        """Count a tensor's values; not if one of them is not finite, which is told."""
        least, most = (float(bound) for bound in torch.aminmax(values))
        largest = max(abs(least), abs(most))
        if not math.isfinite(largest):
            return False
        self.largest = max(self.largest, largest)
        if self.largest == 0.0:
            return True  # zeros tell nothing of a width, and where nothing else follows there is no range
        self._make_room(largest)
        sample = _sample(values.detach().float()).abs()
        top = self.width * len(self.counts)
        self.counts += torch.histc(sample, bins=len(self.counts), min=0.0, max=top).numpy()
        return True

    def _make_room(self, largest: float) -> None:
        if not len(self.counts):
            self.width = largest / _BINS
            self.counts = np.zeros(_BINS)
        while largest > self.width * _MOST_BINS:
            self.width *= 2
            self.counts = np.pad(self.counts, (0, len(self.counts) % 2)).reshape(-1, 2).sum(axis=1)
        needed = math.ceil(largest / self.width)
        if needed > len(self.counts):
            self.counts = np.pad(self.counts, (0, needed - len(self.counts)))


def of_max(histogram: Histogram) -> float:
    """The largest value that was seen."""
    return histogram.largest


def of_percentile(histogram: Histogram, percentile: float) -> float:
    """The upper edge of the first bin up to which at least this share of the values lies."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    edge = (int(np.searchsorted(share, percentile / 100.0)) + 1) * histogram.width
    return min(edge, histogram.largest)


def of_mse(histogram: Histogram, levels: int) -> float:
    """The range whose quantized values differ least from the values, in the mean square.

    Args:
        histogram: Of absolute values.
        levels: The greatest integer of the quantizer.
    """
    centers = (np.arange(len(histogram.counts)) + 0.5) * histogram.width

    def loss(stop: int) -> float:
        step = centers[stop - 1] / levels
        quantized = np.minimum(np.rint(centers / step), levels) * step
        return float(np.dot(histogram.counts, (quantized - centers) ** 2))

    return float(centers[_best(histogram, loss) - 1])


def of_entropy(histogram: Histogram, levels: int) -> float:
    """The range at which the quantized distribution tells least from the clipped one, by Kullback and Leibler.

    Args:
        histogram: Of absolute values.
        levels: The greatest integer of the quantizer.
    """
    counts = histogram.counts.copy()
    counts[0] = counts[1]  # what is exactly zero, padding above all, would outweigh the rest

    def loss(stop: int) -> float:
        clipped = counts[:stop].copy()
        clipped[-1] += counts[stop:].sum()
        return _divergence(clipped, _requantized(counts[:stop], levels + 1))

    return _best(histogram, loss) * histogram.width


def _best(histogram: Histogram, loss: Callable[[int], float]) -> int:
    """How many bins the range with the least loss takes; of equal ones the widest."""
    total = len(histogram.counts)
    stride = math.ceil(total / _TRIED)
    return min(range(total, min(_FIRST, total) - 1, -stride), key=loss)


def _requantized(counts: Counts, levels: int) -> Counts:
    """Counts merged into levels, and spread again evenly over the bins that weren't empty."""
    level = np.minimum((np.arange(len(counts)) * levels) // len(counts), levels - 1)
    filled = counts > 0
    sums = np.bincount(level, weights=counts, minlength=levels)
    bins = np.bincount(level, weights=filled, minlength=levels)
    means = np.divide(sums, bins, out=np.zeros(levels), where=bins > 0)
    return np.where(filled, means[level], 0.0)


def _divergence(reference: Counts, candidate: Counts) -> float:
    if not candidate.any():
        return math.inf
    p, q = reference / reference.sum(), candidate / candidate.sum()
    there = p > 0
    if (q[there] == 0).any():
        return math.inf
    return float(np.dot(p[there], np.log(p[there] / q[there])))


def _sample(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    step = -(-flat.numel() // _SAMPLES)
    while math.gcd(step, _FACTORS) > 1:
        step += 1
    return flat[::step]
