"""A checkpoint to a quantized checkpoint.

Owns: the order of a quantization, which texts it looks at, and what is written. The result is a checkpoint like any
other: the weights as they were, a range for each quantizer beside them, and the scheme in config.json. transformers
loads it in float, export and validate in 8 bits.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neuronbert import modeling, rows, sentences, sources, tokenization
from neuronbert.checkpoint import CONFIG, WEIGHTS
from neuronbert.errors import CheckpointCorruptError, DataFileError, InvalidOptionError
from neuronbert.integers.layers import FORCE_DEQUANT
from neuronbert.integers.ranges import is_range
from neuronbert.quantization import ibert, placement
from neuronbert.quantization.calibration import calibrate
from neuronbert.quantization.qdq import QdqArithmetic
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
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from neuronbert.checkpoint import Checkpoint
    from neuronbert.integers.layers import ForceDequant
    from neuronbert.quantization.calibration import Batch

logger = logging.getLogger("neuronbert")

Quantization = Literal["qdq", "ibert"]
QUANTIZATIONS: Final[tuple[Quantization, ...]] = get_args(Quantization)
_METHODS: Final[Mapping[Quantization, CalibrationMethod]] = {"qdq": "percentile", "ibert": "mse"}
SAMPLE: Final = "sample"
"""In place of a file: passages of the documentation that comes with Python."""
_BATCH: Final = 8
_LEAST_PASSAGE: Final = 200
"""Characters. What is shorter is a heading or a rule of a grammar."""
_TEXTS: Final = (("question", "context"), ("prompt", "choices"), ("text", "text_pair"))
"""What a row of each task's file calls its texts."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """What a quantization made.

    Attributes:
        path: The checkpoint's folder.
        scheme: What is in its config.json.
        rows: How many rows of text it was calibrated with.
        quantizers: How many quantizers have a range.
    """

    path: Path
    scheme: Scheme
    rows: int
    quantizers: int


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
    inputs: Descriptor = INPUTS
    weights: Descriptor = PER_CHANNEL
    quantization: Quantization = "qdq"
    force_dequant: ForceDequant = "none"

    @property
    def chosen(self) -> CalibrationMethod:
        """The method, or the quantization's own."""
        return self.method or _METHODS[self.quantization]

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise InvalidOptionError("quantization", self.quantization, "one of " + ", ".join(map(repr, QUANTIZATIONS)))
        if self.force_dequant not in FORCE_DEQUANT:
            raise InvalidOptionError(
                "force_dequant", self.force_dequant, "one of " + ", ".join(map(repr, FORCE_DEQUANT))
            )
        if self.force_dequant != "none" and self.quantization != "ibert":
            raise InvalidOptionError(
                "force_dequant", self.force_dequant, "left out: only ibert computes them on integers"
            )
        if self.method is not None and self.method not in CALIBRATION_METHODS:
            raise InvalidOptionError("method", self.method, "one of " + ", ".join(map(repr, CALIBRATION_METHODS)))
        if not 0 < self.percentile <= 100:
            raise InvalidOptionError("percentile", self.percentile, "more than 0 and at most 100")
        for name in ("rows", "sequence_length"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(name, getattr(self, name), "1 or more")


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
        given = islice(_rows(data), plan.rows)
        batches = _batches(given, tokenization.require(checkpoint.path), length)
        progress("loading the weights")
        encoder = modeling.load_encoder(checkpoint)
        calibrated = _CALIBRATED[plan.quantization](encoder, batches, plan, partial(_tell, progress))
        percentile = plan.percentile if plan.chosen == "percentile" else None
        calibration = Calibration(method=plan.chosen, percentile=percentile, rows=calibrated.rows)
        scheme = calibrated.scheme.model_copy(update={"calibration": calibration})
        progress("writing the checkpoint")
        _write(checkpoint, scheme, calibrated, folder)
    return Quantized(Path(output), scheme, calibrated.rows, calibrated.count)


@dataclass(frozen=True, slots=True)
class _Calibrated:
    """What a quantization found out.

    Attributes:
        scheme: What goes into config.json, but for where the ranges are from.
        rows: How many rows it saw.
        count: How many ranges it found.
        tensors: What is kept beside the weights, by its name in the encoder.
        settings: What else goes into config.json.
    """

    scheme: Scheme
    rows: int
    count: int
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)


def _qdq(encoder: Any, batches: Iterable[Batch], plan: QuantizationPlan, tell: Callable[[int], None]) -> _Calibrated:
    scheme = prepare(encoder, plan)
    seen = calibrate(encoder, batches, plan.chosen, percentile=plan.percentile, progress=tell)
    ranges = ranges_of(encoder)
    return _Calibrated(scheme, seen.rows, len(ranges), {f"encoder.{name}._amax": amax for name, amax in ranges.items()})


def _ibert(encoder: Any, batches: Iterable[Batch], plan: QuantizationPlan, tell: Callable[[int], None]) -> _Calibrated:
    for name, value, default in (("keep_float", plan.keep_float, ()), ("inputs", plan.inputs, INPUTS)):
        if value != default:
            raise InvalidOptionError(
                name, value, "left out: I-BERT's integers go through every layer, at widths of its own"
            )
    ranges, rows = ibert.calibrate(encoder, batches, plan.chosen, percentile=plan.percentile, progress=tell)
    ibert.check(encoder, ranges)
    settings = {} if plan.force_dequant == "none" else {"force_dequant": plan.force_dequant}
    return _Calibrated(Scheme(method="ibert"), rows, len(ranges.extents), ranges.state(), settings)


_CALIBRATED: Final = {"qdq": _qdq, "ibert": _ibert}


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


def _rows(data: str | os.PathLike[str] | Iterable[Mapping[str, Any] | str]) -> Iterator[tuple[str, ...]]:
    """The texts of each row: one, or a pair."""
    if isinstance(data, str | os.PathLike):
        if str(data) == SAMPLE:
            yield from ((text,) for text in sample())
            return
        for number, row in rows.stream(str(data)):
            yield from _texts(row, data, number)
        return
    for number, item in enumerate(data, start=1):
        yield from _texts({"text": item} if isinstance(item, str) else item, "The data", number)


def _texts(row: Mapping[str, Any], source: object, number: int) -> Iterator[tuple[str, ...]]:
    for first, second in _TEXTS:
        if first not in row:
            continue
        others = row[second] if isinstance(row.get(second), list) else [row.get(second)]
        for other in others:
            texts = tuple(text for text in (row[first], other) if text is not None)
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataFileError(source, number, f"its {first} or {second} is no text, or empty")
            yield texts
        return
    names = ", ".join(first for first, _ in _TEXTS)
    raise DataFileError(source, number, f"it has none of {names}")


def sample() -> Iterator[str]:
    """Passages of the documentation that comes with Python: English prose, on any machine."""
    from pydoc_data.topics import topics  # noqa: PLC0415  it is large, and rarely asked for

    for name in sorted(topics):
        for passage in topics[name].split("\n\n"):
            text = " ".join(passage.split())
            if len(text) >= _LEAST_PASSAGE:
                yield text


def _batches(texts: Iterator[tuple[str, ...]], tokenizer: Any, length: int) -> Iterator[dict[str, Tensor]]:
    while block := list(islice(texts, _BATCH)):
        for size in sorted({len(item) for item in block}):  # texts and pairs can't share a call of the tokenizer
            columns = zip(*(item for item in block if len(item) == size), strict=True)
            encoded = tokenizer(
                *map(list, columns),
                padding=True,
                truncation=True,
                max_length=length,
                return_tensors="pt",
                verbose=False,
            )
            yield dict(encoded)


def _write(checkpoint: Checkpoint, scheme: Scheme, calibrated: _Calibrated, folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    try:
        for path in checkpoint.weight_files:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if not (placement.is_range(name) or is_range(name))]  # noqa: SIM118
                tensors |= {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointCorruptError(checkpoint.path, f"its weights can't be read ({error})") from error
    stem = next(name[: name.index("encoder.layer.0.")] for name in tensors if "encoder.layer.0." in name)
    tensors |= {f"{stem}{name}": tensor.contiguous() for name, tensor in calibrated.tensors.items()}
    kept = {key: value for key, value in checkpoint.config.items() if key != "force_dequant"}
    config = {**kept, **calibrated.settings, SECTION: scheme.model_dump(mode="json")}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
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
