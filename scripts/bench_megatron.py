"""The figures of converting a checkpoint of the published size, 345M random weights in fp16, in two shards.

Owns: that checkpoint, written by hand in the oldest layout, and what its conversion is compared with.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from bench_tools import Row, peak_bytes, ratios

from neuronbert import convert_megatron

if TYPE_CHECKING:
    from bench_tools import Models
    from torch import Tensor

HIDDEN: Final = 1024
LAYERS: Final = 24
ROWS: Final = 29056
RANKS: Final = 2
CONVERSION_TIME: Final = 2.0
CONVERSION_MEMORY: Final = 1.3
_BLOCK: Final = 16 << 20


def megatron(models: Models, rounds: int) -> list[Row]:
    """A conversion against reading the checkpoint's bytes and writing them, and its peak memory over that of torch."""
    folder = _checkpoint(models.folder / "megatron")
    files = sorted(folder.rglob("*.pt"))
    size = sum(path.stat().st_size for path in files)
    packed = models.folder / "megatron.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))

    def convert(source: Path) -> None:
        with tempfile.TemporaryDirectory(dir=models.folder) as place:
            convert_megatron(source, Path(place, "out"))

    def copy() -> None:
        with tempfile.TemporaryDirectory(dir=models.folder) as place:
            for index, path in enumerate(files):
                with path.open("rb") as source, Path(place, str(index)).open("wb") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
                    target.flush()
                    os.fsync(target.fileno())

    more = []
    with tempfile.TemporaryDirectory(dir=models.folder) as place:
        idle = "import neuronbert.megatron.conversion as c\n"
        for index in range(rounds):
            code = f"{idle}c.convert_megatron({str(folder)!r}, {str(Path(place, str(index)))!r})\n"
            more.append((peak_bytes(code) - peak_bytes(idle)) / size)
    return [
        Row(
            "megatron: converting 345M, time of a copy",
            ratios(lambda: convert(folder), copy, rounds, 1),
            "x",
            CONVERSION_TIME,
        ),
        Row("megatron: the same out of a zip", ratios(lambda: convert(packed), copy, rounds, 1), "x"),
        Row("megatron: memory, of checkpoint", tuple(more), "x", CONVERSION_MEMORY),
    ]


def _checkpoint(folder: Path) -> Path:
    for rank in range(RANKS):
        place = folder / f"mp_rank_{rank:02d}"
        place.mkdir(parents=True)
        torch.save({"model": _shard(rank), "iteration": 1}, place / "model_optim_rng.pt")
    return folder


def _shard(rank: int) -> dict[str, Any]:
    own, both = torch.Generator().manual_seed(rank), torch.Generator().manual_seed(RANKS)

    def divided(*dims: int) -> Tensor:
        return torch.randn(dims, generator=own).half()

    def copied(*dims: int) -> Tensor:
        return torch.randn(dims, generator=both).half()

    def linear(name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        return {f"{name}.weight": weight, f"{name}.bias": bias}

    wide, part = 4 * HIDDEN // RANKS, HIDDEN // RANKS
    layers = linear("final_layernorm", copied(HIDDEN), copied(HIDDEN))
    for index in range(LAYERS):
        name = f"layers.{index}"
        layers |= linear(f"{name}.input_layernorm", copied(HIDDEN), copied(HIDDEN))
        layers |= linear(f"{name}.attention.query_key_value", divided(3 * part, HIDDEN), divided(3 * part))
        layers |= linear(f"{name}.attention.dense", divided(HIDDEN, part), copied(HIDDEN))
        layers |= linear(f"{name}.post_attention_layernorm", copied(HIDDEN), copied(HIDDEN))
        layers |= linear(f"{name}.mlp.dense_h_to_4h", divided(wide, HIDDEN), divided(wide))
        layers |= linear(f"{name}.mlp.dense_4h_to_h", divided(HIDDEN, wide), copied(HIDDEN))
    tables = {"word": divided(ROWS // RANKS, HIDDEN), "position": copied(512, HIDDEN), "tokentype": copied(2, HIDDEN)}
    head = linear("dense", copied(HIDDEN, HIDDEN), copied(HIDDEN))
    head |= linear("layernorm", copied(HIDDEN), copied(HIDDEN)) | {"bias": divided(ROWS // RANKS)}
    return {
        "language_model": {
            "embedding": {f"{name}_embeddings": {"weight": table} for name, table in tables.items()},
            "transformer": layers,
            "pooler": linear("dense", copied(HIDDEN, HIDDEN), copied(HIDDEN)),
        },
        "lm_head": head,
        "binary_head": {"weight": copied(2, HIDDEN), "bias": copied(2)},
    }
