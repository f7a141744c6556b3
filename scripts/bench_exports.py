"""The figures of making an artifact: time, size and memory of exports, cached ones, and pre-flights.

Owns: what each is compared with, and the limits.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from bench_tools import (
    EIGHT,
    ONE,
    SHORT,
    Row,
    eager,
    peak_bytes,
    ratios,
)

from neuronbert import Cache, ExportSpec, StaticShape, check, export
from neuronbert.backends.autocast import AutoCastMode
from neuronbert.inputs import example
from neuronbert.preflight.recording import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bench_tools import Models
    from torch import nn

    from neuronbert import Artifact


EXPORT_TIME: Final = 1.3
ARTIFACT_SIZE: Final = 1.02
BUCKETS_SIZE: Final = 1.05
EXPORT_MEMORY: Final = 2.2
HIT_TIME: Final = 1.2
CHECK_TIME: Final = 1.5


def exports(models: Models, rounds: int) -> list[Row]:
    """An export against loading, tracing and saving by hand, both in this process.

    A fresh process for each would add the same seconds of imports to both, and so hide what the library adds.
    """
    inputs = example(models.export(models.minilm, (ONE,), "none").manifest.inputs, ONE)

    def bare(cast: AbstractContextManager[object]) -> None:
        with tempfile.TemporaryDirectory(dir=models.folder) as folder, torch.no_grad(), cast:
            head = eager(models.minilm, return_dict=False)
            trace: Any = torch.jit.trace(head, inputs, check_trace=False, strict=False)
            torch.jit.save(trace, str(Path(folder, "model.pt")))

    def ours(mode: str) -> None:
        shutil.rmtree(models.export(models.minilm, (ONE,), mode).path)

    def row(mode: str, of: str, cast: Callable[[], AbstractContextManager[object]], limit: float | None) -> Row:
        pair = partial(ours, mode), lambda: bare(cast())
        return Row(f"export: auto_cast {mode}, time of {of}", ratios(*pair, rounds, calls=3), "x", limit)

    return [
        row("none", "bare", nullcontext, EXPORT_TIME),
        row("matmul", "bare with the same casts", partial(AutoCastMode, "matmul", "bf16"), EXPORT_TIME),
        row("matmul", "bare without any cast", nullcontext, None),
    ]


def size(models: Models, rounds: int) -> list[Row]:  # noqa: ARG001  a size has no noise
    """The program file, and the whole folder, against the weights of the model, a tied one counted once."""
    cases = {
        "MiniLM": (models.minilm, "BertModel", (ONE,)),
        "MiniLM, three shapes": (models.minilm, "BertModel", (SHORT, ONE, EIGHT)),
        "fill-mask, tied decoder": (models.masked, "BertForMaskedLM", (ONE,)),
    }
    rows = []
    for name, (checkpoint, class_name, shapes) in cases.items():
        head = eager(checkpoint, class_name)
        weights = sum(weight.nbytes for weight in (*head.parameters(), *head.buffers()))
        artifact = models.export(checkpoint, shapes, "matmul")
        rows.append(Row(f"size: {name}, of weights", (_size(artifact) / weights,), "x", ARTIFACT_SIZE))
    six = tuple(StaticShape(1, length) for length in (16, 32, 64, 128, 192, 256))
    one, many = (_size(models.export(models.minilm, shapes, "none")) for shapes in (six[-1:], six))
    return [*rows, Row("size: MiniLM, 6 buckets, of 1", (many / one,), "x", BUCKETS_SIZE)]


def _size(artifact: Artifact) -> int:
    return sum(path.stat().st_size for path in artifact.path.rglob("*") if path.is_file())


def memory(models: Models, rounds: int) -> list[Row]:
    """The peak memory of an export in a fresh process, over that of one that has only imported the frameworks."""
    checkpoint = models.base
    weights = (checkpoint / "model.safetensors").stat().st_size
    idle_code = "import torch; from transformers import BertModel\n"
    rows = []
    for auto_cast in ("none", "matmul"):
        samples = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir=models.folder) as folder:
                given = f"model={str(checkpoint)!r}, shapes=(StaticShape(1, 128),), auto_cast={auto_cast!r}"
                export_code = f"export(ExportSpec({given}), {folder!r})\n"
                names = "from neuronbert import ExportSpec, StaticShape, export\n"
                more = peak_bytes(idle_code + names + export_code) - peak_bytes(idle_code)
            samples.append(more / weights)
        rows.append(Row(f"memory: auto_cast {auto_cast}, of checkpoint", tuple(samples), "x", EXPORT_MEMORY))
    return rows


def cached(models: Models, rounds: int) -> list[Row]:
    """An export of what was exported before, against copying the files of its artifact.

    To copy an artifact is to copy each file, flush it to the disk and compare its digest, as `save_pretrained` does;
    here by hand, one after the other. Beside it, without a limit: the same without the digests, and `shutil.copyfile`
    alone. An export reads the weights as well, since their digest is in the key.
    """
    cache = Cache(models.folder / "cache", 1 << 32)
    spec = ExportSpec(str(models.minilm), (ONE,))
    made = export(spec, models.folder / "cached", cache=cache).path
    files = tuple(path for path in made.rglob("*") if path.is_file())
    ways: Mapping[str, Callable[[Path], object]] = {
        "a hit": lambda folder: export(spec, folder, cache=cache),
        "copying the artifact": lambda folder: _copy(files, folder, flush=True, compare=True),
        "copying without digests": lambda folder: _copy(files, folder, flush=True),
        "copyfile alone": lambda folder: _copy(files, folder),
    }
    samples = []
    for _ in range(rounds):
        calls = [{name: _seconds(way, models.folder) for name, way in ways.items()} for _ in range(5)]
        samples.append({name: statistics.median(call[name] for call in calls) for name in ways})
    rows = [Row("cache: a hit", tuple(sample["a hit"] for sample in samples), "s")]
    for name in (*ways,)[1:]:
        limit = HIT_TIME if name == "copying the artifact" else None
        ratio = tuple(sample["a hit"] / sample[name] for sample in samples)
        rows.append(Row(f"cache: a hit, time of {name}", ratio, "x", limit))
    return rows


def _copy(files: Sequence[Path], folder: Path, *, flush: bool = False, compare: bool = False) -> None:
    for path in files:
        shutil.copyfile(path, folder / path.name)
        with (folder / path.name).open("rb") as file:
            if flush:
                os.fsync(file.fileno())
            if compare:
                hashlib.file_digest(file, "sha256")


def _seconds(write: Callable[[Path], object], place: Path) -> float:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        start = time.perf_counter()
        write(Path(folder))
        return time.perf_counter() - start


def checks(models: Models, rounds: int) -> list[Row]:
    """A pre-flight without HLO against loading and tracing by hand, and its trace against a bare one."""
    spec = ExportSpec(str(models.minilm), (ONE,), "feature-extraction", target="inf2")
    inputs = example(models.export(models.minilm, (ONE,), "none").manifest.inputs, ONE)
    held = eager(models.minilm, return_dict=False)

    def trace(head: nn.Module) -> None:
        with torch.no_grad():
            torch.jit.trace(head, inputs, check_trace=False, strict=False)

    def bare() -> None:
        trace(eager(models.minilm, return_dict=False))

    def ours() -> None:
        check(spec)

    whole = ratios(ours, bare, rounds, calls=3)
    alone = ratios(lambda: record(held, inputs), lambda: trace(held), rounds, calls=3)
    return [
        Row("check: without HLO, time of load and trace", whole, "x", CHECK_TIME),
        Row("check: its trace, time of bare", alone, "x", CHECK_TIME),
    ]
