"""Artifact to figures: how long its calls take, in turn with the reference's.

Owns: which calls are timed, in which order, and on how many cores. Knows nothing of how artifacts are made.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from neuronbert import inputs, modeling, original, tokenization
from neuronbert._version import __version__
from neuronbert.benchmark.report import BenchReport, BenchSpec, Case, Timing
from neuronbert.errors import EmptyInputError, InvalidOptionError, ReferenceNotFoundError
from neuronbert.runtime import Session
from neuronbert.shapes import StaticShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from neuronbert.manifest import Manifest
    from neuronbert.modeling import EncoderHead

    Call = Callable[[], object]

logger = logging.getLogger("neuronbert")

_MOST_CALLS: Final = 10_000
"""Of one candidate in one round: a program of microseconds needn't run for as long as it may."""
_TEXTS: Final = "The list of texts"


@dataclass(frozen=True, slots=True)
class _Setting:
    """One case before it is measured: the bucket, the tensors of its call, and how many cores work."""

    shape: StaticShape
    cores: int
    given: dict[str, Tensor]

    @property
    def rows(self) -> int:
        return int(self.given["input_ids"].shape[0])

    @property
    def tokens(self) -> int:
        mask = self.given.get("attention_mask")
        return int(self.given["input_ids"].numel() if mask is None else mask.sum())


def bench(
    path: str | os.PathLike[str],
    spec: BenchSpec = BenchSpec(),  # noqa: B008  it is frozen
    *,
    model: str | bool = True,
    texts: Sequence[str] | None = None,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> BenchReport:
    """Time the calls of an artifact's programs, in turn with those of transformers' eager model in fp32.

    Each case is warmed up and then measured in rounds. In a round the program is called for a while, the reference
    twice, and the program again, so that a machine that grows slower or faster does so for both.

    Args:
        path: The artifact's directory.
        spec: What is measured, and for how long.
        model: The reference. True: the checkpoint that the artifact was exported from, if it can be found. A name:
            that one. False: none.
        texts: What the calls are made of, through the artifact's tokenizer; by default full rows of seeded ids.
        token: For the Hub.
        progress: Told what is being done.

    Returns:
        What was measured. Its `warnings` say why it may be wrong.

    Raises:
        ArtifactError: the artifact isn't what was written.
        ReferenceNotFoundError: `model` names a checkpoint that can't be found.
        InvalidOptionError: the spec asks for what the artifact or this machine hasn't got.

    Example:
        >>> from neuronbert import BenchSpec, bench
        >>> bench("my-artifact/", BenchSpec(rounds=3, seconds=0.2)).cases  # doctest: +SKIP
    """
    load = _load_average()
    progress("verifying the artifact")
    session = Session.open(path)
    manifest = session.manifest
    settings = _settings(session, spec, texts)
    with ExitStack() as stack:
        progress("loading the reference")
        head, said = stack.enter_context(_reference(manifest, model, token, progress))
        cases = tuple(_measured(session, head, spec, settings, progress))
    cast = manifest.compiler
    return BenchReport(
        neuronbert_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        artifact=Path(path).resolve().name,
        task=manifest.task,
        target=manifest.target,
        auto_cast=cast.auto_cast if cast.auto_cast == "none" else f"{cast.auto_cast} {cast.auto_cast_type}",
        program_sha256=manifest.programs_sha256,
        reference=said,
        inputs="full rows of seeded ids" if texts is None else f"rows of {len(texts)} texts",
        rounds=spec.rounds,
        processors=_processors(),
        versions={"torch": torch.__version__},
        load_before=load,
        load_after=_load_average(),
        cases=cases,
    )


@contextmanager
def _reference(
    manifest: Manifest, model: str | bool, token: str | bool | None, progress: Callable[[str], None]
) -> Iterator[tuple[EncoderHead | None, str]]:
    if model is False:
        yield None, "none was asked for"
        return
    with ExitStack() as stack:
        named = model if isinstance(model, str) else None
        try:
            checkpoint = stack.enter_context(original.opened(manifest, named, token=token, progress=progress))
        except ReferenceNotFoundError as error:
            if named is not None:
                raise
            yield None, f"none: {error}"
            return
        loaded = modeling.load(checkpoint, manifest.task, allow_random_weights=True)
        _refuse_other_inputs(manifest, loaded, named or manifest.source.model)
        attention = checkpoint.architecture.attention
        said = f"{loaded.class_name} of {named or manifest.source.model} in fp32, eager mode, {attention} attention"
        yield loaded.head.renamed([spec.name for spec in manifest.inputs], _answers(manifest)), said


def _answers(manifest: Manifest) -> list[str]:
    # The reference drops no tokens, so it doesn't tell which.
    return [spec.name for spec in manifest.outputs if spec.answer != "layers"]


def _refuse_other_inputs(manifest: Manifest, loaded: modeling.LoadedHead, named: str) -> None:
    room = {spec.name: spec.maximum for spec in loaded.inputs}
    for spec in manifest.inputs:
        if room.get(spec.name, -1) < spec.maximum:
            raise InvalidOptionError("reference", named, f"a model that takes {spec.name} up to {spec.maximum}")
    if set(_answers(manifest)) - {spec.name for spec in loaded.outputs}:
        raise InvalidOptionError("reference", named, "a model with the same outputs as the program")


def _settings(session: Session, spec: BenchSpec, texts: Sequence[str] | None) -> list[_Setting]:
    manifest = session.manifest
    for shape in spec.shapes:
        if shape not in manifest.shapes:
            known = ", ".join(held.name for held in manifest.shapes)
            raise InvalidOptionError("shapes", shape.name, f"one that was compiled: {known}")
    cores = spec.cores or (torch.get_num_threads() if manifest.target == "cpu" else 1,)
    _refuse_cores(manifest, cores)
    settings = []
    for shape in sorted(spec.shapes or manifest.shapes, key=StaticShape.order):
        for rows in spec.batch_sizes or (shape.batch_size,):
            given = _tensors(session, StaticShape(rows, shape.sequence_length, shape.num_choices), texts)
            settings += [_Setting(shape, number, given) for number in cores]
    return settings


def _refuse_cores(manifest: Manifest, cores: Sequence[int]) -> None:
    if manifest.target != "cpu" and max(cores) > 1:
        raise InvalidOptionError("cores", max(cores), f"1 on {manifest.target}: a call runs on one NeuronCore")
    if manifest.target == "cpu" and max(cores) > _processors():
        raise InvalidOptionError("cores", max(cores), f"at most {_processors()}, the processors of this machine")


def _tensors(session: Session, filled: StaticShape, texts: Sequence[str] | None) -> dict[str, Tensor]:
    specs = session.manifest.inputs
    if texts is None:
        return dict(zip((spec.name for spec in specs), inputs.example(specs, filled), strict=True))
    if not texts:
        raise EmptyInputError(_TEXTS)
    return tokenization.fill(tokenization.require(session.artifact.path), texts, filled)


def _measured(
    session: Session,
    head: EncoderHead | None,
    spec: BenchSpec,
    settings: Sequence[_Setting],
    progress: Callable[[str], None],
) -> Iterator[Case]:
    for number, setting in enumerate(settings, start=1):
        progress(
            f"measuring {setting.shape.name}, {setting.rows} rows, {setting.cores} cores ({number}/{len(settings)})"
        )
        with _threads(setting.cores):
            calls = [_program(session, setting)]
            if head is not None:
                calls.append(_eager(head, original.positional(session.manifest, setting.given)))
            timings = [Timing.of(taken, setting.rows, setting.tokens) for taken in take_turns(calls, spec)]
        yield Case(
            bucket=setting.shape.name,
            rows=setting.rows,
            tokens=setting.tokens,
            cores=setting.cores,
            program=timings[0],
            reference=timings[1] if head is not None else None,
        )


def _program(session: Session, setting: _Setting) -> Call:
    # More rows than the bucket has are the loader's to split, over the buckets that it chooses.
    fits = setting.rows <= setting.shape.batch_size
    return partial(session.run, setting.given, shape=setting.shape if fits else None)


def _eager(head: EncoderHead, tensors: tuple[Tensor, ...]) -> Call:
    def call() -> object:
        with torch.no_grad():
            return head(*tensors)

    return call


@contextmanager
def _threads(count: int) -> Iterator[None]:
    held = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(held)


def take_turns(candidates: Sequence[Call], spec: BenchSpec) -> list[list[list[float]]]:
    """The seconds of every call, by candidate and round, after warming up.

    In each round the candidates are called in order and then in the opposite one, each for half of its time.
    """
    for call in candidates:
        for _ in range(spec.warm_up):
            call()
    taken: list[list[list[float]]] = [[] for _ in candidates]
    for _ in range(spec.rounds):
        halves = [_timed(call, spec.seconds / 2) for call in candidates]
        others = [_timed(call, spec.seconds / 2) for call in reversed(candidates)]
        for kept, half, other in zip(taken, halves, reversed(others), strict=True):
            kept.append(half + other)
    return taken


def _timed(call: Call, budget: float) -> list[float]:
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while not seconds or (time.perf_counter() < end and len(seconds) < _MOST_CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
