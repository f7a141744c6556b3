"""Checkpoint to EncoderHead: positional tensors in, a tuple of tensors out.

Owns: loading transformers' classes and naming what they give. Knows nothing of backends or artifacts.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from neuronbert import sentences
from neuronbert.adapters import CallMask, keep_distances, tell_lengths
from neuronbert.architectures import find_architecture, find_form, find_head, find_task
from neuronbert.encoder import adapting
from neuronbert.encoder.arithmetic import FLOAT, FUSED
from neuronbert.encoder.model import ENCODER_TYPES, Encoder, install
from neuronbert.errors import (
    CheckpointCorruptError,
    HeadWeightsMissingError,
    UnsupportedModelError,
    first_line,
)
from neuronbert.integers import ranges
from neuronbert.manifest import OutputSpec
from neuronbert.pooling import SentenceEncoder
from neuronbert.quantization import placement
from neuronbert.quantization.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from neuronbert.adaptive.keeping import Keeping
    from neuronbert.checkpoint import Checkpoint
    from neuronbert.families import Architecture
    from neuronbert.manifest import InputSpec

logger = logging.getLogger("neuronbert")


WRAPPED: Final = "model"
"""The attribute of an EncoderHead, and so the prefix of its weights' names."""


class EncoderHead(nn.Module):
    """A model with one head as a function of positional tensors.

    Args:
        model: A transformers model in eval mode.
        inputs: The names of its inputs, in order.
        outputs: The names of its outputs, in order.
        columns: What keeps the loader's padding out of it.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str], columns: CallMask) -> None:
        super().__init__()
        self.model = model
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._columns = columns

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in order, for the inputs, in order."""
        given = dict(zip(self._inputs, tensors, strict=True))
        with self._columns.held(given.pop("call_mask", None)):
            result = self.model(**given, return_dict=True)
        return tuple(result[name] for name in self._outputs)

    def renamed(self, inputs: Sequence[str], outputs: Sequence[str]) -> EncoderHead:
        """The same model with fewer inputs or outputs, or in another order."""
        return EncoderHead(self.model, inputs, outputs, self._columns).eval()

    def around(self, model: nn.Module, outputs: Sequence[str]) -> EncoderHead:
        """Another model with the same inputs."""
        return EncoderHead(model, self._inputs, outputs, self._columns).eval()


@dataclass(frozen=True, slots=True)
class LoadedHead:
    """An EncoderHead with what is known of it.

    Attributes:
        head: The module, in fp32 and eval mode.
        task: The canonical name of its task.
        model_type: Its architecture.
        class_name: transformers' class.
        inputs: What it takes.
        outputs: What it gives.
        random_weights: Names of weights that the checkpoint lacked.
        notes: What was warned of.
    """

    head: EncoderHead
    task: str
    model_type: str
    class_name: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    random_weights: tuple[str, ...]
    notes: tuple[str, ...]


def load(
    checkpoint: Checkpoint, task: str, *, quantization: str = "none", allow_random_weights: bool = False
) -> LoadedHead:
    """The head of a task with a checkpoint's weights, in fp32.

    Args:
        checkpoint: Where from.
        task: A canonical task name.
        quantization: "none" for the model in float, whatever the checkpoint is; or the method that it is quantized by,
            for the simulation that its programs are held against.
        allow_random_weights: Initialise what the checkpoint lacks, from seed 0, in place of refusing.

    Raises:
        NotQuantizedError: the checkpoint isn't quantized, or by another method.
        UncalibratedError: one of its quantizers has no range.
        UnsupportedHeadError: the architecture has no such head.
        HeadWeightsMissingError: the checkpoint has no weights for it.
        UnsupportedFeatureError: the modules that follow the encoder can't be exported.
        CheckpointCorruptError: the config or the weights don't make a model.
    """
    checkpoint = sentences.with_modules(checkpoint, task)
    architecture = checkpoint.architecture
    class_name = find_head(architecture, task)
    outputs = find_form(architecture, task).outputs
    model, missing = _load_model(checkpoint, class_name)
    if quantization != "none":
        checkpoint.quantization(quantization)
        check_encoder(checkpoint)
        model = METHODS[quantization].simulate(model, checkpoint)
    notes = list(sentences.notes(checkpoint))
    for part in _missing_parts(architecture, task, model, missing):
        # Encoders are often saved without their pooler: such a program has no pooled output.
        missing = tuple(name for name in missing if not name.startswith(f"{part}."))
        if any(output.needs == part for output in outputs):
            outputs = tuple(output for output in outputs if output.needs != part)
            notes.append(f"the checkpoint has no {part}, so the program goes without its output")
    _check_trunk(checkpoint, missing)
    if missing and not allow_random_weights:
        raise HeadWeightsMissingError(task, class_name, missing)
    if task == "text-generation" and not checkpoint.config.get("is_decoder"):
        notes.append("config.is_decoder is not set: as in transformers, every token sees those after it")
    for note in notes:
        logger.warning(note)
    sizes = {
        "hidden": model.config.hidden_size,
        "vocabulary": model.config.vocab_size,
        "labels": model.config.num_labels,
        "relation": 2,
        "embedding": sentences.width(checkpoint.modules, model.config.hidden_size),
    }
    inputs = checkpoint.input_specs(task)
    return LoadedHead(
        head=_adapted(checkpoint, task, model, [o.name for o in outputs]),
        task=task,
        model_type=architecture.model_type,
        class_name=class_name,
        inputs=inputs,
        outputs=tuple(OutputSpec.of(output, sizes) for output in outputs),
        random_weights=missing,
        notes=tuple(notes),
    )


def as_computed(loaded: LoadedHead, quantization: str, *, integers: bool) -> LoadedHead:
    """A simulated head as what is compiled; the simulated one is used up.

    Args:
        loaded: The head, simulated if it is quantized.
        quantization: How, or "none": then it is compiled as it is.
        integers: The target has products of integers; where it hasn't, they are carried in fp32.

    Raises:
        SimulatedOnlyError: something is quantized as the integer kernels can't.
        IntegerRangeError: a size leaves fp32 no room for exact sums.
    """
    if quantization == "none":
        return loaded
    method = METHODS[quantization]
    return replace(loaded, head=(method.integers if integers else method.floats)(loaded.head))


def load_encoder(checkpoint: Checkpoint) -> Encoder:
    """Our encoder with a checkpoint's weights, in fp32, without any head.

    Raises:
        UnsupportedModelError: the architecture's layers are others.
        CheckpointCorruptError: the config or the weights don't make a model.
    """
    check_encoder(checkpoint)
    model, missing = _load_model(checkpoint, find_head(checkpoint.architecture, "feature-extraction"))
    _check_trunk(checkpoint, missing)
    encoder: Encoder = install(model)
    return encoder


def check_encoder(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose layers aren't those of our encoder.

    Raises:
        UnsupportedModelError: they aren't.
    """
    model_type = checkpoint.architecture.model_type
    if (checkpoint.architecture.twin or model_type) not in ENCODER_TYPES:
        raise UnsupportedModelError(model_type, ENCODER_TYPES, "what is asked for is built on our own encoder")


def _check_trunk(checkpoint: Checkpoint, missing: Iterable[str]) -> None:
    trunk = [name for name in missing if _is_layer(checkpoint.architecture, name) or "embeddings." in name]
    if trunk:
        raise CheckpointCorruptError(checkpoint.path, f"its weights lack {trunk[0]}, which is not of a head")


def keep_tokens(loaded: LoadedHead, keeping: Keeping | None) -> LoadedHead:
    """The head with its tokens dropped; it then gives how many layers each token passed, beside its outputs.

    Args:
        loaded: The head; its model is changed.
        keeping: Which tokens go on; None for all.
    """
    if keeping is None:
        return loaded
    held = loaded.head.model
    inner = held.model if isinstance(held, SentenceEncoder) else held
    adapted = adapting.keep_tokens(inner, keeping)
    if isinstance(held, SentenceEncoder):
        held.model = adapted
    whole = held if isinstance(held, SentenceEncoder) else adapted
    outputs = loaded.outputs
    encoder = adapting.encoder_of(adapted)
    if encoder.arithmetic is FLOAT:
        encoder.arithmetic = FUSED
    if keeping.length_config is not None:
        adapting.tell_passed(whole, encoder)
        dims = tuple(dim for dim in ("batch", "choices", "sequence") if dim != "choices" or _has_choices(loaded))
        outputs = (*outputs, OutputSpec(name=adapting.PASSED, dims=dims, answer="layers"))
    head = loaded.head.around(whole, [spec.name for spec in outputs])
    return replace(loaded, head=head, outputs=outputs)


def _has_choices(loaded: LoadedHead) -> bool:
    return loaded.task == "multiple-choice"


def _missing_parts(architecture: Architecture, task: str, model: nn.Module, missing: Iterable[str]) -> list[str]:
    """The parts that an output alone needs, of which the checkpoint has nothing."""
    needed = {output.needs for output in find_form(architecture, find_task(task).trunk or task).outputs}
    lacking = []
    for part in needed - {""}:
        own = {name for name in model.state_dict() if name.startswith(f"{part}.")}
        if own and own <= set(missing):
            lacking.append(part)
    return lacking


def _adapted(checkpoint: Checkpoint, task: str, model: nn.Module, outputs: Sequence[str]) -> EncoderHead:
    columns = CallMask()
    columns.attach(model, checkpoint.leaks(task))
    if checkpoint.architecture.lengths:
        tell_lengths(model)
    if checkpoint.architecture.distances:
        keep_distances(model)
    if checkpoint.modules:
        model = SentenceEncoder(model, checkpoint.modules)
    inputs = [spec.name for spec in checkpoint.input_specs(task)]
    return EncoderHead(model, inputs, outputs, columns).eval()


def _load_model(checkpoint: Checkpoint, class_name: str) -> tuple[Any, tuple[str, ...]]:
    settings: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    twin, model_type = checkpoint.architecture.twin, checkpoint.architecture.model_type
    if twin:
        task = next(task for task, name in checkpoint.architecture.heads.items() if name == class_name)
        class_name = find_head(find_architecture(twin), task)
        settings["key_mapping"] = {rf"^{model_type}\.": f"{twin}."}
    model_class = getattr(transformers, class_name)
    options = {
        "attn_implementation": checkpoint.architecture.attention,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = model_class.config_class.from_pretrained(checkpoint.path, local_files_only=True)
            config.use_cache = False  # not as an option: a class that has no cache takes none
            model, info = model_class.from_pretrained(checkpoint.path, config=config, **settings, **options)
    except Exception as error:
        raise CheckpointCorruptError(checkpoint.path, f"it makes no {class_name} ({first_line(error)})") from error
    weights = [key for key in info["unexpected_keys"] if not (placement.is_range(key) or ranges.is_range(key))]
    beyond = [key for key in weights if _is_layer(checkpoint.architecture, key)]
    if beyond:
        raise CheckpointCorruptError(checkpoint.path, f"its config has no place for {sorted(beyond)[0]}")
    if info.get("mismatched_keys"):
        key = sorted(info["mismatched_keys"])[0][0]
        raise CheckpointCorruptError(checkpoint.path, f"{key} has another shape than its config says")
    for module in model.modules():
        if isinstance(module, transformers.PreTrainedModel):
            module.loss_function = None  # a program has no loss; transformers warns each time it looks for one
    missing = (key for key in info["missing_keys"] if not key.startswith(checkpoint.architecture.idle))
    return model.eval(), tuple(sorted(missing))


def _is_layer(architecture: Architecture, name: str) -> bool:
    # One that the checkpoint has and the config doesn't is a layer that would be left out.
    return any(part in name for part in architecture.layers)


@contextmanager
def _quiet() -> Iterator[None]:
    # What transformers says about loading (missing weights, head by head) is said here by an error or not at all.
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
