"""Checkpoint to artifact.

Owns: the order of an export. Needs no device, loads nothing afterwards.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neuronbert import card, foreign, sentences, sources
from neuronbert._version import __version__
from neuronbert.architectures import find_head
from neuronbert.artifact import CARD, Artifact, describe, seal, staged
from neuronbert.backends import registry
from neuronbert.cache.entry import Build
from neuronbert.cache.job import Job
from neuronbert.cache.store import Cache
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import InvalidOptionError, StorageError
from neuronbert.folders import CONFIG
from neuronbert.manifest import Manifest, Source
from neuronbert.shapes import StaticShape, check_choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuronbert.adaptive.keeping import Keeping
    from neuronbert.backends.base import Compiler
    from neuronbert.checkpoint import Checkpoint
    from neuronbert.hub import Resolved
    from neuronbert.modeling import LoadedHead
    from neuronbert.spec import ExportSpec

logger = logging.getLogger("neuronbert")


def export(
    spec: ExportSpec,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    token: str | bool | None = None,
    cache: Cache | bool = True,
    progress: Callable[[str], None] = logger.info,
) -> Artifact:
    """Compile a checkpoint's head for static shapes and write the artifact, whole or not at all.

    Args:
        spec: What to make.
        output: The directory to make. An empty one may be there already.
        overwrite: Replace an artifact that is there.
        token: For the Hub; None takes the one that is logged in.
        cache: Where programs that were compiled before are copied from; False compiles them in any case.
        progress: Told what is being done, a few words at a time.

    Returns:
        The artifact that was written.

    Raises:
        UsageError: the spec can't be met (task, head, shape, option), or the output exists.
        DataError: the checkpoint is broken or unsafe.
        UnavailableError: the model, the Hub, the target's compiler or the disk isn't there.

    Example:
        >>> from neuronbert import ExportSpec, StaticShape, export
        >>> spec = ExportSpec(model="my-checkpoint/", shapes=(StaticShape(1, 128),))
        >>> artifact = export(spec, "my-artifact/")  # doctest: +SKIP
    """
    output = Path(os.path.realpath(output))  # "." is another folder once it is replaced
    target, backend = registry.resolve_target(spec.target)
    if target != "cpu":  # which is always there: only its import takes long, and what is cached needs none
        _compiler(spec, target, backend)
    progress("finding the checkpoint")
    found = sources.opened(spec.model, revision=spec.revision, token=token, progress=progress)
    with staged(output, overwrite=overwrite) as folder, found as (resolved, checkpoint):
        task = canonical_task(spec.task, checkpoint)
        checkpoint = sentences.with_modules(checkpoint, task)
        spec = replace(spec, task=task, target=target, quantization=checkpoint.quantization(spec.quantization))
        spec = _without_casts(spec)
        keeping = _check(spec, checkpoint, task, folder)
        make = partial(_build, spec, checkpoint, backend, folder, progress)
        build = _cache(cache).obtain(Job(checkpoint, spec, backend), folder, make, progress) if cache else make()
        progress("writing the artifact")
        manifest = _manifest(spec, checkpoint, backend, build, _source(spec, resolved, build))
        manifest = manifest.model_copy(update={"keeping": keeping})
        checkpoint.copy_tokenizer(folder)
        sentences.keep(checkpoint, task, folder)
        config = {key: value for key, value in checkpoint.config.items() if key != "_name_or_path"}
        config[foreign.SECTION] = foreign.section(manifest)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / CARD).write_text(card.render(manifest, None, output.name), encoding="utf-8")
        seal(folder, manifest, known=build.files)
    return Artifact.open(output, verify=False)


def _cache(given: Cache | bool) -> Cache:
    return given if isinstance(given, Cache) else Cache()


def _compiler(spec: ExportSpec, target: str, backend: str) -> Compiler:
    compiler = registry.compiler(backend, target)
    for name, value in spec.target_options().items():
        if name not in compiler.options:
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise InvalidOptionError(name, shown, f"left out: the {target} target has no such setting")
    return compiler


def _build(
    spec: ExportSpec, checkpoint: Checkpoint, backend: str, folder: Path, progress: Callable[[str], None]
) -> Build:
    """Compile the programs into a folder."""
    compiler = _compiler(spec, spec.target, backend)
    from neuronbert import inputs, modeling  # noqa: PLC0415  they import torch, which a copy from the cache doesn't need

    progress("loading the weights")
    randomly = spec.allow_random_weights
    loaded = modeling.load(checkpoint, spec.task, quantization=spec.quantization, allow_random_weights=randomly)
    loaded = modeling.keep_tokens(loaded, spec.keeping(spec.task, checkpoint.config))
    loaded = modeling.as_computed(loaded, spec.quantization, integers=_is_integer(spec))
    notes = _check_memory(spec, loaded, backend) if backend != "cpu" else ()
    examples = {shape: inputs.example(loaded.inputs, shape) for shape in spec.shapes}
    progress("compiling " + ", ".join(shape.name for shape in spec.shapes))
    compiled = compiler.compile(loaded.head, examples, spec, folder)
    with ThreadPoolExecutor(1) as aside:  # the two long digests, side by side; torch needs both cores before
        digest = aside.submit(checkpoint.weights_sha256)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: describe(folder / name) for name in names}
    return Build(
        weights_sha256=digest.result(),
        class_name=loaded.class_name,
        random_weights=loaded.random_weights,
        notes=(*loaded.notes, *notes),
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        programs=compiled.programs,
        compiler=compiled.compiler,
        files=files,
    )


def _is_integer(spec: ExportSpec) -> bool:
    # The Neuron compilers have no products of integers: there a quantized model is simulated.
    return spec.quantization != "none" and spec.target == "cpu"


def _without_casts(spec: ExportSpec) -> ExportSpec:
    """What a program of integers leaves to cast: nothing, which is what is recorded; or no more than bytes survive."""
    if spec.quantization == "ibert" and spec.target != "cpu":
        if spec.auto_cast == "all":
            raise InvalidOptionError(
                "auto_cast", spec.auto_cast, "'matmul' or 'none': integers carried in fp32 need it"
            )
        if spec.auto_cast == "matmul" and spec.auto_cast_type == "fp8_e4m3":
            raise InvalidOptionError("auto_cast_type", spec.auto_cast_type, "a type that holds the integers of 8 bits")
    if not _is_integer(spec):
        return spec
    if spec.auto_cast == "all":
        raise InvalidOptionError("auto_cast", spec.auto_cast, "left out: the products of this program are of integers")
    return replace(spec, auto_cast="none")


def _check_memory(spec: ExportSpec, loaded: LoadedHead, backend: str) -> tuple[str, ...]:
    # Hours of compiling come before the first load, which would be the first to find that out.
    from neuronbert import inputs  # noqa: PLC0415  as above
    from neuronbert.preflight.footprint import Footprint  # noqa: PLC0415
    from neuronbert.preflight.recording import record  # noqa: PLC0415

    largest = max(spec.shapes, key=StaticShape.order)
    one = replace(largest, batch_size=1)  # all but the weights grows with the rows
    graph = record(loaded.head, inputs.example(loaded.inputs, one))
    need = Footprint.of(spec, graph, largest.batch_size, shared=backend == "torchneuron")
    need.check()
    if not need.notable:
        return ()
    logger.warning(need.summary)
    return (need.summary,)


def _check(spec: ExportSpec, checkpoint: Checkpoint, task: str, folder: Path) -> Keeping | None:
    # Whatever can be refused is refused before the weights are read.
    find_head(checkpoint.architecture, task)
    checkpoint.check_settings(task)
    checkpoint.check_shapes(spec.shapes)
    check_choices(spec.shapes, needed=task == "multiple-choice")
    free = shutil.disk_usage(folder).free
    if free < checkpoint.weights_bytes():
        need = f"it takes about {checkpoint.weights_bytes()} bytes and {free} are free"
        raise StorageError(folder.parent, need)
    if _is_integer(spec) and spec.selection == "one-hot":
        raise InvalidOptionError("selection", spec.selection, "'gather' in an 8-bit program: its tokens are bytes")
    return spec.keeping(task, checkpoint.config)


def _source(spec: ExportSpec, resolved: Resolved, build: Build) -> Source:
    # resolve() would lose the name of a link, which may be the only one that says anything.
    local = Path(os.path.abspath(resolved.path)) if resolved.revision is None else None  # noqa: PTH100
    return Source(
        model=local.name if local else spec.model,
        path=str(local) if local else None,
        revision=resolved.revision,
        weights_sha256=build.weights_sha256,
        class_name=build.class_name,
        random_weights=build.random_weights,
    )


def _manifest(spec: ExportSpec, checkpoint: Checkpoint, backend: str, build: Build, source: Source) -> Manifest:
    return Manifest(
        neuronbert_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=spec.task,
        model_type=checkpoint.architecture.model_type,
        target=spec.target,
        backend=backend,
        inputs=build.inputs,
        outputs=build.outputs,
        programs=build.programs,
        quantization="none" if spec.quantization == "auto" else spec.quantization,
        dynamic_batch=spec.dynamic_batch,
        compiler=build.compiler,
        source=source,
        files={},
    )
