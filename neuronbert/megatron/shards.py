"""The files of a checkpoint to the parts of each weight.

Owns: putting ranks and stages together. Knows nothing of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from neuronbert.errors import CheckpointCorruptError, UnsupportedFeatureError
from neuronbert.megatron import names, pickles
from neuronbert.megatron.merging import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neuronbert.megatron.ranks import Grid

_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32)
_FLAT_SINCE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Shards:
    """A checkpoint in parts.

    Attributes:
        path: Its first file, for what is said of it.
        version: How packed weights are ordered: one of merging.VERSIONS.
        flat: It has Megatron core's layout.
        arguments: Those of the training; None if the file doesn't hold them.
        ranks: The number of tensor-parallel ranks.
        stages: The number of pipeline stages.
        layers: The number of layers.
        parts: Name to one tensor for each tensor-parallel rank.
    """

    path: Path
    version: float
    flat: bool
    arguments: Mapping[str, object] | None
    ranks: int
    stages: int
    layers: int
    parts: Mapping[str, tuple[Tensor, ...]]


def read(grid: Grid) -> Shards:
    """Every file of a checkpoint, its weights mapped into memory.

    Raises:
        UnsafePickleError: a file names what is not on the allow-list.
        CheckpointCorruptError: a file is damaged, is not Megatron's, or doesn't fit to the others.
        UnsupportedFeatureError: its version is unknown.
    """
    contents = {place: pickles.load(path) for place, path in grid.items()}
    first = grid[0, 0]
    for place, content in contents.items():
        for key in ("checkpoint_version", "iteration"):
            if str(content.get(key)) != str(contents[0, 0].get(key)):
                raise CheckpointCorruptError(grid[place], f"its {key} is not that of {first.parent.name}")
    chunks = _chunks(contents[0, 0], first)
    flat = not any(str(key).startswith("language_model") for key in contents[0, 0][chunks[0]])
    ranks, stages = (max(place[axis] for place in grid) + 1 for axis in (0, 1))
    parts: dict[str, tuple[Tensor, ...]] = {}
    layers = 0
    for chunk in chunks:  # with virtual stages, the second part of every stage comes after the first of the last
        for stage in range(stages):
            places = [(rank, stage) for rank in range(ranks)]
            found = _stage({grid[place]: contents[place].get(chunk) for place in places})
            for name, tensors in found.items():
                shifted = names.shift_layer(name, layers)
                if shifted in parts:
                    raise CheckpointCorruptError(grid[0, stage], f"it holds {name}, and so does another stage")
                parts[shifted] = tensors
            layers += names.layers_in(found)
    version = _version(contents[0, 0], flat)
    arguments = _arguments(contents[0, 0], first)
    return Shards(first, version, flat, arguments, ranks, stages, layers, parts)


def _chunks(content: Mapping[str, Any], path: Path) -> list[str]:
    virtual = [f"model{index}" for index in range(len(content)) if f"model{index}" in content]
    chunks = ["model"] if "model" in content else virtual
    if not chunks or not isinstance(content[chunks[0]], dict):
        shown = ", ".join(sorted(map(str, content))[:4]) or "nothing"
        raise CheckpointCorruptError(path, f"it is not a checkpoint of Megatron-LM: it has no model, but {shown}")
    return chunks


def _stage(ranks: Mapping[Path, object]) -> dict[str, tuple[Tensor, ...]]:
    found: dict[str, list[Tensor]] = {}
    for index, (path, model) in enumerate(ranks.items()):
        if not isinstance(model, dict):
            raise CheckpointCorruptError(path, "a part of its model is missing")
        weights = names.flatten(model, path)
        if index == 0:
            found = {name: [] for name in weights}
        odd = sorted(found.keys() ^ weights.keys())
        if odd:
            raise CheckpointCorruptError(path, f"of it and its first shard only one holds {odd[0]}")
        for name, value in weights.items():
            _check(value, name, path)
            if found[name] and found[name][0].shape != value.shape:
                sizes = f"{list(value.shape)}, in the first shard {list(found[name][0].shape)}"
                raise CheckpointCorruptError(path, f"its {name} has shape {sizes}")
            found[name].append(value.detach())
        size = sum({w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in weights.values()}.values())
        if size > path.stat().st_size:
            raise CheckpointCorruptError(path, f"its weights would take {size} bytes, more than it has")
    return {name: tuple(tensors) for name, tensors in found.items()}


def _check(value: object, name: str, path: Path) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        what = f"{value.layout} on {value.device}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise CheckpointCorruptError(path, f"its {name} is no ordinary tensor but {what}")
    if value.dtype not in _DTYPES:
        raise CheckpointCorruptError(path, f"its {name} holds {value.dtype}, not fp32, fp16 or bf16")
    if not value.is_contiguous():
        raise CheckpointCorruptError(path, f"its {name} is a view of other weights")


def _version(content: Mapping[str, object], flat: bool) -> float:
    found = content.get("checkpoint_version", 3.0 if flat else 0)
    if not isinstance(found, int | float) or isinstance(found, bool) or found not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        raise UnsupportedFeatureError("checkpoint_version", found, f"those known are {known}")
    if flat and float(found) < _FLAT_SINCE:
        raise UnsupportedFeatureError("checkpoint_version", found, "this layout is written since 3.0")
    return float(found)


def _arguments(content: Mapping[str, object], path: Path) -> Mapping[str, object] | None:
    arguments = content.get("args")
    if arguments is None or isinstance(arguments, dict):
        return arguments
    if isinstance(arguments, pickles.Plain):
        return dict(vars(arguments))
    raise CheckpointCorruptError(path, f"its args are of type {type(arguments).__name__}, not those of a training")
