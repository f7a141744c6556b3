"""The figures of a loaded artifact: what a call adds to its program, and how soon the first answer is there.

Owns: what a call and a load are compared with, and their limits.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from typing import TYPE_CHECKING, Final

import torch
from bench_tools import (
    ONE,
    Clocked,
    Row,
    alternate,
    programs,
    ratios,
    take_turns,
    timer,
)

from neuronbert import NeuronBertModel, StaticShape, choose_buckets
from neuronbert.inputs import example
from neuronbert.plan import Planner, call_costs
from neuronbert.runtime import Session

if TYPE_CHECKING:
    from bench_tools import Models

    from neuronbert import Artifact
    from neuronbert.backends.base import Program

CALL_US: Final = 30.0
CALL_SHARE: Final = 0.01
"""What a call may add: so many microseconds, or this share of the program's own time if that is more."""
FIRST_ANSWER: Final = 1.5
ROWS: Final = 10_000
PLAN_MS: Final = 10.0
CHOICE_MS: Final = 20.0


def call(models: Models, rounds: int) -> list[Row]:
    """A call of the model against the same program alone.

    "In all" is the difference of two medians, with the noise of two programs in it. "Outside the program" takes the
    same calls, but of each only what passed before and after its program, so that the noise drops out and the cold
    caches that a program leaves stay in. "A free program" is the same with caches that are always warm.
    """
    artifact = models.export(models.minilm, (ONE,), "none")
    program = Clocked(programs(artifact)[ONE])
    answer = program(*example(artifact.manifest.inputs, ONE))
    real = [_beside(artifact, program, calls=120) for _ in range(rounds)]
    free = [_beside(artifact, Clocked(lambda *_: answer), calls=2000) for _ in range(rounds)]
    alone = tuple(sample["alone"] for sample in real)
    limit = max(CALL_US, CALL_SHARE * statistics.median(alone))
    in_all = Row("call: what the model adds, in all", tuple(sample["in all"] for sample in real), "us", limit)
    outside = Row("call: what the model adds, outside", tuple(sample["outside"] for sample in real), "us", limit)
    share = tuple(100 * sample["outside"] / sample["alone"] for sample in real)
    return [
        Row("call: the program alone", alone, "us"),
        in_all,
        outside,
        Row("call: the same, as a share of the program", share, "%"),
        Row("call: the same, beside a free program", tuple(sample["outside"] for sample in free), "us"),
    ]


class _Given:
    """A runtime that gives a session the program that is to be timed inside it."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def load(self, *_: object) -> dict[StaticShape, Program]:
        """The program, whatever the artifact holds."""
        return {ONE: self._program}


def _beside(artifact: Artifact, program: Clocked, calls: int) -> dict[str, float]:
    model = NeuronBertModel(Session(artifact, _Given(program)))
    inputs = example(artifact.manifest.inputs, ONE)
    given = dict(zip((spec.name for spec in artifact.manifest.inputs), inputs, strict=True))
    inside: dict[str, list[float]] = {"model": [], "bare": []}

    def through_model() -> None:
        model(**given)
        inside["model"].append(program.seconds)

    def bare() -> None:
        with torch.no_grad():
            program(*inputs)
        inside["bare"].append(program.seconds)

    whole, alone = (torch.tensor(seconds) * 1e6 for seconds in alternate((through_model, bare), calls))
    beside, around = whole - torch.tensor(inside["model"]) * 1e6, alone - torch.tensor(inside["bare"]) * 1e6
    return {
        "alone": alone.median().item(),
        "in all": (whole.median() - alone.median()).item(),
        "outside": (beside.median() - around.median()).item(),
    }


def load(models: Models, rounds: int) -> list[Row]:
    """From a folder to the first answer, against loading the program and computing its file's digest.

    Beside it, without a limit: the same up to a session that is open, which has frozen the program besides.
    """
    artifact = models.export(models.minilm, (ONE,), "none")
    program = artifact.path / artifact.manifest.program_files[0]
    inputs = example(artifact.manifest.inputs, ONE)
    given = dict(zip((spec.name for spec in artifact.manifest.inputs), inputs, strict=True))

    def bare() -> None:
        hashlib.sha256(program.read_bytes()).hexdigest()
        torch.jit.load(str(program))

    def answered() -> None:
        Session.open(artifact.path).run(given)

    opened = ratios(lambda: Session.open(artifact.path), bare, rounds, 5)
    return [
        Row("load: to the first answer, time of bare", ratios(answered, bare, rounds, 5), "x", FIRST_ANSWER),
        Row("load: Session.open, time of bare", opened, "x"),
    ]


def choice(models: Models, rounds: int) -> list[Row]:  # noqa: ARG001  every figure is called alike
    """Which rows go in which call, and which buckets are worth having, both on mixed lengths."""
    chance = random.Random(0)
    lengths = [min(512, max(1, round(chance.lognormvariate(4, 0.7)))) for _ in range(ROWS)]
    shapes = [StaticShape(rows, length) for rows in (1, 8, 32) for length in (32, 64, 128, 256, 512)]
    histogram = {length: chance.randint(1, 100) for length in range(1, 513)}
    timed = {
        f"choice: calls for {ROWS} rows": (lambda: Planner(call_costs(shapes)).plan(lengths), PLAN_MS),
        "choice: 8 buckets for 512 lengths": (lambda: choose_buckets(histogram, 8), CHOICE_MS),
    }
    rows = []
    for name, (call, limit) in timed.items():
        taken = take_turns({name: timer(call)}, rounds, seconds=0.5)[name]
        rows.append(Row(name, tuple(1e3 * value for value in taken), "ms", limit))
    return rows
