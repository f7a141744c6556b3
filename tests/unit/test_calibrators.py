"""Four ways to choose a range, each against a computation of its own on histograms that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronbert.quantization import histograms
from neuronbert.quantization.histograms import Histogram

LEVELS = 127


def histogram_of(counts, width=0.01):
    made = Histogram()
    made.counts, made.width, made.largest = np.asarray(counts, dtype=float), width, len(counts) * width
    return made


def known(kind, bins=400):
    places = np.arange(bins)
    shapes = {
        "normal": np.rint(1e5 * np.exp(-0.5 * (places / 60) ** 2)),
        "flat": np.full(bins, 10.0),
        "far outlier": np.where(places == bins - 1, 1.0, np.rint(1e5 * np.exp(-places / 20))),
        "gaps": np.where(places % 3 == 0, 50.0, 0.0) + (places < 40) * 900,
    }
    return shapes[kind]


KINDS = ("normal", "flat", "far outlier", "gaps")


def slow_mse(counts, width):
    best, chosen = math.inf, 0.0
    for stop in range(128, len(counts) + 1):
        amax = (stop - 0.5) * width
        loss = 0.0
        for place, count in enumerate(counts):
            value = (place + 0.5) * width
            loss += count * (min(round(value * LEVELS / amax), LEVELS) * amax / LEVELS - value) ** 2
        if loss <= best:
            best, chosen = loss, amax
    return chosen


def slow_entropy(counts, width):
    counts = [counts[1], *counts[1:]]
    best, chosen = math.inf, 0
    for stop in range(128, len(counts) + 1):
        reference = list(counts[:stop])
        reference[-1] += sum(counts[stop:])
        groups = {}
        for place in range(stop):
            groups.setdefault(min(place * 128 // stop, 127), []).append(place)
        candidate = [0.0] * stop
        for places in groups.values():
            filled = [place for place in places if counts[place]]
            for place in filled:
                candidate[place] = sum(counts[at] for at in places) / len(filled)
        p, q = sum(reference), sum(candidate)
        loss = 0.0
        for one, other in zip(reference, candidate, strict=True):
            if one:
                loss += one / p * math.log(one / p / (other / q)) if other else math.inf
        if loss <= best:
            best, chosen = loss, stop
    return chosen * width


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_that_of_a_computation_value_by_value(kind):
    counts = known(kind, 260)
    assert histograms.of_mse(histogram_of(counts), LEVELS) == pytest.approx(slow_mse(counts, 0.01), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_is_that_of_a_computation_bin_by_bin(kind):
    counts = known(kind)
    assert histograms.of_entropy(histogram_of(counts), LEVELS) == pytest.approx(slow_entropy(counts, 0.01), rel=1e-9)


def test_of_many_bins_not_every_range_is_tried_and_the_best_is_nearly_found(monkeypatch):
    histogram = histogram_of(known("normal", 4000) + known("far outlier", 4000))
    found = histograms.of_mse(histogram, LEVELS)
    monkeypatch.setattr(histograms, "_TRIED", 10_000)
    best = histograms.of_mse(histogram, LEVELS)
    assert found == pytest.approx(best, abs=4000 / 1024 * histogram.width)
    assert found != best  # so it was another number of ranges


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=3, max_size=60).filter(any), st.floats(1, 100))
def test_the_percentile_leaves_its_share_and_no_bin_more(counts, percentile):
    histogram = histogram_of(counts)
    histogram.largest = math.inf
    stop = round(histograms.of_percentile(histogram, percentile) / histogram.width)
    share = np.cumsum(counts) / np.sum(counts)
    assert share[stop - 1] >= percentile / 100
    assert stop == 1 or share[stop - 2] < percentile / 100


def test_ranges_of_values_are_near_those_that_can_be_said_beforehand():
    values = torch.linspace(-1, 1, 100_001)
    histogram = Histogram()
    histogram.add(values)
    assert histograms.of_max(histogram) == 1.0
    assert histograms.of_percentile(histogram, 90) == pytest.approx(0.9, abs=2e-3)
    assert histograms.of_mse(histogram, LEVELS) == pytest.approx(1.0, abs=0.01)  # nothing is worth clipping


def test_batches_give_what_one_batch_of_them_all_gives():
    torch.manual_seed(0)
    parts = [torch.randn(5000) * scale for scale in (1.0, 0.5, 1.9)]
    together, streamed = Histogram(), Histogram()
    streamed.add(parts[0])
    first = streamed.width
    for part in parts[1:]:
        streamed.add(part)
    together.width, together.counts = first, np.zeros(2048)
    together.add(torch.cat(parts))
    assert streamed.width == first == together.width
    assert streamed.largest == together.largest == float(torch.cat(parts).abs().max())
    moved = np.abs(streamed.counts - together.counts).sum()
    assert moved <= 1e-3 * together.counts.sum()  # by rounding, at the edges of bins


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=8))
def test_no_value_is_lost_however_the_sizes_of_batches_differ(sizes):
    histogram = Histogram()
    for size in sizes:
        assert histogram.add(torch.tensor([size, -size / 3, 0.0]))
    assert histogram.counts.sum() == 3 * len(sizes)
    assert len(histogram.counts) <= 4096
    assert histogram.width * len(histogram.counts) >= histogram.largest * (1 - 1e-6)


def test_a_large_tensor_is_sampled_in_every_column_and_its_largest_value_known():
    values = torch.zeros(4096, 768)
    values[:, 5] = 1.0
    values[77, 3] = -9.0
    histogram = Histogram()
    histogram.add(values)
    assert histogram.largest == 9.0
    counted = histogram.counts.sum()
    assert counted <= 2**17
    ones = histogram.counts[int(1 / histogram.width)]
    assert ones / counted == pytest.approx(1 / 768, rel=0.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_and_not_counted(bad):
    histogram = Histogram()
    assert histogram.add(torch.tensor([1.0]))
    assert not histogram.add(torch.tensor([0.5, bad]))
    assert histogram.counts.sum() == 1
