"""The figures of the 8-bit CPU programs at BERT-base's width: against our fp32 one, transformers, and ONNX Runtime.

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

    from neuronbert import StaticShape

PEERS: Final = {
    "eager": "transformers eager (sdpa)",
    "onnxruntime": "ONNX Runtime fp32",
    "onnxruntime-dynamic": "ONNX Runtime int8, dynamic",
    "onnxruntime-static": "ONNX Runtime int8, static",
}
OURS: Final = {
    "qdq": {"fp32": 2.0, "onnxruntime": 2.4, "onnxruntime-dynamic": 1.0, "onnxruntime-static": 1.0},
    "ibert": {"fp32": 2.0, "eager": 2.4},
}
"""Each quantization, with how many times as long the others must take."""
SIZE: Final = 0.35


def int8(models: Models, rounds: int) -> list[Row]:
    """QDQBERT's and I-BERT's programs against fp32, ours and peers', and against a peer's 8 bits; and their sizes."""
    artifacts = {"fp32": models.export(models.base, (ONE, EIGHT), "none")}
    for name in OURS:
        artifacts[name] = models.export(quantized(models, name), (ONE, EIGHT), "none")
    loaded = {name: programs(artifact) for name, artifact in artifacts.items()}
    sizes = {name: (artifact.path / "model.neuron").stat().st_size for name, artifact in artifacts.items()}
    rows = [
        Row(f"int8: size of the {name} program over the fp32 one's", (sizes[name] / sizes["fp32"],), "x", SIZE)
        for name in OURS
    ]
    with ExitStack() as stack:
        peers = {kind: stack.enter_context(Peer(models, kind, models.base)) for kind in PEERS}
        for shape in (ONE, EIGHT):
            specs = artifacts["fp32"].manifest.inputs
            given = example(specs, shape)
            named = dict(zip((spec.name for spec in specs), map(np.asarray, given), strict=True))
            inputs = models.folder / f"int8-{shape.name}.npz"
            np.savez(inputs, **named)
            candidates = {
                name: timer(without_grad(lambda p=held[shape], x=given: p(*x))) for name, held in loaded.items()
            }
            for kind, peer in peers.items():
                peer.load(shape.name, inputs)
                candidates[kind] = peer.candidate(shape.name)
            rows += _rows(shape, take_turns(candidates, rounds, models.seconds))
    return rows


def _rows(shape: StaticShape, taken: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name, limits in OURS.items():
        at, ours = f"int8 {shape.name}", taken[name]
        rows.append(Row(f"{at}: the {name} program", tuple(1e3 * seconds for seconds in ours), "ms"))
        for other, called in {"fp32": "our fp32 one", **PEERS}.items():
            ratio = over(taken[other], ours)
            rows.append(Row(f"{at}: time of {called} over {name}", ratio, "x", limits.get(other), at_least=True))
    return rows


def quantized(models: Models, name: str) -> Path:
    """The base checkpoint, calibrated; its tokenizer is that of the other model."""
    checkpoint, output = models.folder / "base-with-tokenizer", models.folder / f"base-{name}"
    if not checkpoint.is_dir():
        shutil.copytree(models.base, checkpoint)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(models.minilm / file, checkpoint / file)
    return quantize(str(checkpoint), output, SAMPLE, QuantizationPlan("max", rows=16, quantization=name)).path
