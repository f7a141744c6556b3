"""The figures of the CPU program at BERT-base's width against its peers, and against the matrix products alone.

Owns: what runs, and the limits. Everyone has the same weights, the same ids and as many threads.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from bench_peers import Peer, differ
from bench_tools import EIGHT, ONE, Row, over, programs, take_turns, timer, without_grad

from neuronbert.inputs import example

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench_tools import Candidate, Models

    from neuronbert import StaticShape

PEERS: Final = {"eager": "transformers eager (sdpa)", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
FASTEST: Final = 1.1
"""How many times as long the fastest peer must take."""
PEAK_SHARE: Final = 85.0
"""At 8x128, of the program's time, the percentage that its matrix products alone take."""
BF16_TIME: Final = 1.08
ROUNDING: Final = 1e-3
LAYERS, HIDDEN, INNER = 12, 768, 3072


def cpu(models: Models, rounds: int) -> list[Row]:
    """fp32 programs against the peers, the products of their weights alone, and the bf16 program."""
    artifacts = {mode: models.export(models.base, (ONE, EIGHT), mode) for mode in ("none", "matmul")}
    loaded = {mode: programs(artifact) for mode, artifact in artifacts.items()}
    specs = artifacts["none"].manifest.inputs
    rows = []
    with ExitStack() as stack:
        peers = {kind: stack.enter_context(Peer(models, kind, models.base)) for kind in PEERS}
        for shape in (ONE, EIGHT):
            given = example(specs, shape)
            named = dict(zip((spec.name for spec in specs), (tensor.numpy() for tensor in given), strict=True))
            inputs = models.folder / f"{shape.name}.npz"
            np.savez(inputs, **named)
            ours = {mode: without_grad(lambda p=held[shape], x=given: p(*x)) for mode, held in loaded.items()}
            candidates = {mode: timer(call) for mode, call in ours.items()}
            candidates["products"] = timer(products(shape.tokens))
            candidates |= _peers(peers, shape.name, inputs, ours["none"]()[0].numpy())
            rows += _rows(shape, take_turns(candidates, rounds, models.seconds))
    return rows


def _peers(peers: dict[str, Peer], case: str, inputs: Path, expected: np.ndarray) -> dict[str, Candidate]:
    for kind, peer in peers.items():
        differ(f"{PEERS[kind]} at {case}", peer.load(case, inputs), expected, ROUNDING)
    return {kind: peer.candidate(case) for kind, peer in peers.items()}


def _rows(shape: StaticShape, taken: dict[str, list[float]]) -> list[Row]:
    at = f"cpu {shape.name}"
    ours = taken["none"]
    fastest = [min(seconds) for seconds in zip(*(taken[kind] for kind in PEERS), strict=True)]
    operations = 2 * shape.tokens * LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    share = tuple(100 * value for value in over(taken["products"], ours))
    return [
        Row(f"{at}: the fp32 program", _milliseconds(ours), "ms"),
        *(
            Row(f"{at}: time of {name} over the program's", over(taken[kind], ours), "x")
            for kind, name in PEERS.items()
        ),
        Row(f"{at}: time of the fastest of them over the program's", over(fastest, ours), "x", FASTEST, at_least=True),
        Row(f"{at}: its fp32 products alone", _milliseconds(taken["products"]), "ms"),
        Row(f"{at}: their speed", tuple(operations / seconds / 1e9 for seconds in taken["products"]), "GFLOP/s"),
        Row(f"{at}: their share of its time", share, "%", PEAK_SHARE if shape == EIGHT else None, at_least=True),
        Row(f"{at}: time of the bf16 program over the fp32 one's", over(taken["matmul"], ours), "x", BF16_TIME),
    ]


def _milliseconds(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(1e3 * value for value in seconds)


def products(tokens: int) -> Callable[[], None]:
    """The matrix products of the model's weights alone, one after the other, each with weights of its own.

    Attention's are left out, as is everything between: it is what no program of these weights can do without.
    """
    sizes = [(HIDDEN, HIDDEN)] * 4 + [(HIDDEN, INNER), (INNER, HIDDEN)]
    weights = [torch.randn(size) for _ in range(LAYERS) for size in sizes]
    given = {width: torch.randn(tokens, width) for width in (HIDDEN, INNER)}
    results = {width: torch.empty(tokens, width) for width in (HIDDEN, INNER)}

    def call() -> None:
        for weight in weights:
            torch.mm(given[weight.shape[0]], weight, out=results[weight.shape[1]])

    return call
