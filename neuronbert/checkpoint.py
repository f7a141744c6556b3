"""A checkpoint folder, checked before any framework reads it.

Owns: what its config says, and the task that a name means for it. Knows nothing of torch or transformers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from neuronbert import schemes
from neuronbert.architectures import TASKS, find_architecture, find_task, infer_task
from neuronbert.errors import (
    CheckpointCorruptError,
    NotQuantizedError,
    SequenceExceedsPositionsError,
    UnknownTaskError,
    UnsupportedFeatureError,
)
from neuronbert.folders import CONFIG, TOKENIZER_FILES, read_bytes, read_config, weight_files
from neuronbert.manifest import InputSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neuronbert.families import Architecture, Leak
    from neuronbert.schemes import Scheme
    from neuronbert.sentences import Module
    from neuronbert.shapes import StaticShape
    from neuronbert.spec import Method

_DEFAULTS: Final = {"attention_mask": 1, "token_type_ids": 0, "call_mask": 1}
"""What fills an input that the caller leaves out."""
_MAX_LAYERS: Final = 1000
"""More is no encoder; building it would take hours before its weights are found to be missing."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose config is sound and whose weight files are whole.

    Attributes:
        path: The folder.
        config: config.json as it is; of an old QDQBERT, as BERT's.
        architecture: The row of the table for its model type.
        weight_files: The safetensors files, in order.
        modules: What a sentence-transformers folder runs after its encoder, if that is what is exported.
    """

    path: Path
    config: dict[str, Any]
    architecture: Architecture
    weight_files: tuple[Path, ...]
    modules: tuple[Module, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """The checkpoint in a folder.

        Raises:
            MissingFileError: there is no such folder, or no config.json in it.
            CheckpointCorruptError: the config or the weights can't be read.
            UnsafeWeightsError: the weights are there only as pickled files.
            UnsupportedModelError: the model type isn't in the architecture table.
            UnsupportedFeatureError: the config asks for what a program would silently leave out.
            SchemeError: the config's quantization is none that there is.
        """
        folder = Path(path)
        config = schemes.modernized(read_config(folder))
        architecture = find_architecture(config["model_type"])
        schemes.read(config, folder / CONFIG)
        checkpoint = cls(folder, config, architecture, ())
        checkpoint.check_settings()
        checkpoint._check_layers()
        return replace(checkpoint, weight_files=weight_files(folder))

    @property
    def scheme(self) -> Scheme | None:
        """How it is quantized; None if it isn't."""
        return schemes.read(self.config, self.path / CONFIG)

    def quantization(self, asked: str) -> Literal["none", Method]:
        """What a program of it computes with.

        Args:
            asked: "auto" for what it is quantized by, "none" for float all the same, or a method.

        Raises:
            NotQuantizedError: it isn't quantized by the method.
        """
        scheme = self.scheme
        if asked == "none" or (asked == "auto" and scheme is None):
            return "none"
        if scheme is None or asked not in ("auto", scheme.method):
            raise NotQuantizedError(self.path, asked, scheme.method if scheme else "")
        return scheme.method

    @property
    def max_sequence_length(self) -> int:
        """The longest row that the position table has entries for."""
        offset = self.architecture.position_offset
        return self._size("max_position_embeddings") - (self.pad_token_id + 1 if offset == "pad" else offset)

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""
        return self._size("vocab_size")

    @property
    def token_types(self) -> int:
        """The number of segment ids."""
        return self._size("type_vocab_size", least=0 if "token_type_ids" in self.architecture.least else 1)

    @property
    def languages(self) -> int:
        """The number of languages that a token can be of; 1 if the model doesn't tell them apart."""
        return self._size("n_langs") if self.config.get("use_lang_emb", True) and "n_langs" in self.config else 1

    @property
    def pad_token_id(self) -> int:
        """The id that fills a row up."""
        value = self._setting("pad_token_id")
        value = self.architecture.pad_token_id if value is None else value
        return value if type(value) is int and 0 <= value < self.vocabulary else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the config says it was saved from."""
        names = self.config.get("architectures")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def leaks(self, task: str) -> tuple[Leak, ...]:
        """Where the loader's padding would reach what a task's head gives."""
        held = find_task(task).trunk or task
        return tuple(
            leak
            for leak in self.architecture.leaks
            if held in (leak.tasks or (held,))
            and (leak.side != "summary" or self.config.get("summary_type", leak.usual) != "first")
        )

    def input_specs(self, task: str) -> tuple[InputSpec, ...]:
        """What a program of a task's head takes, in order."""
        least = self.architecture.least
        counts = {"input_ids": self.vocabulary, "attention_mask": 2, "call_mask": 2}
        if "token_type_ids" in self.architecture.inputs:
            counts["token_type_ids"] = self.token_types
        if "langs" in self.architecture.inputs:
            counts["langs"] = self.languages
        return tuple(
            InputSpec(
                name=name,
                maximum=counts[name] - 1,
                default=_DEFAULTS.get(name),
                padding=self.pad_token_id if name == "input_ids" else 0,
            )
            for name in (*self.architecture.inputs, *(("call_mask",) if self.leaks(task) else ()))
            if counts[name] >= least.get(name, 1)
        )

    def sizes(self) -> dict[str, int]:
        """The sizes of the dimensions that are the model's own, by meaning."""
        labels = self.config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else 2
        return {"hidden": self._size("hidden_size"), "vocabulary": self.vocabulary, "labels": count, "relation": 2}

    def check_settings(self, task: str = "") -> None:
        """Refuse settings that a program would silently leave out, or get wrong.

        Args:
            task: For a task's head; by default for whatever is exported.

        Raises:
            UnsupportedFeatureError: it says which, and why.
        """
        for rule in self.architecture.only:
            value = self.config.get(rule.setting, rule.values[0])
            if (task in rule.tasks if rule.tasks else not task) and value not in rule.values:
                raise UnsupportedFeatureError(rule.setting, value, rule.reason)

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
                (folder / name).write_bytes(read_bytes(path))

    def _setting(self, key: str) -> Any:
        # transformers reads both names, and writes its own.
        own = self.architecture.names.get(key, key)
        return self.config.get(own, self.config.get(key))

    def _check_layers(self) -> None:
        key = "num_hidden_layers"
        if not {key, self.architecture.names.get(key, key)} & self.config.keys():
            return  # transformers has a number of its own then
        if self._size(key) > _MAX_LAYERS:
            problem = f"{key} is {self._setting(key)}, more than {_MAX_LAYERS}"
            raise CheckpointCorruptError(self.path / CONFIG, problem)

    def _size(self, key: str, least: int = 1) -> int:
        value = self._setting(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            problem = f"{key} is {value!r}, not a whole number of {least} or more"
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
