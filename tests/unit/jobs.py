"""Hand-made checkpoints and what would compile them: no torch, no model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from neuronbert import ExportSpec, StaticShape
from neuronbert.artifact import describe
from neuronbert.cache.entry import RECORD, Build, Entry
from neuronbert.cache.job import Job
from neuronbert.cache.store import Cache
from neuronbert.checkpoint import Checkpoint
from neuronbert.manifest import OutputSpec
from tests.unit.builders import INPUTS, make_manifest

SETTINGS: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 50,
    "type_vocab_size": 2,
    "max_position_embeddings": 64,
}
ROOMY = 1 << 30


def write_checkpoint(folder: Path, *, weight: float = 1.0, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SETTINGS, **changes}))
    save_file({"a": np.full((16, 16), weight, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def make_job(folder: Path, **changes: Any) -> Job:
    fields: dict[str, Any] = {"task": "fill-mask", "target": "cpu", "shapes": (StaticShape(2, 8),)}
    backend = changes.pop("backend", "cpu")
    return Job(Checkpoint.open(folder), ExportSpec(model=str(folder), **{**fields, **changes}), backend)


def compile_into(job: Job, folder: Path, *, random_weights: tuple[str, ...] = (), size: int = 1000) -> Build:
    """What stands for a compiler: the program says which weights it is of."""
    weights = job.checkpoint.weights_sha256()
    (folder / "model.neuron").write_bytes(weights.encode() * (size // 64 + 1))
    (folder / "more").mkdir()
    (folder / "more" / "table.bin").write_bytes(b"table")
    return Build(
        weights_sha256=weights,
        class_name="BertForMaskedLM",
        random_weights=random_weights,
        notes=("the checkpoint has no pooler",),
        inputs=INPUTS,
        outputs=(OutputSpec(name="logits", dims=("batch", "sequence", "vocabulary"), size=50, answer="argmax"),),
        programs=make_manifest().programs,
        compiler=make_manifest().compiler,
        files={name: describe(folder / name) for name in ("model.neuron", "more/table.bin")},
    )


class Workplace:
    """A cache and exports that go through it.

    Attributes:
        cache: The cache.
        compiled: How often something was compiled.
        told: What was told on the way.
    """

    def __init__(self, folder: Path, limit: int = ROOMY) -> None:
        self.folder = folder
        self.cache = Cache(folder / "cache", limit)
        self.compiled = 0
        self.told: list[str] = []

    def export(self, job: Job, output: str = "out", **options: Any) -> Path:
        """The folder that the programs of a job are in."""
        folder = self.folder / output
        folder.mkdir()
        self.build = self.cache.obtain(job, folder, self.maker(job, folder, **options), self.told.append)
        return folder

    def maker(self, job: Job, folder: Path, **options: Any) -> Callable[[], Build]:
        def make() -> Build:
            self.compiled += 1
            return compile_into(job, folder, **options)

        return make


def exports_of(work: Workplace, count: int, size: int = 10_000) -> list[Entry]:
    """Entries of their own weights, the first used longest ago."""
    made: list[Entry] = []
    for number in range(count):
        folder = write_checkpoint(work.folder / f"checkpoint{number}", weight=float(number))
        work.export(make_job(folder), f"out{number}", size=size)
        (new,) = set(work.cache.entries()) - set(made)
        made.append(new)
        os.utime(new.path / RECORD, (number, number))
    return made


def same_stat(path: Path, change: Callable[[], object]) -> None:
    """Change a file, and set its times back."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
