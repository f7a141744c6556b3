"""The folder of a quantized checkpoint.

Owns: what is in it, the names of its tensors, and reading a checkpoint's weights without any ranges. Knows nothing of
how ranges are found.
"""

from __future__ import annotations

import json
import shutil
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file

from neuronbert import sentences
from neuronbert.errors import CheckpointCorruptError
from neuronbert.folders import CONFIG, WEIGHTS, read_json
from neuronbert.integers.ranges import is_range
from neuronbert.quantization import placement
from neuronbert.schemes import SECTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from neuronbert.checkpoint import Checkpoint
    from neuronbert.schemes import Scheme


def tensors_of(checkpoint: Checkpoint, encoder: Any, *, trained: bool) -> dict[str, Tensor]:
    """What is written: the checkpoint's weights, those of the encoder in their place if it was trained, and ranges.

    Raises:
        UncalibratedError: a quantizer has no range.
        CheckpointCorruptError: a weight that was trained has another name in the checkpoint.
    """
    tensors, stem = weights_of(checkpoint)
    if trained:
        own, parameters = trained_names(checkpoint, encoder), dict(encoder.named_parameters())
        for name, key in own.items():
            tensors[key] = parameters[name].detach().to(tensors[key].dtype).contiguous()
    ranges = {
        f"{stem}encoder.{name}._amax": amax.detach().contiguous() for name, amax in placement.ranges_of(encoder).items()
    }
    return tensors | ranges


def trained_names(checkpoint: Checkpoint, encoder: Any) -> dict[str, str]:
    """What a checkpoint calls each parameter of its encoder that is trained, by our names.

    Raises:
        CheckpointCorruptError: it has another name than transformers reads.
    """
    keys = {key for path in checkpoint.weight_files for key in _keys(path)}
    stem, found = stem_of(keys), {}
    for name, _ in encoder.named_parameters():
        if placement.is_range(name) or name.startswith("pooler."):
            continue
        key = next((stem + spelled for spelled in (name, _old(name)) if stem + spelled in keys), None)
        if key is None:
            raise CheckpointCorruptError(checkpoint.path, f"it names {name} otherwise, so it can't be trained")
        found[name] = key
    return found


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _old(name: str) -> str:
    """A name as checkpoints from TensorFlow have it; transformers reads them so."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def weights_of(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], str]:
    """A checkpoint's weights without any ranges, and what its encoder's names begin with."""
    tensors: dict[str, Tensor] = {}
    for path in checkpoint.weight_files:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not (placement.is_range(name) or is_range(name))]  # noqa: SIM118
            tensors |= {name: file.get_tensor(name) for name in names}
    return tensors, stem_of(tensors)


def stem_of(tensors: Iterable[str]) -> str:
    """What the names of an encoder's weights begin with."""
    first = next(name for name in tensors if "encoder.layer.0." in name)
    return first[: first.index("encoder.layer.0.")]


def write(
    checkpoint: Checkpoint,
    scheme: Scheme,
    tensors: Mapping[str, Tensor],
    folder: Path,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a quantized checkpoint, with the tokenizer and the modules of the one that it is from.

    Args:
        checkpoint: Whose config, tokenizer and modules these are.
        scheme: For config.json.
        tensors: All that go into the file of weights.
        folder: Where; it is there already.
        settings: What else config.json gets.

    Raises:
        CheckpointCorruptError: its modules.json names what is no folder beside it.
        StorageError: it can't be written.
    """
    config = {**checkpoint.config, **settings, SECTION: scheme.model_dump(mode="json")}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read
    checkpoint.copy_tokenizer(folder)
    _copy_modules(checkpoint.path, folder)


def _copy_modules(source: Path, folder: Path) -> None:
    """What a sentence-transformers folder runs after its encoder."""
    for name in (sentences.MODULES, sentences.TEXTS, sentences.PROMPTS):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    for path in _modules(source):
        (folder / path.name).mkdir()
        for file in (path / CONFIG, path / WEIGHTS):
            if file.is_file():
                shutil.copy(file, folder / path.name / file.name)


def _modules(source: Path) -> list[Path]:
    """The folders that a modules.json names and that are there; nothing else that lies in the checkpoint's."""
    if not (source / sentences.MODULES).is_file():
        return []
    items = read_json(source / sentences.MODULES, list)
    names = dict.fromkeys(item.get("path") for item in items if isinstance(item, dict))
    for name in names:
        if not isinstance(name, str) or name in (".", "..") or any(sign in name for sign in "/\\\0"):
            raise CheckpointCorruptError(source / sentences.MODULES, f"it names {name!r}, which is no folder beside it")
    return [source / name for name in names if name and (source / name / CONFIG).is_file()]
