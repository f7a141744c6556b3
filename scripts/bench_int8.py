"""The figures of the 8-bit CPU program at BERT-base's width: against our fp32 one, and ONNX Runtime in fp32 and int8.

Owns: what runs, and the limits. Everyone has the same weights, the same ids and as many threads. The weights are
random, so nothing is said of accuracy here.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import numpy as np
from bench_peers import Peer
from bench_tools import EIGHT, ONE, Row, over, programs, take_turns, timer, without_grad

from neuronbert import QuantizationPlan, quantize
from neuronbert.inputs import example
from neuronbert.passages import SAMPLE

if TYPE_CHECKING:
    from pathlib import Path

    from bench_tools import Models

PEERS: Final = {
    "onnxruntime": "ONNX Runtime fp32",
    "onnxruntime-dynamic": "ONNX Runtime int8, dynamic",
    "onnxruntime-static": "ONNX Runtime int8, static",
}
OVER_OURS: Final = 2.0
OVER_PEER: Final = {"onnxruntime": 2.4, "onnxruntime-dynamic": 1.0, "onnxruntime-static": 1.0}
SIZE: Final = 0.35


def int8(models: Models, rounds: int) -> list[Row]:
    """The 8-bit program against fp32, ours and a peer's, and against the peer's 8 bits; and the artifact's size."""
    wide = models.export(models.base, (ONE, EIGHT), "none")
    narrow = models.export(quantized(models), (ONE, EIGHT), "none")
    loaded = {"fp32": programs(wide), "int8": programs(narrow)}
    sizes = [(artifact.path / "model.neuron").stat().st_size for artifact in (narrow, wide)]
    rows = [Row("int8: size of the program over the fp32 one's", (sizes[0] / sizes[1],), "x", SIZE)]
    with ExitStack() as stack:
        peers = {kind: stack.enter_context(Peer(models, kind, models.base)) for kind in PEERS}
        for shape in (ONE, EIGHT):
            given = example(wide.manifest.inputs, shape)
            named = dict(zip((spec.name for spec in wide.manifest.inputs), map(np.asarray, given), strict=True))
            inputs = models.folder / f"int8-{shape.name}.npz"
            np.savez(inputs, **named)
            candidates = {
                name: timer(without_grad(lambda p=held[shape], x=given: p(*x))) for name, held in loaded.items()
            }
            for kind, peer in peers.items():
                peer.load(shape.name, inputs)
                candidates[kind] = peer.candidate(shape.name)
            taken = take_turns(candidates, rounds, models.seconds)
            at, ours = f"int8 {shape.name}", taken["int8"]
            rows.append(Row(f"{at}: the program", tuple(1e3 * seconds for seconds in ours), "ms"))
            rows.append(
                Row(f"{at}: time of our fp32 one over it", over(taken["fp32"], ours), "x", OVER_OURS, at_least=True)
            )
            rows += [
                Row(f"{at}: time of {name} over it", over(taken[kind], ours), "x", OVER_PEER[kind], at_least=True)
                for kind, name in PEERS.items()
            ]
    return rows


def quantized(models: Models) -> Path:
    """The base checkpoint, calibrated; its tokenizer is that of the other model."""
    checkpoint, output = models.folder / "base-with-tokenizer", models.folder / "base-int8"
    shutil.copytree(models.base, checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models.minilm / name, checkpoint / name)
    return quantize(str(checkpoint), output, SAMPLE, QuantizationPlan("max", rows=16)).path
