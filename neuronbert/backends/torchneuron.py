"""Trn2 and Trn3 through TorchNeuron, the library that adds the device "neuron" and a backend to torch.compile.

It compiles where it runs: an artifact holds the exported program and the weights, and loading compiles each static
shape, or takes the NEFF from the library's cache. Written to the documented contract (TorchNeuron: torch.compile
backend reference, environment variables) and tested against a double; it has not been run on a device. That the library
passes NEURON_CC_FLAGS on to the compiler is not said in its reference, and taken over from the library before it.

Owns: exporting with torch.export, compiling at load. Knows nothing of torch_neuronx.trace.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from neuronbert import sdk
from neuronbert.backends import flags, pt2
from neuronbert.backends.base import ANYWHERE, Availability, Compiled
from neuronbert.backends.batching import DynamicBatch
from neuronbert.errors import (
    BackendUnavailableError,
    CompilationFailedError,
    DeviceRunError,
    InvalidOptionError,
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

CACHE: Final = "TORCH_NEURONX_NEFF_CACHE_DIR"
"""Where the library keeps NEFFs; its own default is a folder in /tmp that every user of the machine can write to."""
DEVICE: Final = "neuron"


class TorchNeuronCompiler:
    """Exports a head for torch.compile, one file for each shape."""

    options: frozenset[str] = frozenset({"optlevel", "lnc", "compiler_args"})

    def availability(self, target: str) -> Availability:
        """Whether torch is new enough; the vendor's packages are needed where it is loaded."""
        reason = sdk.why_not_compile(target, "native", sdk.find_host())
        return Availability(ok=not reason, reason=reason)

    def compile(
        self,
        head: nn.Module,
        examples: Mapping[StaticShape, tuple[Tensor, ...]],
        spec: ExportSpec,
        folder: Path,
    ) -> Compiled:
        """Export one program for each shape, with the weights."""
        line = flags.command_line(spec, None)
        programs = []
        for shape, inputs in examples.items():
            name = f"program_{shape.name}.pt2"
            try:
                with torch.no_grad():
                    program = torch.export.export(head, inputs, strict=False)
            except Exception as error:  # whatever the model's own code raises
                raise CompilationFailedError(shape.name, f"torch.export failed ({first_line(error)})") from error
            pt2.save(program, folder / name)
            programs.append(ProgramSpec.of(shape, file=name))
        info = CompilerInfo(
            name="torch.export",
            auto_cast=spec.auto_cast,
            auto_cast_type=spec.auto_cast_type,
            optlevel=spec.optlevel,
            lnc=flags.logical_cores(spec),
            inline_weights=False,
            flags=tuple(line),
            versions={"torch": torch.__version__},
        )
        return Compiled(tuple(programs), info)


class TorchNeuronRuntime:
    """Compiles exported programs for the device and runs them."""

    def availability(self, target: str) -> Availability:
        """Whether the library, its compiler and a device of this kind are here."""
        reason = sdk.why_not_run(target, "native", sdk.find_host())
        return Availability(ok=not reason, reason=reason)

    def load(self, folder: Path, manifest: Manifest, placement: Placement) -> Mapping[StaticShape, Program]:
        """The programs of the files, compiled."""
        if placement != ANYWHERE:
            expected = "left out: TorchNeuron takes the cores of NEURON_RT_VISIBLE_CORES"
            raise InvalidOptionError("placement", placement.first_core, expected)
        flags.refuse_other_lnc(manifest)
        _import(manifest.target)
        programs: dict[StaticShape, Program] = {}
        shared: dict[str, Tensor] = {}
        for spec in manifest.programs:
            module = pt2.load(folder / spec.file).to(DEVICE)
            if shared:
                module.load_state_dict(shared, assign=True)  # one copy of the weights on the device
            shared = shared or module.state_dict()
            program = TorchNeuronProgram(module)
            with _compiler_flags(manifest.compiler.flags):
                _warm(program, spec, manifest)
            programs[spec.shape] = DynamicBatch(program, spec.batch_size) if manifest.dynamic_batch else program
        return programs

    def replace_weights(self, programs: Mapping[StaticShape, Program], weights: Mapping[str, Tensor]) -> None:
        """Copy other weights over those on the device, which all programs share."""
        first = next(iter(programs.values()))
        program = first.program if isinstance(first, DynamicBatch) else first
        if isinstance(program, TorchNeuronProgram):
            program.replace_weights(weights)


class TorchNeuronProgram:
    """One compiled module on the device.

    Args:
        module: The exported program, on the device.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._compiled = torch.compile(module, backend="neuron", fullgraph=True, dynamic=False)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it: CPU tensors in and out."""
        try:
            outputs = self._compiled(*(tensor.to(DEVICE) for tensor in inputs))
            return tuple(output.cpu() for output in outputs)
        except RuntimeError as error:
            raise DeviceRunError(first_line(error)) from error

    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy other weights over the module's."""
        try:
            self._module.load_state_dict(weights)
        except RuntimeError as error:
            raise WeightsRefusedError(first_line(error)) from error


def compiler() -> Compiler:
    """The compiler of this backend."""
    return TorchNeuronCompiler()


def runtime() -> Runtime:
    """The runtime of this backend."""
    return TorchNeuronRuntime()


def _import(target: str) -> None:
    """The vendor's library, which registers its device and its backend; told beforehand where NEFFs are kept."""
    if not os.environ.get(CACHE):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "neuronbert", "neff")
        cache.mkdir(parents=True, exist_ok=True)
        os.environ[CACHE] = str(cache)
    try:
        import_module("torch_neuronx")
    except Exception as error:
        raise BackendUnavailableError(target, f"torch_neuronx can't be imported ({first_line(error)})") from error


def _warm(program: Program, spec: ProgramSpec, manifest: Manifest) -> None:
    # The first call compiles, so it is made here and not in the middle of somebody's work.
    inputs = [torch.full(spec.shape.dims, item.default or 0, dtype=torch.int64) for item in manifest.inputs]
    try:
        with torch.no_grad():
            program(*inputs)
    except Exception as error:  # Dynamo's, the backend's or the compiler's
        found = error.__cause__ or error
        reason = getattr(found, "inner_exception", found)  # Dynamo says "raised:" and has the rest in there
        raise CompilationFailedError(spec.shape.name, first_line(reason)) from error


@contextmanager
def _compiler_flags(line: tuple[str, ...]) -> Iterator[None]:
    # Of an option that is given twice the right-most wins: what the manifest records.
    before = os.environ.get(flags.VARIABLE)
    os.environ[flags.VARIABLE] = " ".join([*filter(None, [before]), *line])
    try:
        yield
    finally:
        if before is None:
            del os.environ[flags.VARIABLE]
        else:
            os.environ[flags.VARIABLE] = before
