"""The figures of calibration: what each method takes over running the same passages in float.

Owns: what is run, and the limit. The model is all-MiniLM-L6-v2, the passages are Python's own documentation.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final

from bench_tools import Row, without_grad

from neuronbert import QuantizationPlan, modeling, passages, tokenization
from neuronbert.checkpoint import Checkpoint
from neuronbert.quantization.calibration import calibrate
from neuronbert.quantization.training import learn_ranges
from neuronbert.quantized import prepare
from neuronbert.schemes import CALIBRATION_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_tools import Models

ROWS: Final = 512
LIMIT: Final = 1.5


def calibration(models: Models, rounds: int) -> list[Row]:
    """Calibrating with 512 passages, by each method, over a pass of the model in float."""
    texts = ((text,) for text in islice(passages.sample(), ROWS))
    batches = list(passages.batches(texts, tokenization.require(models.minilm), 128))
    plain = modeling.load_encoder(Checkpoint.open(models.minilm))
    model = modeling.load_encoder(Checkpoint.open(models.minilm))
    prepare(model, QuantizationPlan())

    def run() -> None:
        for batch in batches:
            plain(**batch)

    taken: dict[str, list[float]] = {name: [] for name in CALIBRATION_METHODS}
    passes, learning = [], []
    for _ in range(rounds):
        passes.append(_seconds(without_grad(run)))
        for name, found in taken.items():
            found.append(_seconds(lambda name=name: calibrate(model, batches, name)) / passes[-1])
        learning.append(_seconds(lambda: learn_ranges(model, batches)) / passes[-1])
    return [
        Row(f"calibration: a pass of {len(batches)} batches in float", tuple(passes), "s"),
        *(Row(f"calibration: {name} over it", tuple(found), "x", LIMIT) for name, found in taken.items()),
        Row("calibration: learning the ranges over it", tuple(learning), "x"),
    ]


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
