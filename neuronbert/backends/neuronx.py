"""Inf2, Trn1, Trn1n and Trn2 through torch_neuronx.trace, the library on PyTorch/XLA (torch 2.9).

Owns: tracing, placing on cores, and what goes wrong on the way. Written to the documented
contract (PyTorch Neuron trace, core placement, lazy load and replace weights API; Neuron Compiler CLI reference) and
tested against a double that obeys it; it has not been run on a device.
"""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert import sdk
from neuronbert.backends import flags, torchscript
from neuronbert.backends.base import ANYWHERE, Availability, Compiled
from neuronbert.errors import (
    BackendUnavailableError,
    CompilationFailedError,
    DeviceLoadError,
    DeviceRunError,
    FixedWeightsError,
    StorageError,
    WeightsRefusedError,
    first_line,
)
from neuronbert.manifest import CompilerInfo, ProgramSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from neuronbert.backends.base import Compiler, Placement, Program, Runtime
    from neuronbert.manifest import Manifest
    from neuronbert.shapes import StaticShape
    from neuronbert.spec import ExportSpec

OVERRIDE: Final = "NEURON_PLATFORM_TARGET_OVERRIDE"
"""What the library takes as its platform where there is no device; read when it is imported."""
LOG: Final = "log-neuron-cc.txt"

_LOG_LINES: Final = 3
_LOG_BYTES: Final = 16 << 10


class NeuronxCompiler:
    """Compiles a head to NEFFs inside TorchScript, one file for each shape."""

    options: frozenset[str] = frozenset(
        {"optlevel", "lnc", "compiler_args", "inline_weights", "lazy_load", "async_load", "compiler_workdir"}
    )

    def availability(self, target: str) -> Availability:
        """Whether the library and its compiler are here; no device is needed."""
        reason = sdk.why_not_compile(target, "trace", sdk.find_host())
        return Availability(ok=not reason, reason=reason)

    def compile(
        self,
        head: nn.Module,
        examples: Mapping[StaticShape, tuple[Tensor, ...]],
        spec: ExportSpec,
        folder: Path,
    ) -> Compiled:
        """Trace one program for each shape; the largest is in model.neuron, where other readers look for it."""
        library = _import(spec.target, compiling=True)
        found = sdk.find_compiler()
        version = found.version if found else "0"
        line = flags.command_line(spec, version)
        largest = max(examples, key=lambda shape: (shape.tokens, shape.sequence_length))
        programs = []
        for shape, inputs in examples.items():
            name = "model.neuron" if shape == largest else f"program_{shape.name}.pt"
            traced = _trace(library, head, inputs, line, spec, shape)
            for asked, apply in (
                (spec.dynamic_batch, library.dynamic_batch),
                (spec.lazy_load, library.lazy_load),
                (spec.async_load, library.async_load),
            ):
                if asked:
                    apply(traced)  # in place; it is kept in the file
            torchscript.save(traced, folder / name)
            programs.append(ProgramSpec.of(shape, file=name))
        info = CompilerInfo(
            name="neuronx-cc",
            auto_cast=spec.auto_cast,
            auto_cast_type=spec.auto_cast_type,
            optlevel=spec.optlevel,
            lnc=flags.logical_cores(spec),
            inline_weights=spec.inline_weights,
            flags=tuple(line),
            versions={"neuronx-cc": version, "torch-neuronx": library.__version__, "torch": torch.__version__},
        )
        return Compiled(tuple(programs), info)


class NeuronxRuntime:
    """Loads NEFFs inside TorchScript onto NeuronCores."""

    def availability(self, target: str) -> Availability:
        """Whether the library and a device of this kind are here."""
        reason = sdk.why_not_run(target, "trace", sdk.find_host())
        return Availability(ok=not reason, reason=reason)

    def load(self, folder: Path, manifest: Manifest, placement: Placement) -> Mapping[StaticShape, Program]:
        """The programs of the files, on the device."""
        library = _import(manifest.target, compiling=False)
        flags.refuse_other_lnc(manifest)
        inline = manifest.compiler.inline_weights
        return {
            program.shape: NeuronxProgram(_load(library, folder / program.file, manifest, placement), library, inline)
            for program in manifest.programs
        }

    def replace_weights(self, programs: Mapping[StaticShape, Program], weights: Mapping[str, Tensor]) -> None:
        """Send other weights to the device."""
        for program in programs.values():
            if isinstance(program, NeuronxProgram):
                program.replace_weights(weights)


class NeuronxProgram:
    """One traced module on the device.

    Args:
        module: As it was loaded.
        library: torch_neuronx.
        inline: Whether its weights are inside the NEFF.
    """

    def __init__(self, module: Any, library: Any, inline: bool) -> None:
        self._module = module
        self._library = library
        self._inline = inline

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it: CPU tensors in and out."""
        try:
            outputs: tuple[Tensor, ...] = self._module(*inputs)
        except (RuntimeError, ValueError) as error:
            raise DeviceRunError(first_line(error)) from error
        return outputs

    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Send other weights to the device."""
        if self._inline:
            raise FixedWeightsError
        try:
            self._library.replace_weights(self._module, dict(weights))
        except (RuntimeError, ValueError, KeyError) as error:
            raise WeightsRefusedError(first_line(error)) from error


def compiler() -> Compiler:
    """The compiler of this backend."""
    return NeuronxCompiler()


def runtime() -> Runtime:
    """The runtime of this backend."""
    return NeuronxRuntime()


def _import(target: str, *, compiling: bool) -> Any:
    """The vendor's library, told beforehand what to compile for where there is no device to ask."""
    if compiling and _without_device(target):
        said = os.environ.setdefault(OVERRIDE, target)
        if said != target:
            early = "torch_neuronx" in sys.modules
            advice = "do this export in a process of its own" if early else f"unset it, or set {OVERRIDE}={target}"
            raise BackendUnavailableError(target, f"torch_neuronx is set to {said} by {OVERRIDE}; {advice}")
    try:
        library = import_module("torch_neuronx")
    except Exception as error:
        raise BackendUnavailableError(target, f"torch_neuronx can't be imported ({first_line(error)})") from error
    if not hasattr(library, "trace"):
        raise BackendUnavailableError(target, f"torch_neuronx has no trace; {sdk.install('trace')}")
    return library


def _without_device(target: str) -> bool:
    device = sdk.find_device()
    return device is None or device.target not in (None, target)


def _trace(
    library: Any,
    head: nn.Module,
    inputs: tuple[Tensor, ...],
    line: list[str],
    spec: ExportSpec,
    shape: StaticShape,
) -> Any:
    options: dict[str, Any] = {"compiler_args": line, "inline_weights_to_neff": spec.inline_weights}
    if _without_device(spec.target):
        if "cpu_backend" not in inspect.signature(library.trace).parameters:
            reason = f"torch-neuronx {library.__version__} can't compile without a device; {sdk.install('trace')}"
            raise BackendUnavailableError(spec.target, reason)
        options["cpu_backend"] = True
    with _workdir(spec, shape) as work:
        try:
            traced = library.trace(head, inputs, compiler_workdir=str(work), **options)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise CompilationFailedError(shape.name, first_line(error), *_log(work)) from error
            raise StorageError(work, error.strerror or str(error)) from error
        except Exception as error:  # whatever the tracer, the lowering or the compiler raise
            raise CompilationFailedError(shape.name, first_line(error), *_log(work)) from error
        if traced is None:
            raise CompilationFailedError(shape.name, "torch_neuronx.trace gave nothing back", *_log(work))
        return traced


@contextmanager
def _workdir(spec: ExportSpec, shape: StaticShape) -> Iterator[Path]:
    """Where the compiler works: the user's folder, or one that goes, but for a failure whose message names its log."""
    if spec.compiler_workdir is not None:
        work = Path(spec.compiler_workdir, shape.name).absolute()
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    work = Path(tempfile.mkdtemp(prefix="neuronbert-compiler-"))
    try:
        yield work
    except CompilationFailedError:
        raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _log(work: Path) -> tuple[Path, list[str]]:
    logs = sorted(work.rglob(LOG), key=lambda path: path.stat().st_mtime)
    if not logs:
        return work, []
    with logs[-1].open("rb") as file:
        file.seek(max(0, logs[-1].stat().st_size - _LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return logs[-1], [line.strip() for line in lines if line.strip()][-_LOG_LINES:]


def _load(library: Any, path: Path, manifest: Manifest, placement: Placement) -> Any:
    torchscript.refuse_hooks(path, vendor="neuron")
    first = placement.first_core
    if not manifest.compiler.inline_weights:
        first = first or 0  # the weights are sent after the program, so it must be known where it is
    try:
        module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        torchscript.refuse_effects(module, ["forward"], path, vendor="neuron")
        if first is not None or placement != ANYWHERE:
            place = getattr(library, "set_neuron_cores", None) or library.experimental.set_neuron_cores
            place(module, start_nc=-1 if first is None else first, nc_count=placement.cores)
        if not manifest.compiler.inline_weights:
            library.move_trace_to_device(module, first)
    except (RuntimeError, ValueError) as error:
        raise DeviceLoadError(path.name, first_line(error)) from error
    return module
