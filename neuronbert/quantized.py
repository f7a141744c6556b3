"""A checkpoint to a quantized checkpoint.

Owns: the order of a quantization, and which texts it looks at. The result is a checkpoint like any
other: the weights as they were, a range for each quantizer beside them, and the scheme in config.json. transformers
loads it in float, export and validate in 8 bits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuronbert import modeling, passages, sources, tokenization
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import TaskNotInferableError
from neuronbert.quantization import folder, ibert, placement, sensitivity
from neuronbert.quantization.calibration import calibrate
from neuronbert.quantization.plan import QuantizationPlan
from neuronbert.quantization.qdq import QdqArithmetic
from neuronbert.quantization.training import distill, learn_ranges
from neuronbert.schemes import Calibration, Scheme
from neuronbert.staging import staged

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from neuronbert.checkpoint import Checkpoint
    from neuronbert.quantization.histograms import Histogram
    from neuronbert.quantization.quantizers import Quantizer
    from neuronbert.quantization.sensitivity import Cost, Noise


logger = logging.getLogger("neuronbert")

_PLAN: Final = QuantizationPlan()
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
        noises: What each quantizer of inputs, or each range of I-BERT's, does to what it saw, in the model's order.
        losses: With ranges that were learned: how far the last hidden states moved before, and after; the squared
            difference over their variance.
        costs: With a sensitivity: what each place costs alone, most first.
        proposed: With a sensitivity: what to leave in float (`keep_float`), so that no more than that is lost.
    """

    path: Path
    scheme: Scheme
    rows: int
    quantizers: int
    noises: tuple[Noise, ...]
    losses: tuple[float, float] | None = None
    costs: tuple[Cost, ...] = ()
    proposed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    """What is quantized, how, and where to: a folder that becomes the output when all is done."""

    checkpoint: Checkpoint
    encoder: Any
    plan: QuantizationPlan
    folder: Path
    output: Path
    progress: Callable[[str], None]


def quantize(  # noqa: PLR0913  what an export takes, and the data
    model: str,
    output: str | os.PathLike[str],
    data: str | os.PathLike[str] | Iterable[Mapping[str, Any] | str],
    plan: QuantizationPlan = _PLAN,
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
    with found as (_, checkpoint), staged(output, owned=lambda _: None, overwrite=False) as new:
        modeling.check_encoder(checkpoint)
        limit = checkpoint.max_sequence_length
        length = min(plan.sequence_length, limit)
        given = islice(passages.read(_task(checkpoint), data, plain=True), plan.rows)
        texts, tokenizer = chain.from_iterable(given), tokenization.require(checkpoint.path)
        batches = passages.batches(texts, tokenizer, length)
        progress("loading the weights")
        encoder = modeling.load_encoder(checkpoint)
        work = _Work(checkpoint, encoder, plan, new, Path(output), progress)
        return (_quantize_ibert if plan.quantization == "ibert" else _quantize_qdq)(work, batches)


def _task(checkpoint: Checkpoint) -> str:
    try:
        return canonical_task("auto", checkpoint)
    except TaskNotInferableError:  # an encoder alone; its rows are texts
        return "feature-extraction"


def _quantize_qdq(work: _Work, batches: Iterable[dict[str, Tensor]]) -> Quantized:
    encoder, plan, progress = work.encoder, work.plan, work.progress
    if plan.chosen == "learned" or plan.qat_steps or plan.sensitivity:
        batches = list(batches)  # which are needed again
    if plan.qat_steps:
        folder.trained_names(work.checkpoint, encoder)  # what can't be written isn't trained
    scheme = prepare(encoder, plan)
    tell = partial(_tell, progress)
    seen = calibrate(encoder, batches, plan.start, percentile=plan.percentile, progress=tell)
    scheme = scheme.model_copy(update={"calibration": _calibration(plan, seen.rows)})
    measured: dict[str, Any] = {}
    if plan.chosen == "learned":
        measured["losses"] = learn_ranges(encoder, list(batches), partial(_tell_step, progress, "learning the ranges"))
    quantizers = placement.of(encoder)
    noises = tuple(_noise(quantizers[name], histogram) for name, histogram in seen.histograms.items())
    if plan.sensitivity:
        measured |= _sensitivity(work, list(islice(batches, _LOOKS)))
    if plan.qat_steps:
        _train(work, list(batches))
    progress("writing the checkpoint")
    ranges = placement.ranges_of(encoder)
    tensors = folder.tensors_of(work.checkpoint, encoder, trained=plan.qat_steps > 0)
    folder.write(work.checkpoint, scheme, tensors, work.folder)
    return Quantized(work.output, scheme, seen.rows, len(ranges), noises, **measured)


def _quantize_ibert(work: _Work, batches: Iterable[dict[str, Tensor]]) -> Quantized:
    encoder, plan, progress = work.encoder, work.plan, work.progress
    if plan.qat_steps:
        batches = list(batches)  # which are needed again
        folder.trained_names(work.checkpoint, encoder)  # what can't be written isn't trained
    tell = partial(_tell, progress)
    found, seen, noises = ibert.calibrate(encoder, batches, plan.start, percentile=plan.percentile, progress=tell)
    ibert.check(encoder, found, plan.force_dequant)
    if plan.qat_steps:
        ibert.install_rounding(encoder, found, plan.force_dequant)
        _train(work, list(batches))
        ibert.check(encoder, found, plan.force_dequant)
    progress("writing the checkpoint")
    scheme = Scheme(method="ibert", calibration=_calibration(plan, seen))
    tensors = folder.tensors_of(work.checkpoint, encoder, trained=plan.qat_steps > 0)
    settings = {"force_dequant": plan.force_dequant}
    folder.write(work.checkpoint, scheme, tensors | found.state(folder.stem_of(tensors)), work.folder, settings)
    return Quantized(work.output, scheme, seen, len(found.extents), noises)


def _noise(quantizer: Quantizer, histogram: Histogram) -> Noise:
    return sensitivity.noise(quantizer.name, float(quantizer.amax()), quantizer.descriptor.bounds[1], histogram)


def _calibration(plan: QuantizationPlan, seen: int) -> Calibration:
    percentile = plan.percentile if plan.start == "percentile" else None
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


def _tell(progress: Callable[[str], None], done: int) -> None:
    progress(f"calibrating, {done} rows")


def _tell_step(progress: Callable[[str], None], doing: str, done: int, total: int) -> None:
    progress(f"{doing}, step {done} of {total}")


def _sensitivity(work: _Work, batches: list[dict[str, Tensor]]) -> dict[str, Any]:
    def tell(done: int, total: int) -> None:
        work.progress(f"measuring what {total} places cost, {done} done")

    ranked = sensitivity.costs(work.encoder, batches, tell)
    proposed = sensitivity.proposal(work.encoder, batches, ranked, work.plan.sensitivity or 0.0)
    return {"costs": ranked, "proposed": (*work.plan.keep_float, *proposed)}


def _train(work: _Work, batches: list[dict[str, Tensor]]) -> None:
    tell = partial(_tell_step, work.progress, "training")
    teacher, plan = modeling.load_encoder(work.checkpoint), work.plan
    distill(work.encoder, teacher, batches, plan.qat_steps, learn_ranges=plan.learn_ranges, progress=tell)
