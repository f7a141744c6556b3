"""The modules of a sentence-transformers folder: what makes one vector of a text out of an encoder's hidden states.

Owns: modules.json and the config.json of each module, what of them can be exported, and what an artifact keeps of
them. Knows nothing of torch.
Source: the folders that sentence-transformers 2 to 5 save.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from neuronbert.architectures import find_task
from neuronbert.errors import (
    CheckpointCorruptError,
    MissingFileError,
    NeuronBertError,
    UnsafeWeightsError,
    UnsupportedFeatureError,
)
from neuronbert.folders import CONFIG, WEIGHTS, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from neuronbert.checkpoint import Checkpoint

logger = logging.getLogger("neuronbert")

MODULES: Final = "modules.json"
TEXTS: Final = "sentence_bert_config.json"
"""What is done to texts before the tokenizer."""
PROMPTS: Final = "config_sentence_transformers.json"
"""Prompts, and how vectors are compared."""
LOADER: Final = "neuronbert.sentence_transformer.NeuronTransformer"
"""What an artifact's modules.json names in place of their Transformer."""
POOLINGS: Final = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which sentence-transformers joins several."""
ACTIVATIONS: Final = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid")
_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_PICKLED: Final = "pytorch_model.bin"
_PACKAGE: Final = "sentence_transformers"


@dataclass(frozen=True, slots=True)
class Pooling:
    """Token embeddings to one vector: that of every mode, joined."""

    modes: tuple[str, ...]

    def described(self) -> dict[str, object]:
        """What of it decides a program."""
        return {"pooling": self.modes}


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer on the vector, with its activation.

    Attributes:
        file: Its weights.
        inputs: The size of the vector that it takes.
        outputs: The size of the one that it gives.
        bias: Whether it has one.
        activation: A name of ACTIVATIONS.
    """

    file: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str

    def described(self) -> dict[str, object]:
        """What of it decides a program, but for its weights."""
        return {"dense": (self.inputs, self.outputs, self.bias, self.activation)}


@dataclass(frozen=True, slots=True)
class Normalize:
    """The vector to length 1."""

    def described(self) -> dict[str, object]:
        """What of it decides a program."""
        return {"normalize": True}


Module = Pooling | Dense | Normalize


def with_modules(checkpoint: Checkpoint, task: str) -> Checkpoint:
    """The checkpoint with what a task runs after its encoder; for most tasks, as it is.

    Args:
        checkpoint: The encoder's, in the same folder.
        task: A canonical task name.

    Raises:
        UnsupportedFeatureError: the folder has no such modules, or one that can't be exported; it says why.
        CheckpointCorruptError: one of its files can't be used.
        UnsafeWeightsError: weights are there only as a pickled file.
    """
    if not find_task(task).trunk or checkpoint.modules:
        return checkpoint
    if not (checkpoint.path / MODULES).is_file():
        raise UnsupportedFeatureError("modules", None, f"without a {MODULES} there is no saying how to pool its tokens")
    modules = _read(checkpoint.path)
    files = tuple(module.file for module in modules if isinstance(module, Dense))
    return replace(checkpoint, modules=modules, weight_files=(*checkpoint.weight_files, *files))


def width(modules: tuple[Module, ...], hidden: int) -> int:
    """The size of the vector that modules make of hidden states."""
    for module in modules:
        if isinstance(module, Pooling):
            hidden *= len(module.modes)
        elif isinstance(module, Dense):
            hidden = module.outputs
    return hidden


def notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What sentence-transformers does to texts before its tokenizer, and no program does."""
    if not checkpoint.modules:
        return ()
    found = []
    texts, prompts = checkpoint.path / TEXTS, checkpoint.path / PROMPTS
    if texts.is_file() and read_json(texts).get("do_lower_case"):
        found.append(
            "sentence-transformers lowers texts before this model's tokenizer: lower them before they are given"
        )
    if prompts.is_file() and read_json(prompts).get("default_prompt_name"):
        found.append(
            "sentence-transformers puts a prompt before each text for this model: put it before those that are given"
        )
    return tuple(found)


def keep(checkpoint: Checkpoint, task: str, folder: Path) -> None:
    """Put into an artifact what sentence-transformers goes by: its settings, and the modules that follow the program.

    Args:
        checkpoint: Where they are from; nothing is done if it is none of sentence-transformers.
        task: The artifact's. If its programs give a sentence's vector, no module follows them.
        folder: The artifact's.
    """
    inside = bool(find_task(task).trunk)
    if not (inside or task == "feature-extraction") or not (checkpoint.path / MODULES).is_file():
        return
    try:
        after = [] if inside else _listed(checkpoint.path, "Transformer")
    except NeuronBertError as error:  # the programs are whole without them
        logger.warning("The modules that follow the encoder aren't kept. %s", error)
        return
    for name in (TEXTS, PROMPTS):
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)
    listed: list[dict[str, object]] = [{"idx": 0, "name": "0", "path": "", "type": LOADER}]
    for index, (kind, path, _) in enumerate(after, start=1):
        listed.append(
            {"idx": index, "name": str(index), "path": f"{index}_{kind}", "type": f"{_PACKAGE}.models.{kind}"}
        )
        for name in (CONFIG, WEIGHTS) if kind != "Normalize" else ():
            if (path / name).is_file():
                (folder / f"{index}_{kind}").mkdir(exist_ok=True)
                shutil.copyfile(path / name, folder / f"{index}_{kind}" / name)
    (folder / MODULES).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def following(folder: Path) -> list[tuple[str, Path]]:
    """The modules that follow an artifact's programs: kind and folder of each, all of them checked.

    Raises:
        UnsupportedFeatureError: it has no modules.json, or one that isn't of an artifact.
        CheckpointCorruptError: one of its files can't be used.
    """
    if not (folder / MODULES).is_file():
        raise UnsupportedFeatureError("modules", None, f"without a {MODULES} there is no saying how to pool its tokens")
    return [(kind, path) for kind, path, _ in _listed(folder, LOADER.rpartition(".")[2])]


def after_program(folder: Path) -> tuple[Module, ...]:
    """The same modules, read.

    Raises:
        UnsupportedFeatureError: as in `following`.
        CheckpointCorruptError: one of its files can't be used.
    """
    return tuple(module for *_, module in _listed(folder, LOADER.rpartition(".")[2]))


def _read(folder: Path) -> tuple[Module, ...]:
    return tuple(module for _, _, module in _listed(folder, "Transformer"))


def _listed(folder: Path, first: str) -> list[tuple[str, Path, Module]]:
    found = [_kind(folder, item) for item in read_json(folder / MODULES, list)]
    if [kind for kind, _ in found].count(first) != 1 or found[0] != (first, folder):
        reason = f"one {first} has to come first, with its files beside {MODULES}"
        raise UnsupportedFeatureError("modules", [kind for kind, _ in found], reason)
    listed: list[tuple[str, Path, Module]] = []
    for kind, path in found[1:]:
        if kind in _READERS:
            listed.append((kind, path, _READERS[kind](path)))
        elif kind != "Dropout":
            raise UnsupportedFeatureError(
                "module", kind, "only Transformer, Pooling, Dense, Dropout and Normalize are exported"
            )
    if [isinstance(module, Pooling) for *_, module in listed] != [True, *[False] * (len(listed) - 1)]:
        raise UnsupportedFeatureError("modules", None, "one Pooling has to follow the Transformer")
    return listed


def _kind(folder: Path, item: Any) -> tuple[str, Path]:
    kind, path = (item.get(name) if isinstance(item, dict) else None for name in ("type", "path"))
    if not isinstance(kind, str) or not isinstance(path, str):
        raise CheckpointCorruptError(folder / MODULES, "a module in it has no type or no path")
    if path and (path in (".", "..") or "/" in path or "\\" in path or "\0" in path):
        raise CheckpointCorruptError(folder / MODULES, f"it names {path!r}, which is no folder beside it")
    return kind.rpartition(".")[2], folder / path


def _pooling(folder: Path) -> Pooling:
    config = read_json(folder / CONFIG)
    if config.get("include_prompt", True) is not True:
        raise UnsupportedFeatureError("include_prompt", False, "a program doesn't know where a prompt ends")
    named = config.get("pooling_mode")
    modes = [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else [str(named)]
    other = [mode for mode in modes if mode not in POOLINGS]
    other += [flag for flag in config if flag.startswith("pooling_mode_") and config[flag] and flag not in _FLAGS]
    if other or not modes:
        raise UnsupportedFeatureError(
            "pooling_mode", other[0] if other else None, f"those that are exported: {', '.join(POOLINGS)}"
        )
    return Pooling(tuple(sorted(modes, key=POOLINGS.index)))


def _dense(folder: Path) -> Dense:
    config = read_json(folder / CONFIG)
    activation = str(config.get("activation_function", "")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise UnsupportedFeatureError(
            "activation_function", activation, f"those that are exported: {', '.join(ACTIVATIONS)}"
        )
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            raise UnsupportedFeatureError(name, config[name], "only a Dense on the sentence's vector is exported")
    sizes = [config.get(name) for name in ("in_features", "out_features")]
    inputs, outputs = (size if type(size) is int and size > 0 else 0 for size in sizes)
    if not inputs or not outputs:
        raise CheckpointCorruptError(folder / CONFIG, "in_features and out_features are not whole numbers of 1 or more")
    dense = Dense(folder / WEIGHTS, inputs, outputs, config.get("bias", True) is True, activation)
    _check_weights(dense)
    return dense


def _check_weights(dense: Dense) -> None:
    if not dense.file.is_file():
        if (dense.file.parent / _PICKLED).is_file():
            raise UnsafeWeightsError(dense.file.parent, _PICKLED)
        raise MissingFileError(dense.file)
    expected = {
        "linear.weight": [dense.outputs, dense.inputs],
        **({"linear.bias": [dense.outputs]} if dense.bias else {}),
    }
    try:
        with safe_open(dense.file, framework="np") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError) as error:
        raise CheckpointCorruptError(dense.file, f"its weights can't be read ({error})") from error
    if found != expected:
        raise CheckpointCorruptError(dense.file, "its weights are not those that its config.json describes")


_READERS: Final[Mapping[str, Callable[[Path], Module]]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": lambda _: Normalize(),
}
