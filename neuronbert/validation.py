"""Artifact to verdict: its programs against the fp32 reference.

Owns: which calls are made and what is compared. Knows nothing of how artifacts are made.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronbert import card, compare, inputs, metrics, modeling, original, tokenization
from neuronbert._version import __version__
from neuronbert.artifact import CARD, REPORT, Artifact
from neuronbert.errors import NeuronBertError, StorageError, first_line
from neuronbert.integers import saturation
from neuronbert.report import Check, TaskMetric, ValidationReport, to_json
from neuronbert.runtime import Session

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from neuronbert.checkpoint import Checkpoint
    from neuronbert.compare import Tolerance
    from neuronbert.decoding import Row
    from neuronbert.inputs import Batch
    from neuronbert.manifest import Manifest, OutputSpec
    from neuronbert.modeling import EncoderHead
    from neuronbert.shapes import StaticShape

    Pair = tuple[Tensor, Tensor, Tensor | None]
    Limits = Callable[[Sequence[Pair]], Tolerance]

logger = logging.getLogger("neuronbert")

FORWARDS = 2
"""How often each call is made: some programs have been right on their first call only."""


def validate(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    data: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    record: bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> ValidationReport:
    """Compare every program of an artifact with transformers' eager model in fp32, and record the verdict.

    A quantized one is compared twice: with the model in float, which says what quantization costs, and with the
    quantized model, which says whether the program computes what it should.

    Each program is called with full rows, short rows, a single row, rows of mixed length and, if the artifact has a
    tokenizer, real texts; each call twice.

    Args:
        path: The artifact's directory.
        model: Where its checkpoint is now, if it isn't where it was exported from. It is needed for an artifact of
            optimum-neuron, which doesn't say what it was made from.
        data: A file of labelled rows, one JSON object a line, to compare the task's own metric as well.
        token: For the Hub.
        record: Write the report and the model card into the artifact. By default it is done, unless `model` is
            another place than the one it was exported from: how the artifact compares with that may be its own matter.
            Never if the weights there are others.
        progress: Told what is being done.

    Returns:
        The report, passed or not: see `ValidationReport.raise_if_failed`.

    Raises:
        ArtifactError: the artifact isn't what was written.
        ReferenceNotFoundError: its checkpoint can't be found.
        DataFileError: a row of `data` can't be used.
    """
    progress("verifying the artifact")
    session = Session.open(path)
    manifest = session.manifest
    progress("loading the reference")
    with original.opened(manifest, model, token=token, progress=progress) as checkpoint:
        if not session.artifact.foreign and checkpoint.weights_sha256() != manifest.source.weights_sha256:
            problem = f"the weights given are not those it was exported from, sha256 {manifest.source.weights_sha256}"
            report = _report(session, model, problem=problem)
            record = record is not False and model is None  # other weights say nothing about the artifact
        else:
            rows = metrics.read(Path(data), manifest, session.artifact.config()) if data is not None else ()
            head = _reference(checkpoint, manifest, "none")
            checks = tuple(_checks(session, head, progress))
            if manifest.quantization != "none":
                simulated = _reference(checkpoint, manifest, manifest.quantization)
                limits = _limits(manifest, checkpoint)
                checks += tuple(_fidelity(session, simulated, head, limits, progress))
            scored = _metrics(session, head, rows) if rows else ()
            report = _report(session, model, checks=checks, metrics=scored)
    elsewhere = _is_elsewhere(model, manifest)
    if record is not False and session.artifact.foreign:
        logger.warning("the verdict was not recorded: %s has no neuronbert.json to hold it", path)
    elif record or (record is None and not elsewhere):
        _record(session.artifact, report)
    elif record is None:
        logger.warning("the verdict was not recorded: %s is not where it was exported from; with --record it is", model)
    return report


def _is_elsewhere(model: str | None, manifest: Manifest) -> bool:
    own = manifest.source.path
    return model is not None and (own is None or Path(model).resolve() != Path(own).resolve())


def _checks(session: Session, head: EncoderHead, progress: Callable[[str], None]) -> Iterator[Check]:
    manifest = session.manifest
    cast = compare.tolerance(manifest.compiler.auto_cast, manifest.compiler.auto_cast_type)
    limits = cast if manifest.quantization == "none" else compare.QUANTIZATION_COST
    progress("running the reference")
    scales = [0.0] * len(manifest.outputs)
    for shape, batch in _calls(session):
        sizes = [compare.size(value, _mask(batch, spec)) for value, spec in _expected(head, manifest, shape, batch)]
        scales = [max(pair) for pair in zip(scales, sizes, strict=True)]
    for shape, batch in _calls(session):
        progress(f"comparing {shape.name}, {batch.name}")
        expected = [value for value, _ in _expected(head, manifest, shape, batch)]
        held = [replace(limits, scale=scale) for scale in scales]
        for forward in range(1, FORWARDS + 1):
            yield from _check(session, (shape, batch, forward), expected, held)


def _reference(checkpoint: Checkpoint, manifest: Manifest, quantization: str) -> EncoderHead:
    randomly = bool(manifest.source.random_weights)
    loaded = modeling.load(checkpoint, manifest.task, quantization=quantization, allow_random_weights=randomly)
    loaded = modeling.keep_tokens(loaded, manifest.keeping)
    return original.as_the_program(loaded, manifest)


def _limits(manifest: Manifest, checkpoint: Checkpoint) -> Limits:
    # A function that is left in float is another one on a device: what is rounded after it may fall the other way.
    exact = manifest.target == "cpu" or checkpoint.config.get("force_dequant", "none") == "none"
    if manifest.quantization != "ibert" or not exact:
        return compare.fidelity
    return partial(
        compare.exactness, cast=compare.tolerance(manifest.compiler.auto_cast, manifest.compiler.auto_cast_type)
    )


def _fidelity(
    session: Session, simulated: EncoderHead, head: EncoderHead, limits_of: Limits, progress: Callable[[str], None]
) -> Iterator[Check]:
    """A quantized program against the module whose arithmetic it should have."""
    manifest = session.manifest
    pairs: list[list[Pair]] = [[] for _ in manifest.outputs]
    with saturation.counted(simulated) as shares:
        for shape, batch in _calls(session):
            both = zip(*(_expected(side, manifest, shape, batch) for side in (simulated, head)), strict=True)
            for held, ((ours, spec), (exact, _)) in zip(pairs, both, strict=True):
                held.append((ours, exact, _mask(batch, spec)))
    if note := saturation.summary(shares):
        logger.warning(note)
    limits = list(map(limits_of, pairs))
    for number, (shape, batch) in enumerate(_calls(session)):
        progress(f"comparing {shape.name}, {batch.name}, with the quantized model")
        expected = [held[number][0] for held in pairs]
        for forward in range(1, FORWARDS + 1):
            for check in _check(session, (shape, batch, forward), expected, limits):
                yield check.model_copy(update={"against": "quantized"})


def _calls(session: Session) -> Iterator[tuple[StaticShape, Batch]]:
    manifest = session.manifest
    tokenizer = tokenization.load(session.artifact.path)
    for shape in manifest.shapes:
        texts = tokenization.fill(tokenizer, inputs.SAMPLE_TEXTS, shape) if tokenizer else None
        for batch in inputs.validation_batches(manifest.inputs, shape, texts):
            yield shape, batch


def _expected(
    head: EncoderHead, manifest: Manifest, shape: StaticShape, batch: Batch
) -> list[tuple[Tensor, OutputSpec]]:
    # Ids that a foreign tokenizer gives are cut to what the model has: its own call refuses them, which is reported.
    highest = manifest.inputs[0].maximum
    given = {**batch.inputs, "input_ids": batch.inputs["input_ids"].clamp(max=highest)}
    return list(zip(original.answer(head, manifest, given, shape.sequence_length), manifest.outputs, strict=True))


def _mask(batch: Batch, spec: OutputSpec) -> Tensor | None:
    mask = batch.inputs.get("attention_mask")
    return mask.bool() if mask is not None and "sequence" in spec.dims else None


def _check(
    session: Session, call: tuple[StaticShape, Batch, int], expected: Sequence[Tensor], limits: Sequence[Tolerance]
) -> Iterator[Check]:
    shape, batch, forward = call
    named: dict[str, Any] = {"shape": shape.name, "batch": batch.name, "forward": forward}
    try:
        outputs = session.run(batch.inputs, shape=shape)
    except (NeuronBertError, RuntimeError) as error:
        yield Check(**named, output="", problem=f"the call failed: {first_line(error)}")
        return
    wanted_of = dict(zip((spec.name for spec in session.manifest.outputs), expected, strict=True))
    same = _same_tokens(session.manifest, batch, outputs, wanted_of)
    for spec, wanted, held in zip(session.manifest.outputs, expected, limits, strict=True):
        output, mask = outputs[spec.name], _mask(batch, spec)
        problem = compare.problem(output, wanted)
        if problem or same is None:
            measures = () if problem else compare.measure(output, wanted, mask, spec, held)
        elif spec.answer == "layers":
            measures = compare.overlaps(output, wanted, batch.inputs["attention_mask"].bool(), held)
        else:
            measures = compare.measure_by_tokens(output, wanted, mask, spec, held, same)
        yield Check(**named, output=spec.name, problem=problem, measures=measures)


def _same_tokens(
    manifest: Manifest, batch: Batch, outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Tensor | None:
    """Whether each token came as far on both sides, or is padding; None where none are dropped."""
    for spec in manifest.outputs:
        if spec.answer == "layers" and not compare.problem(outputs[spec.name], expected[spec.name]):
            alike = outputs[spec.name] == expected[spec.name]
            return alike | ~batch.inputs["attention_mask"].bool()
    return None


def _metrics(session: Session, head: EncoderHead, rows: tuple[Row, ...]) -> tuple[TaskMetric, ...]:
    manifest = session.manifest
    tokenizer = tokenization.require(session.artifact.path)
    names = [spec.name for spec in manifest.outputs]

    def run_reference(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(names, original.answer(head, manifest, given), strict=True))

    config = session.artifact.config()
    return metrics.compare(rows, manifest, config, tokenizer, (session.run, run_reference))


def _report(session: Session, model: str | None, **found: Any) -> ValidationReport:
    manifest = session.manifest
    source = manifest.source
    named = model if session.artifact.foreign else source.model
    return ValidationReport(
        neuronbert_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=manifest.task,
        program_sha256=manifest.programs_sha256,
        reference=f"{source.class_name} of {named} in fp32",
        **found,
    )


def _record(artifact: Artifact, report: ValidationReport) -> None:
    texts = {REPORT: to_json(report), CARD: card.render(artifact.manifest, report, artifact.path.resolve().name)}
    try:
        artifact.record(texts)
    except StorageError as error:
        logger.warning("the verdict was not recorded in the artifact: %s", error)
