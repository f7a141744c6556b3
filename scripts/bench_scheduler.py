"""The benchmark's figures of the server's scheduler, in simulation: the real code, a core that only takes its time.

Owns: the traffic, and what a call costs. The cost is fitted to AWS's figures for BERT-base on one core of an Inf2
(about-neuron/benchmarks/inf2): 0.29 ms, and 5.55 us for each token. No device was measured here.
"""

from __future__ import annotations

import random
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from bench_tools import Row

from neuronbert import StaticShape
from neuronbert.server.scheduler import Limits, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_tools import Models

    Policy = Callable[[Sequence[int], Sequence[float]], list[float]]

LENGTHS: Final = (32, 64, 128, 256, 512)
SIZES: Final = (1, 2, 4, 8)
REQUESTS: Final = 20_000
_CALL: Final = 0.29e-3
_TOKEN: Final = 0.71e-3 / 128
_NO_LIMITS: Final = Limits(rows=REQUESTS, tokens=REQUESTS * LENGTHS[-1], size=REQUESTS)
_SATURATED: Final = 1225.5
"""What per-length queues reached in the study that the limits are from: 1226 a second, as it rounds."""


def scheduler(_models: Models, rounds: int) -> list[Row]:
    """What a core gets done with everything there at once, and how long requests take at steady rates."""
    saturated: dict[str, list[float]] = {"first in, first out": [], "ours": [], "no padding": []}
    late: dict[int, list[float]] = {300: [], 700: [], 1000: []}
    for seed in range(rounds):
        lengths = mixed(random.Random(seed))
        at_once = [0.0] * REQUESTS
        saturated["first in, first out"].append(REQUESTS / max(first_in_first_out(lengths, at_once)))
        saturated["ours"].append(REQUESTS / max(scheduled(lengths, at_once)))
        saturated["no padding"].append(REQUESTS / sum(_CALL / SIZES[-1] + _TOKEN * length for length in lengths))
        for rate, found in late.items():
            arrivals = poisson(random.Random(f"arrivals {seed}"), rate)
            ends = scheduled(lengths, arrivals)
            took = sorted(end - begin for begin, end in zip(arrivals, ends, strict=True))
            found.append(took[int(0.99 * REQUESTS)] * 1e3)
    title = "scheduler (simulated Inf2 core)"
    limits = {"ours": _SATURATED}
    rows = [
        Row(f"{title}: saturated, {name}", tuple(values), "/s", limits.get(name), at_least=True)
        for name, values in saturated.items()
    ]
    for rate, values in late.items():
        rows.append(Row(f"{title}: p99 at {rate}/s", tuple(values), "ms", 35.0 if rate == 1000 else None))
    return rows


def mixed(source: random.Random) -> list[int]:
    """Tokens of requests: half of them queries, 35 % passages, 15 % documents."""
    kinds: tuple[Callable[[], float], ...] = (
        lambda: source.lognormvariate(2.4849, 0.45),  # around 12
        lambda: source.gauss(110, 40),
        lambda: source.lognormvariate(5.9915, 0.6),  # around 400
    )
    drawn = source.choices(kinds, weights=(50, 35, 15), k=REQUESTS)
    return [min(LENGTHS[-1], max(4, round(kind()))) for kind in drawn]


def poisson(source: random.Random, rate: float) -> list[float]:
    """When requests come, in seconds."""
    return list(accumulate(source.expovariate(rate) for _ in range(REQUESTS)))


def scheduled(lengths: Sequence[int], arrivals: Sequence[float]) -> list[float]:
    """When each request is done, by our scheduler."""
    ours = Scheduler([StaticShape(size, length) for length in LENGTHS for size in SIZES], _NO_LIMITS)
    ends = [0.0] * len(lengths)
    now, place = 0.0, 0
    while place < len(lengths) or ours.held.rows:
        if not ours.held.rows:
            now = max(now, arrivals[place])
        while place < len(lengths) and arrivals[place] <= now:
            request = ours.admit("everybody", 1, 1, float("inf"))
            ours.queue(request, [(lengths[place], place)])
            place += 1
        batch = ours.take(now)
        assert batch is not None
        now += _CALL + _TOKEN * batch.shape.tokens
        ours.finish(batch, now)
        for row in batch.rows:
            ends[row.item] = now
    return ends


def first_in_first_out(lengths: Sequence[int], arrivals: Sequence[float]) -> list[float]:
    """When each request is done if the oldest eight run together, in the smallest program that holds them."""
    waiting: deque[int] = deque()
    ends = [0.0] * len(lengths)
    now, place = 0.0, 0
    while place < len(lengths) or waiting:
        if not waiting:
            now = max(now, arrivals[place])
        while place < len(lengths) and arrivals[place] <= now:
            waiting.append(place)
            place += 1
        rows = [waiting.popleft() for _ in range(min(SIZES[-1], len(waiting)))]
        size = next(size for size in SIZES if size >= len(rows))
        length = next(length for length in LENGTHS if length >= max(lengths[row] for row in rows))
        now += _CALL + _TOKEN * size * length
        for row in rows:
            ends[row] = now
    return ends
