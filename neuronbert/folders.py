"""The files of a checkpoint folder: which there are, and that each can be read.

Owns: config.json as JSON, the safetensors files and their index, the names of the tokenizer files. Knows nothing of
what a config means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from neuronbert.errors import CheckpointCorruptError, MissingFileError, UnsafeWeightsError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
DOWNLOADED: Final = (
    CONFIG,
    "*.safetensors",
    INDEX,
    *TOKENIZER_FILES,
    "modules.json",
    "*/config.json",
    "*sentence*.json",
)
"""What is fetched of a repository on the Hub."""
_PICKLED: Final = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder: a JSON object that names a model_type.

    Raises:
        MissingFileError: there is none.
        CheckpointCorruptError: it is something else.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise MissingFileError(path)
    config: dict[str, Any] = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointCorruptError(path, "it names no model_type")
    return config


def read_json(path: Path, kind: type[Any] = dict) -> Any:
    """The JSON object in a file, or the array.

    Raises:
        CheckpointCorruptError: it is something else.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(path, "it is not JSON") from error
    if not isinstance(value, kind):
        raise CheckpointCorruptError(path, f"it is not a JSON {'object' if kind is dict else 'array'}")
    return value


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        CheckpointCorruptError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointCorruptError(path, f"it can't be read ({error.strerror})") from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, in order; each is whole and holds weights.

    Raises:
        MissingFileError: there are none, or one that the index names isn't there.
        CheckpointCorruptError: the index or a file can't be read.
        UnsafeWeightsError: the weights are there only as pickled files.
    """
    files = _weight_files(folder)
    for file in files:
        _check_weights(file)
    return files


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickled = [name for name in _PICKLED if (folder / name).is_file()]
    if pickled:
        raise UnsafeWeightsError(folder, pickled[0])
    raise MissingFileError(folder / WEIGHTS)


def _shards(folder: Path) -> tuple[Path, ...]:
    index = folder / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointCorruptError(index, "it has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointCorruptError(index, f"it names {name!r}, which is not a safetensors file beside it")
        if not (folder / name).is_file():
            raise MissingFileError(folder / name)
    return tuple(folder / name for name in names)


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointCorruptError(path, f"its weights can't be read ({error})") from error
    if not names:
        raise CheckpointCorruptError(path, "it holds no weights")
