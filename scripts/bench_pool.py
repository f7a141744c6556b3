"""Figures of a pool of processes: what several workers give, and what handing a call over costs.

Owns: pool(models, rounds), for scripts/bench.py; run alone, it prints the same rows. Two workers with a thread each are
measured against one worker with two, in one run and in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from bench_tools import Models, Row, alternate, ratios

from neuronbert import Pool, StaticShape
from neuronbert.runtime import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SHORT: Final = StaticShape(1, 32)
LONG: Final = StaticShape(8, 128)
_THREADS: Final = 2


def pool(models: Models, rounds: int) -> list[Row]:
    """Two workers against one with as many threads, at both ends of what is called; and a call's way there and back."""
    torch.set_num_threads(_THREADS)
    rows = []
    for name, checkpoint, counts in (("BERT-base", models.base, (16, 4)), ("MiniLM", models.minilm, (64, 16))):
        artifact = models.export(checkpoint, (SHORT, LONG), "none")
        session = Session.open(artifact.path)
        with Pool.open(artifact.path, workers=1) as one, Pool.open(artifact.path, workers=_THREADS) as two:
            for shape, count, limit in ((SHORT, counts[0], 1.0), (LONG, counts[1], 1 / 0.95)):
                samples = ratios(_calls(two, shape, count), _calls(one, shape, count), rounds, 2)
                rows.append(Row(f"pool: {name} at {shape.name}, time of one worker", samples, "x", limit))
            beside = ratios(_calls(two, LONG, counts[1]), _calls(session, LONG, counts[1]), rounds, 2)
            rows.append(Row(f"pool: {name} at {LONG.name}, time of no worker", beside, "x"))
            rows.append(Row(f"pool: {name} at {SHORT.name}, one call over no worker", _way(one, session, rounds), "us"))
    return rows


def _calls(session: Session, shape: StaticShape, count: int) -> Callable[[], object]:
    inputs = _inputs(shape)

    def run() -> None:
        for _ in session.spread(session.run, [inputs] * count):
            pass

    return run


def _way(one: Pool, session: Session, rounds: int) -> tuple[float, ...]:
    """Microseconds that one call takes longer in another process of as many threads."""
    inputs = _inputs(SHORT)
    samples = []
    for _ in range(rounds):
        there, here = alternate((lambda: one.run(inputs), lambda: session.run(inputs)), 60)
        samples.append((statistics.median(there) - statistics.median(here)) * 1e6)
    return tuple(samples)


def _inputs(shape: StaticShape) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1000, 2000, shape.dims)}


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for row in pool(Models(Path(folder)), rounds):
            print("  ".join(row.cells()))


if __name__ == "__main__":
    main()
