"""The figures of several processes: two CPU workers against one that has all the threads.

Owns: what is called, and the limits.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from bench_tools import EIGHT, ONE, Row, over, take_turns, timer

from neuronbert import StaticShape
from neuronbert.inputs import example
from neuronbert.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_tools import Models

SMALL: Final = StaticShape(1, 32)
CALLS: Final = {SMALL: 64, ONE: 32, EIGHT: 8}
LIMITS: Final = {SMALL: 1.0, ONE: 0.95, EIGHT: 0.95}
"""How many times as long one worker must take for as many calls."""


def pool(models: Models, rounds: int) -> list[Row]:
    """Calls that are given out as workers get free, each of them with its share of the threads."""
    artifact = models.export(models.minilm, tuple(CALLS), "none")
    rows = []
    with ExitStack() as stack:
        crews = {count: stack.enter_context(Pool.open(artifact.path, workers=count)) for count in (1, 2)}
        for shape, calls in CALLS.items():
            tensors = example(artifact.manifest.inputs, shape)
            given = dict(zip((spec.name for spec in artifact.manifest.inputs), tensors, strict=True))
            candidates = {str(count): timer(_spread(crew, given, calls)) for count, crew in crews.items()}
            taken = take_turns(candidates, rounds, models.seconds)
            ratio = over(taken["1"], taken["2"])
            name = f"pool {shape.name}: time of one worker over two's"
            rows.append(Row(name, ratio, "x", LIMITS[shape], at_least=True))
    return rows


def _spread(crew: Any, given: dict[str, Any], calls: int) -> Callable[[], object]:
    return lambda: list(crew.spread(crew.run, [given] * calls))
