"""Artifacts without a manifest, as optimum-neuron writes them, and the section of config.json by which it reads ours.

Owns: the `neuron` section, in every form that optimum-neuron has given it since 0.0.8, and the manifest that can be
made of it. Knows nothing of torch or of optimum: what it reads is hostile until it is checked.
Source: optimum-neuron, `store_compilation_config` and `NeuronTracedModel._neuron_config_init`, v0.0.8 to v0.4.5.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from neuronbert import sdk
from neuronbert.architectures import find_architecture, find_form, find_head, infer_task
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import ForeignArtifactError, TaskNotInferableError, first_line
from neuronbert.folders import CONFIG, read_config
from neuronbert.manifest import CompilerInfo, Dim, InputSpec, Manifest, OutputSpec, ProgramSpec, Source
from neuronbert.spec import AutoCastType, OptLevel
from neuronbert.targets import TARGETS
from neuronbert.zips import UNREADABLE

if TYPE_CHECKING:
    from pathlib import Path

SECTION: Final = "neuron"
UNKNOWN: Final = "unknown"
"""What stands in a manifest for the checkpoint that nothing names."""
COMPILER: Final = "neuronx-cc"
_SHAPES: Final = ("static_batch_size", "static_sequence_length", "static_num_choices")
_SAME_CORES: Final = tuple(name for name, target in TARGETS.items() if target.core == TARGETS["inf2"].core)
"""What optimum-neuron doesn't tell apart: up to 0.3 it recorded no target, and from Python it writes trn1 for inf2."""
_VENDOR: Final = (b"torch.classes.neuron.", b"ops.neuron.")
"""What the code of a program for a Neuron device names, and that of one for the CPU doesn't."""
_MAX_CODE_BYTES: Final = 256 << 20


class _Section(BaseModel):
    """The section as far as it matters here; other keys are ignored, as optimum-neuron ignores them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    static_batch_size: Dim
    static_sequence_length: Dim
    static_num_choices: Dim | None = None
    dynamic_batch_size: bool = False
    task: str | None = None
    model_type: str | None = None
    auto_cast: Literal["none", "matmul", "all"] | None = None
    auto_cast_type: AutoCastType | None = None
    optlevel: OptLevel | None = None
    compiler_type: Literal["neuronx-cc"] | None = None
    compiler_version: str | None = None
    instance_type: Literal["inf2", "trn1", "trn1n", "trn2"] | None = None
    inline_weights_to_neff: bool = True
    input_names: list[str] | None = None
    output_names: list[str] | None = None
    int_dtype: Literal["int64"] = "int64"
    float_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    tensor_parallel_size: Literal[1] = 1
    output_attentions: Literal[False] = False
    output_hidden_states: Literal[False] = False


def section(manifest: Manifest) -> dict[str, Any]:
    """The section with which optimum-neuron's runtime opens an artifact of ours: its largest program.

    Its reader takes every key that begins with `static_` for a shape, so there are none but its own. It asks for the
    installed version of the compiler that is named, so the CPU target names none.
    """
    # Of those that forward runs, if there are any: that reader calls nothing else.
    whole = [program for program in manifest.programs if program.method == "forward"] or list(manifest.programs)
    largest = max(whole, key=lambda program: program.shape.order())
    compiler = manifest.compiler
    lowered = compiler.auto_cast != "none"
    for_device = manifest.backend == "neuronx"
    made: dict[str, Any] = {
        "auto_cast": compiler.auto_cast if lowered else None,
        "auto_cast_type": compiler.auto_cast_type if lowered else None,
        # On the CPU target it is the loader, not the program, that splits a call.
        "dynamic_batch_size": manifest.dynamic_batch and for_device,
        "float_dtype": "fp32",
        "inline_weights_to_neff": compiler.inline_weights,
        "instance_type": manifest.target if for_device else None,
        "int_dtype": "int64",
        "model_type": manifest.model_type,
        "optlevel": compiler.optlevel or "2",
        "output_attentions": False,
        "output_hidden_states": False,
        "static_batch_size": largest.batch_size,
        "static_sequence_length": largest.sequence_length,
        "task": manifest.task,
        "tensor_parallel_size": 1,
    }
    if largest.num_choices is not None:
        made["static_num_choices"] = largest.num_choices
    if for_device:
        made |= {"compiler_type": COMPILER, "compiler_version": compiler.versions[COMPILER]}
    return made


def read(folder: Path) -> Manifest | None:
    """What can be said of an artifact that has no manifest, or None if the folder has no program or no section.

    What nobody recorded stays open: the digest of the weights is None, `created` and `neuronbert_version` are empty.
    The digests of the files are not taken here.

    Raises:
        ForeignArtifactError: the program can't be run by what config.json says of it.
        UnsupportedModelError: it is of an architecture that isn't in the table.
        CheckpointError: config.json can't be used at all.
    """
    names = sorted(path.name for path in folder.glob("*.neuron") if path.is_file())
    config = read_config(folder) if names and (folder / CONFIG).is_file() else {}
    if SECTION not in config:
        return None
    if len(names) > 1:
        raise ForeignArtifactError(folder, f"it has {len(names)} programs ({', '.join(names)}), and one is expected")
    said = _parse(folder, config.get(SECTION))
    if said.model_type not in (None, config["model_type"], config["model_type"].replace("_", "-")):
        problem = f"its program is of type {said.model_type!r}, its model of type {config['model_type']!r}"
        raise ForeignArtifactError(folder, problem)
    checkpoint = Checkpoint(folder, config, find_architecture(config["model_type"]), ())
    task = _task(checkpoint, said)
    try:
        return _manifest(checkpoint, said, task, names[0])
    except ValidationError as error:
        raise ForeignArtifactError(folder, f"{names[0]} and config.json make no program ({_first(error)})") from error


def _manifest(checkpoint: Checkpoint, said: _Section, task: str, file: str) -> Manifest:
    backend, target = _place(checkpoint.path / file, said)
    program = ProgramSpec(
        batch_size=said.static_batch_size,
        sequence_length=said.static_sequence_length,
        num_choices=said.static_num_choices,
        file=file,
        method="forward",
    )
    compiler = CompilerInfo(
        name=said.compiler_type or UNKNOWN,
        auto_cast=said.auto_cast or "none",
        auto_cast_type=said.auto_cast_type or "bf16",
        optlevel=said.optlevel,
        # A dynamic batch needs the weights inside: optimum-neuron sees to it, but records what was asked for.
        inline_weights=said.inline_weights_to_neff or said.dynamic_batch_size,
        versions={COMPILER: said.compiler_version} if said.compiler_version else {},
    )
    name = checkpoint.config.get("_name_or_path")
    return Manifest(
        neuronbert_version="",
        created="",
        task=task,
        model_type=checkpoint.architecture.model_type,
        target=target,
        backend=backend,
        inputs=_inputs(checkpoint, said, task),
        outputs=_outputs(checkpoint, said, task),
        programs=(program,),
        dynamic_batch=said.dynamic_batch_size,
        compiler=compiler,
        source=Source(
            model=name if isinstance(name, str) and name else UNKNOWN,
            class_name=find_head(checkpoint.architecture, task),
        ),
        files={},
    )


def _parse(folder: Path, value: object) -> _Section:
    if not isinstance(value, dict):
        raise ForeignArtifactError(folder, f"{SECTION} in its config.json is not an object")
    unknown = [key for key in value if key.startswith("static_") and key not in _SHAPES and value[key] is not None]
    if unknown:
        raise ForeignArtifactError(folder, f"{SECTION}.{unknown[0]} is not a shape of a text encoder")
    try:
        return _Section.model_validate(value)
    except ValidationError as error:
        raise ForeignArtifactError(folder, f"its config.json has a wrong {SECTION}.{_first(error)}") from error


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"


def _task(checkpoint: Checkpoint, said: _Section) -> str:
    # Up to 0.1 the task stood beside the section, and before 0.0.12 nowhere.
    named = said.task or checkpoint.config.get("task")
    if named is None:
        try:
            named = infer_task(checkpoint.architecture, checkpoint.class_names)
        except TaskNotInferableError as error:
            raise ForeignArtifactError(checkpoint.path, "its config.json names neither a task nor a class") from error
    if not isinstance(named, str) or named not in checkpoint.architecture.heads:
        raise ForeignArtifactError(checkpoint.path, f"its task is {named!r}, which no head here has")
    if (named == "multiple-choice") != (said.static_num_choices is not None):
        raise ForeignArtifactError(
            checkpoint.path, "static_num_choices goes with multiple-choice and with no other task"
        )
    return named


def _inputs(checkpoint: Checkpoint, said: _Section, task: str) -> tuple[InputSpec, ...]:
    known = {spec.name: spec for spec in checkpoint.input_specs(task) if spec.name != "call_mask"}
    names = said.input_names or list(known)
    if sorted(names) != sorted(known):
        raise ForeignArtifactError(
            checkpoint.path, f"its program takes {', '.join(names)} in place of {', '.join(known)}"
        )
    return tuple(known[name] for name in names)


def _outputs(checkpoint: Checkpoint, said: _Section, task: str) -> tuple[OutputSpec, ...]:
    known = {output.name: output for output in find_form(checkpoint.architecture, task).outputs}
    names = said.output_names or list(known)
    if not set(names) <= set(known):
        raise ForeignArtifactError(
            checkpoint.path, f"its program gives {', '.join(names)} in place of {', '.join(known)}"
        )
    sizes = checkpoint.sizes()
    return tuple(OutputSpec.of(known[name], sizes) for name in names)


def _place(path: Path, said: _Section) -> tuple[str, str]:
    """The backend and the target of a program, by what is in it: sections name a compiler on any machine."""
    if not _is_for_device(path):
        return "cpu", "cpu"
    named = said.instance_type
    if named is not None and named not in _SAME_CORES:
        return "neuronx", named
    device = sdk.find_device()
    if device is not None and device.target in _SAME_CORES:
        return "neuronx", device.target
    return "neuronx", named or _SAME_CORES[0]


def _is_for_device(path: Path) -> bool:
    # Only a choice between backends: each of them checks the program for itself, as torch reads it.
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                info for info in archive.infolist() if "/code/" in info.filename and info.filename.endswith(".py")
            ]
            if sum(info.file_size for info in members) > _MAX_CODE_BYTES:
                raise ForeignArtifactError(path, f"its program has more than {_MAX_CODE_BYTES} bytes of code")
            return any(name in archive.read(info) for info in members for name in _VENDOR)
    except UNREADABLE as error:
        raise ForeignArtifactError(path, f"it is not a TorchScript archive ({first_line(error)})") from error
