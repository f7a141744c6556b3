"""Inf2, Trn1, Trn1n and Trn2 through torch_neuronx.trace, the library on PyTorch/XLA (torch 2.9).

Owns: tracing, placing on cores, and what goes wrong on the way. Written to the documented
contract (PyTorch Neuron trace, core placement, lazy load and replace weights API; Neuron Compiler CLI reference) and
tested against a double that obeys it; it has not been run on a device.
"""

from __future__ import annotations

import inspect
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert import sdk
from neuronbert.backends import flags, torchscript
from neuronbert.backends.base import Availability, Compiled
from neuronbert.backends.workdir import neff_bytes, workdir
from neuronbert.errors import (
    ArtifactCorruptError,
    BackendUnavailableError,
    DeviceLoadError,
    DeviceRunError,
    FixedWeightsError,
    InvalidOptionError,
    WeightsRefusedError,
    first_line,
)
from neuronbert.manifest import CompilerInfo, ProgramSpec
from neuronbert.reference import PLATFORM
from neuronbert.shapes import StaticShape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from neuronbert.backends.base import Compiler, Placement, Program, Runtime
    from neuronbert.manifest import Manifest
    from neuronbert.spec import ExportSpec

_NOTHING: Final = "torch_neuronx.trace gave nothing back"


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
        if spec.dynamic_batch and not spec.inline_weights:
            # No page of the SDK's has the two together, and optimum-neuron takes a program with a dynamic batch for one
            # with its weights inside.
            expected = "left out with inline_weights=False: a program with a dynamic batch has its weights inside"
            raise InvalidOptionError("dynamic_batch", True, expected)
        library = _import(spec.target, compiling=True)
        found = sdk.find_compiler()
        version = found.version if found else "0"
        line = flags.command_line(spec, version)
        largest = max(examples, key=StaticShape.order)
        programs = []
        for shape, inputs in examples.items():
            name = "model.neuron" if shape == largest else f"program_{shape.name}.pt"
            traced, size = _trace(library, head, inputs, line, spec, shape)
            torchscript.save(traced, folder / name, beside=size)
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
            raise DeviceRunError(torchscript.reason(error)) from error
        return outputs

    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Send other weights to the device."""
        if self._inline:
            raise FixedWeightsError
        try:
            self._library.replace_weights(self._module, dict(weights))
        except Exception as error:  # what it raises for a name or a shape isn't documented
            raise WeightsRefusedError(first_line(error)) from error


def compiler() -> Compiler:
    """The compiler of this backend."""
    return NeuronxCompiler()


def runtime() -> Runtime:
    """The runtime of this backend."""
    return NeuronxRuntime()


def _import(target: str, *, compiling: bool) -> Any:
    """The vendor's library, told beforehand what to compile for where there is no device to ask."""
    if compiling:
        _set_platform(target)
    try:
        library = import_module("torch_neuronx")
    except Exception as error:
        raise BackendUnavailableError(target, f"torch_neuronx can't be imported ({first_line(error)})") from error
    if not hasattr(library, "trace"):
        raise BackendUnavailableError(target, f"torch_neuronx has no trace; {sdk.install('trace')}")
    return library


def _set_platform(target: str) -> None:
    said = os.environ.get(PLATFORM)
    imported = "torch_neuronx" in sys.modules
    if said is None and _without_device(target):
        if imported:
            reason = "torch_neuronx was imported before it could be told what to compile for"
            raise BackendUnavailableError(target, f"{reason}; do this export in a process of its own")
        os.environ[PLATFORM] = target
    elif reason := sdk.why_not_platform(target, said):
        advice = "do this export in a process of its own"
        raise BackendUnavailableError(target, f"{reason.partition(';')[0]}; {advice}" if imported else reason)


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
) -> tuple[Any, int]:
    """The traced module, and the bytes of the NEFF in it."""
    options: dict[str, Any] = {"compiler_args": line, "inline_weights_to_neff": spec.inline_weights}
    if _without_device(spec.target):
        if "cpu_backend" not in inspect.signature(library.trace).parameters:
            reason = f"torch-neuronx {library.__version__} can't compile without a device; {sdk.install('trace')}"
            raise BackendUnavailableError(spec.target, reason)
        options["cpu_backend"] = True
    with workdir(spec.compiler_workdir, shape.name) as work:
        traced = library.trace(head, inputs, compiler_workdir=str(work), **options)
        if traced is None:
            raise TypeError(_NOTHING)
        for setting in ("dynamic_batch", "lazy_load", "async_load"):
            if getattr(spec, setting):
                getattr(library, setting)(traced)  # in place; it is kept in the file
        return traced, neff_bytes(work)


def _load(library: Any, path: Path, manifest: Manifest, placement: Placement) -> Any:
    inline = manifest.compiler.inline_weights
    if not inline and placement.cores > 1:
        expected = "1 for programs that have their weights beside them: those go to one core"
        raise InvalidOptionError("placement.cores", placement.cores, expected)
    torchscript.refuse_hooks(path, vendor="neuron")
    first = placement.first_core
    if not inline:
        first = first or 0  # the weights are sent after the program, so it must be known where it is
    try:
        module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        torchscript.refuse_effects(module, ["forward"], path, vendor="neuron")
        if first is not None or placement.cores > 1:
            place = getattr(library, "set_neuron_cores", None) or library.experimental.set_neuron_cores
            place(module, start_nc=-1 if first is None else first, nc_count=placement.cores)
        if not inline:
            library.move_trace_to_device(module, first)
    except ArtifactCorruptError:
        raise
    except (RuntimeError, ValueError) as error:
        raise DeviceLoadError(path.name, first_line(error)) from error
    except Exception as error:  # torch's reader trips over what is wrong wherever it meets it
        raise ArtifactCorruptError(path, f"is not a traced program ({first_line(error)})") from error
    return module
