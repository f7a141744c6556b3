"""A checkpoint folder, checked before any framework reads it.

Owns: config.json, the safetensors files and the tokenizer files of a folder, and the task that a name means for it.
Knows nothing of torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from neuronbert.architectures import TASKS, Architecture, find_architecture, infer_task
from neuronbert.errors import (
    CheckpointCorruptError,
    MissingFileError,
    SequenceExceedsPositionsError,
    UnknownTaskError,
    UnsafeWeightsError,
    UnsupportedFeatureError,
)
from neuronbert.manifest import InputSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neuronbert.shapes import StaticShape

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
DOWNLOADED: Final = (CONFIG, "*.safetensors", INDEX, *TOKENIZER_FILES)
"""What is fetched of a repository on the Hub."""
_MAX_LAYERS: Final = 1000
"""More is no encoder; building it would take hours before its weights are found to be missing."""
_PICKLED: Final = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose config is sound and whose weight files are whole.

    Attributes:
        path: The folder.
        config: config.json as it is.
        architecture: The row of the table for its model type.
        weight_files: The safetensors files, in order.
    """

    path: Path
    config: dict[str, Any]
    architecture: Architecture
    weight_files: tuple[Path, ...]

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """The checkpoint in a folder.

        Raises:
            MissingFileError: there is no such folder, or no config.json in it.
            CheckpointCorruptError: the config or the weights can't be read.
            UnsafeWeightsError: the weights are there only as pickled files.
            UnsupportedModelError: the model type isn't in the architecture table.
            UnsupportedFeatureError: the config asks for what a program would silently leave out.
        """
        folder = Path(path)
        config = read_config(folder)
        architecture = find_architecture(config["model_type"])
        position_type = config.get("position_embedding_type", "absolute")
        if position_type not in (None, "absolute"):
            reason = "transformers 5 ignores it and would answer wrongly; only absolute positions are exported"
            raise UnsupportedFeatureError("position_embedding_type", position_type, reason)
        if config.get("chunk_size_feed_forward"):
            reason = "it works only for lengths that are a multiple of it"
            raise UnsupportedFeatureError("chunk_size_feed_forward", config["chunk_size_feed_forward"], reason)
        layers = config.get("num_hidden_layers")
        if isinstance(layers, int) and layers > _MAX_LAYERS:
            raise CheckpointCorruptError(folder / CONFIG, f"num_hidden_layers is {layers}, more than {_MAX_LAYERS}")
        files = _weight_files(folder)
        for file in files:
            _check_weights(file)
        return cls(folder, config, architecture, files)

    @property
    def max_sequence_length(self) -> int:
        """The longest row that the position table has entries for."""
        return self._size("max_position_embeddings") - self.architecture.position_offset

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""
        return self._size("vocab_size")

    @property
    def token_types(self) -> int:
        """The number of segment ids."""
        return self._size("type_vocab_size")

    @property
    def pad_token_id(self) -> int:
        """The id that fills a row up."""
        value = self.config.get("pad_token_id")
        return value if type(value) is int and 0 <= value < self.vocabulary else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the config says it was saved from."""
        names = self.config.get("architectures")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def input_specs(self) -> tuple[InputSpec, ...]:
        """What a program of this model takes, in order."""
        known = {
            "input_ids": InputSpec(name="input_ids", maximum=self.vocabulary - 1, padding=self.pad_token_id),
            "attention_mask": InputSpec(name="attention_mask", maximum=1, default=1),
            "token_type_ids": InputSpec(name="token_type_ids", maximum=self.token_types - 1, default=0),
        }
        return tuple(known[name] for name in self.architecture.inputs)

    def sizes(self) -> dict[str, int]:
        """The sizes of the dimensions that are the model's own, by meaning."""
        labels = self.config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else 2
        return {"hidden": self._size("hidden_size"), "vocabulary": self.vocabulary, "labels": count, "relation": 2}

    def check_shapes(self, shapes: Iterable[StaticShape]) -> None:
        """Refuse shapes that the model has no positions for.

        Raises:
            SequenceExceedsPositionsError: a shape is longer than the position table.
        """
        for shape in shapes:
            if shape.sequence_length > self.max_sequence_length:
                raise SequenceExceedsPositionsError(shape.sequence_length, self.max_sequence_length)

    def weights_sha256(self) -> str:
        """The digest of the weight files' bytes, in order."""
        digest = hashlib.sha256()
        for path in self.weight_files:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def weights_bytes(self) -> int:
        """The size of the weight files."""
        return sum(path.stat().st_size for path in self.weight_files)

    def copy_tokenizer(self, folder: Path) -> None:
        """Put the files that make the tokenizer, as far as they are there, into another folder.

        Raises:
            CheckpointCorruptError: one of them can't be read.
        """
        for name in TOKENIZER_FILES:
            path = self.path / name
            if path.is_file():
                (folder / name).write_bytes(_read(path))

    def _size(self, key: str) -> int:
        value = self.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problem = f"{key} is {value!r}, not a whole number of 1 or more"
            raise CheckpointCorruptError(self.path / CONFIG, problem)
        return value


def canonical_task(name: str, checkpoint: Checkpoint) -> str:
    """The name in the task table for a task, one of optimum's synonyms for it, or "auto".

    Raises:
        UnknownTaskError: there is no such task.
        TaskNotInferableError: it is "auto", and the checkpoint doesn't say.
    """
    if name == "auto":
        return infer_task(checkpoint.architecture, checkpoint.class_names)
    if name in TASKS:
        return name
    # optimum takes "pretraining" for feature extraction, which would drop both heads.
    synonym = "pre-training" if name == "pretraining" else _optimum_synonym(name)
    if synonym not in TASKS:
        raise UnknownTaskError(name, sorted(TASKS))
    return synonym


def _optimum_synonym(name: str) -> str:
    from optimum.exporters.tasks import TasksManager  # noqa: PLC0415  a second of imports for a rare spelling

    return str(TasksManager.map_from_synonym(name))


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder: a JSON object that names a model_type.

    Raises:
        MissingFileError: there is none.
        CheckpointCorruptError: it is something else.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise MissingFileError(path)
    config = _read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointCorruptError(path, "it names no model_type")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(path, "it is not JSON") from error
    if not isinstance(value, dict):
        raise CheckpointCorruptError(path, "it is not a JSON object")
    return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointCorruptError(path, f"it can't be read ({error.strerror})") from error


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
    weight_map = _read_json(index).get("weight_map")
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
