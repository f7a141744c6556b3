"""A checkpoint to a quantized checkpoint.

Owns: the order of a quantization, which texts it looks at, and what is written. The result is a checkpoint like any
other: the weights as they were, a range for each quantizer beside them, and the scheme in config.json. transformers
loads it in float, export and validate in 8 bits.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from safetensors import safe_open
from safetensors.torch import save_file

from neuronbert import modeling, passages, sentences, sources, tokenization
from neuronbert.checkpoint import CONFIG, WEIGHTS, Checkpoint, canonical_task
from neuronbert.errors import CheckpointCorruptError, InvalidOptionError, NotQuantizedError, TaskNotInferableError
from neuronbert.integers.layers import FORCE_DEQUANT
from neuronbert.integers.ranges import is_range
from neuronbert.quantization import ibert, placement, sensitivity
from neuronbert.quantization.calibration import calibrate
from neuronbert.quantization.qdq import QdqArithmetic
from neuronbert.quantization.training import distill
from neuronbert.schemes import (
    CALIBRATION_METHODS,
    INPUTS,
    PER_CHANNEL,
    SECTION,
    Calibration,
    CalibrationMethod,
    Descriptor,
    Scheme,
)
from neuronbert.staging import staged

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from neuronbert.integers.layers import ForceDequant
    from neuronbert.quantization.sensitivity import Cost, Noise


logger = logging.getLogger("neuronbert")

Quantization = Literal["qdq", "ibert"]
QUANTIZATIONS: Final[tuple[Quantization, ...]] = get_args(Quantization)
_METHODS: Final[Mapping[Quantization, CalibrationMethod]] = {"qdq": "percentile", "ibert": "mse"}
_ONLY_QDQ: Final = ("keep_float", "inputs", "weights", "qat_steps", "learn_ranges", "sensitivity")
_LOOKS: Final = 2
"""Batches that the cost of each place is measured with."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """What a quantization made.

    Attributes:
        path: The checkpoint's folder.
        scheme: What is in its config.json.
        rows: How many rows of text it was calibrated with.
        quantizers: How many quantizers have a range.
        noises: What each quantizer of inputs does to what it saw, in the model's order.
        costs: With a sensitivity: what each place costs alone, most first.
        proposed: With a sensitivity: what to leave in float (`keep_float`), so that no more than that is lost.
    """

    path: Path
    scheme: Scheme
    rows: int
    quantizers: int
    noises: tuple[Noise, ...]
    costs: tuple[Cost, ...] = ()
    proposed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """How a checkpoint is quantized.

    Attributes:
        method: How the ranges of inputs are chosen: "max", "percentile", "mse" or "entropy"; by default what suits the
            quantization, percentile for qdq and mse for ibert.
        percentile: The share of values, in percent, that the method of that name leaves unclipped.
        rows: The most rows of text that are looked at.
        sequence_length: Their tokens are cut to so many.
        keep_float: Layers, modules or quantizers that stay in float, as layer.0 or layer.*.output.dense.
        qat_steps: How many batches the weights then learn from, to bring the quantized model near the one in float; 0
            leaves them as they are.
        learn_ranges: The ranges learn with them.
        sensitivity: Find what each place costs, and what to leave in float for no more than this loss: the squared
            difference of the last hidden states over their variance.
        inputs: How inputs are quantized.
        weights: How weights are quantized.
        quantization: "qdq" for 8 bits with float in between, "ibert" for integers alone.
        force_dequant: I-BERT's functions that stay in float: "none", "gelu", "softmax", "layernorm" or "nonlinear".

    Raises:
        InvalidOptionError: an option has a value that it can't take.
    """

    method: CalibrationMethod | None = None
    percentile: float = 99.99
    rows: int = 512
    sequence_length: int = 128
    keep_float: tuple[str, ...] = ()
    qat_steps: int = 0
    learn_ranges: bool = False
    sensitivity: float | None = None
    inputs: Descriptor = INPUTS
    weights: Descriptor = PER_CHANNEL
    quantization: Quantization = "qdq"
    force_dequant: ForceDequant = "none"

    @property
    def chosen(self) -> CalibrationMethod:
        """The method, or the quantization's own."""
        return self.method or _METHODS[self.quantization]

    def __post_init__(self) -> None:
        self._check_quantization()
        if self.method is not None and self.method not in CALIBRATION_METHODS:
            raise InvalidOptionError("method", self.method, "one of " + ", ".join(map(repr, CALIBRATION_METHODS)))
        if not 0 < self.percentile <= 100:
            raise InvalidOptionError("percentile", self.percentile, "more than 0 and at most 100")
        if self.qat_steps < 0:
            raise InvalidOptionError("qat_steps", self.qat_steps, "0 or more")
        if self.sensitivity is not None and not self.sensitivity > 0:
            raise InvalidOptionError("sensitivity", self.sensitivity, "more than 0")
        for name in ("rows", "sequence_length"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(name, getattr(self, name), "1 or more")

    def _check_quantization(self) -> None:
        for name, allowed in (("quantization", QUANTIZATIONS), ("force_dequant", FORCE_DEQUANT)):
            if getattr(self, name) not in allowed:
                raise InvalidOptionError(name, getattr(self, name), "one of " + ", ".join(map(repr, allowed)))
        if self.quantization == "qdq":
            if self.force_dequant != "none":
                problem = "left out: only ibert computes these functions on integers"
                raise InvalidOptionError("force_dequant", self.force_dequant, problem)
            return
        defaults = {item.name: item.default for item in fields(self)}
        for name in _ONLY_QDQ:
            if getattr(self, name) != defaults[name]:
                raise InvalidOptionError(
                    name, getattr(self, name), "left out: the integers of ibert have no such setting"
                )


def quantize(  # noqa: PLR0913  what an export takes, and the data
    model: str,
    output: str | os.PathLike[str],
    data: str | os.PathLike[str] | Iterable[Mapping[str, Any] | str],
    plan: QuantizationPlan = QuantizationPlan(),
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Quantized:
    """Calibrate a checkpoint for 8-bit inference, and write the quantized one, whole or not at all.

    Args:
        model: A checkpoint folder or a Hub id, of a BERT or RoBERTa with any head; it may be quantized already.
        output: The folder to make. An empty one may be there already.
        data: Texts like those to come: a file (see `rows.stream`), "-" for stdin, rows, or "sample" for passages of
            Python's own documentation.
        plan: How.
        revision: Branch, tag or commit on the Hub.
        token: For the Hub; None takes the one that is logged in.
        progress: Told what is being done.

    Raises:
        UsageError: an option can't be met, the architecture has other layers, or the output exists.
        DataError: the checkpoint is broken, or the data gives no ranges.
        UnavailableError: the model, its tokenizer, the file or the disk isn't there.

    Example:
        >>> from neuronbert import quantize
        >>> quantize("my-bert/", "my-bert-int8/", "texts.jsonl")  # doctest: +SKIP
    """
    progress("finding the checkpoint")
    found = sources.opened(model, revision=revision, token=token, progress=progress)
    with found as (_, checkpoint), staged(output, owned=lambda _: None, overwrite=False) as folder:
        modeling.check_encoder(checkpoint)
        limit = checkpoint.max_sequence_length
        length = min(plan.sequence_length, limit)
        given = islice(passages.read(_task(checkpoint), data, plain=True), plan.rows)
        texts, tokenizer = chain.from_iterable(given), tokenization.require(checkpoint.path)
        batches: Iterable[dict[str, Tensor]] = passages.batches(texts, tokenizer, length)
        if plan.qat_steps or plan.sensitivity:
            batches = list(batches)  # which are needed again
        progress("loading the weights")
        encoder = modeling.load_encoder(checkpoint)
        if plan.quantization == "ibert":
            return _quantize_ibert(checkpoint, encoder, batches, plan, (folder, Path(output), progress))
        scheme = prepare(encoder, plan)
        tell = partial(_tell, progress)
        seen = calibrate(encoder, batches, plan.chosen, percentile=plan.percentile, progress=tell)
        scheme = scheme.model_copy(update={"calibration": _calibration(plan, seen.rows)})
        quantizers = placement.of(encoder)
        noises = tuple(sensitivity.noise(quantizers[name], histogram) for name, histogram in seen.histograms.items())
        measured = _sensitivity(encoder, list(islice(batches, _LOOKS)), plan, progress) if plan.sensitivity else {}
        if plan.qat_steps:
            _train(encoder, checkpoint, list(batches), plan, progress)
        progress("writing the checkpoint")
        ranges = ranges_of(encoder)
        _write(checkpoint, scheme, _tensors(checkpoint, encoder, trained=plan.qat_steps > 0), folder)
    return Quantized(Path(output), scheme, seen.rows, len(ranges), noises, **measured)


def _task(checkpoint: Checkpoint) -> str:
    try:
        return canonical_task("auto", checkpoint)
    except TaskNotInferableError:  # an encoder alone; its rows are texts
        return "feature-extraction"


def _quantize_ibert(
    checkpoint: Checkpoint,
    encoder: Any,
    batches: Iterable[dict[str, Tensor]],
    plan: QuantizationPlan,
    to: tuple[Path, Path, Callable[[str], None]],
) -> Quantized:
    folder, output, progress = to
    tell = partial(_tell, progress)
    found, seen = ibert.calibrate(encoder, batches, plan.chosen, percentile=plan.percentile, progress=tell)
    ibert.check(encoder, found)
    progress("writing the checkpoint")
    scheme = Scheme(method="ibert", calibration=_calibration(plan, seen))
    tensors, stem = _weights(checkpoint)
    settings = {"force_dequant": plan.force_dequant}
    _write(checkpoint, scheme, tensors | found.state(stem), folder, settings)
    return Quantized(output, scheme, seen, len(found.extents), ())


def _calibration(plan: QuantizationPlan, seen: int) -> Calibration:
    percentile = plan.percentile if plan.chosen == "percentile" else None
    return Calibration(method=plan.chosen, percentile=percentile, rows=seen)


def prepare(model: Any, plan: QuantizationPlan) -> Scheme:
    """Hang quantizers without ranges into a model with our encoder.

    Raises:
        InvalidOptionError: a name of `keep_float` matches none of them.
    """
    scheme = Scheme(method="qdq", inputs=plan.inputs, weights=plan.weights)
    quantizers = placement.attach(model, scheme)
    kept = placement.select(quantizers, plan.keep_float, "keep_float")
    for name in kept:
        quantizers[name].enabled = False
    for module in model.modules():
        if hasattr(module, "arithmetic"):
            module.arithmetic = QdqArithmetic()
    return scheme.model_copy(update={"kept_float": kept})


def ranges_of(model: Any) -> dict[str, Tensor]:
    """The ranges of the quantizers that quantize, by name.

    Raises:
        UncalibratedError: one of them was never set.
    """
    return {name: quantizer.amax() for name, quantizer in placement.of(model).items() if quantizer.enabled}


def _tell(progress: Callable[[str], None], done: int) -> None:
    progress(f"calibrating, {done} rows")


def trainable(source: str | os.PathLike[str], task: str = "auto", *, learn_ranges: bool = False) -> Any:
    """The head of a quantized checkpoint as a model of transformers whose encoder rounds, to be trained.

    An ordinary loop trains it, and so does transformers' Trainer; `save_quantized` writes the result.

    Args:
        source: A folder that `quantize` made.
        task: The head's task; "auto" reads it off the checkpoint.
        learn_ranges: Make the ranges parameters; of an I-BERT they are averages over the batches, as in its paper.

    Raises:
        NotQuantizedError: the checkpoint isn't quantized.
        NeuronBertError: whatever else the checkpoint has wrong.
    """
    checkpoint = Checkpoint.open(Path(source))
    if checkpoint.scheme is not None and checkpoint.scheme.method == "ibert":
        loaded = modeling.load(checkpoint, canonical_task(task, checkpoint))
        model = ibert.prepare(loaded.head.model, checkpoint)
    else:
        model = modeling.load(checkpoint, canonical_task(task, checkpoint), quantization="qdq").head.model
    for module in model.modules():
        if hasattr(module, "_loss_function"):
            del module._loss_function  # a program has none; a model that is trained has its own again
    for quantizer in placement.of(model).values():
        if learn_ranges and quantizer.enabled:
            quantizer.learn()
    return model.train()


def save_quantized(model: Any, source: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Write a trained model as a quantized checkpoint, whole or not at all.

    Args:
        model: What `trainable` gave.
        source: The folder that it is from: of its config, its scheme and its tokenizer.
        output: The folder to make.

    Raises:
        UncalibratedError: a quantizer has no range.
        OutputExistsError: the output exists.
        StorageError: it can't be written.
    """
    checkpoint = Checkpoint.open(Path(source))
    scheme = checkpoint.scheme
    if scheme is None:
        raise NotQuantizedError(source, "qdq", "")
    if scheme.method == "qdq":
        ranges_of(model)
    held: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if held.setdefault(tensor.data_ptr(), name) == name or tensor.numel() == 1:  # tied ones are written once
            tensors[name] = tensor.detach().contiguous()
    if scheme.method == "ibert":
        tensors |= ibert.learned(model).state(_stem(tensors))
        if twin := checkpoint.architecture.twin:
            own = re.compile(rf"^{twin}\.")
            tensors = {own.sub(f"{checkpoint.architecture.model_type}.", name): it for name, it in tensors.items()}
    with staged(output, owned=lambda _: None, overwrite=False) as folder:
        _write(checkpoint, scheme, tensors, folder)


def _sensitivity(
    encoder: Any, batches: list[dict[str, Tensor]], plan: QuantizationPlan, progress: Callable[[str], None]
) -> dict[str, Any]:
    def tell(done: int, total: int) -> None:
        progress(f"measuring what {total} places cost, {done} done")

    ranked = sensitivity.costs(encoder, batches, tell)
    proposed = sensitivity.proposal(encoder, batches, ranked, plan.sensitivity or 0.0)
    return {"costs": ranked, "proposed": (*plan.keep_float, *proposed)}


def _train(
    encoder: Any,
    checkpoint: Checkpoint,
    batches: list[dict[str, Tensor]],
    plan: QuantizationPlan,
    progress: Callable[[str], None],
) -> None:
    def tell(step: int) -> None:
        progress(f"training, step {step} of {plan.qat_steps}")

    teacher = modeling.load_encoder(checkpoint)
    distill(encoder, teacher, batches, plan.qat_steps, learn_ranges=plan.learn_ranges, progress=tell)


def _tensors(checkpoint: Checkpoint, encoder: Any, *, trained: bool) -> dict[str, Tensor]:
    """What is written: the checkpoint's weights, those of the encoder in their place if it was trained, and ranges."""
    tensors, stem = _weights(checkpoint)
    if trained:
        for name, parameter in encoder.named_parameters():
            if placement.is_range(name) or name.startswith("pooler."):
                continue
            old = tensors.get(stem + name)
            if old is None:
                raise CheckpointCorruptError(checkpoint.path, f"it names {name} otherwise, so it can't be trained")
            tensors[stem + name] = parameter.detach().to(old.dtype).contiguous()
    ranges = {f"{stem}encoder.{name}._amax": amax.detach().contiguous() for name, amax in ranges_of(encoder).items()}
    return tensors | ranges


def _weights(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], str]:
    """A checkpoint's weights without any ranges, and what its encoder's names begin with."""
    tensors: dict[str, Tensor] = {}
    for path in checkpoint.weight_files:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not (placement.is_range(name) or is_range(name))]  # noqa: SIM118
            tensors |= {name: file.get_tensor(name) for name in names}
    return tensors, _stem(tensors)


def _stem(tensors: Mapping[str, Tensor]) -> str:
    first = next(name for name in tensors if "encoder.layer.0." in name)
    return first[: first.index("encoder.layer.0.")]


def _write(
    checkpoint: Checkpoint,
    scheme: Scheme,
    tensors: Mapping[str, Tensor],
    folder: Path,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> None:
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
    for path in source.glob(f"*/{CONFIG}"):
        (folder / path.parent.name).mkdir()
        for file in (path, path.with_name(WEIGHTS)):
            if file.is_file():
                shutil.copy(file, folder / path.parent.name / file.name)
