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
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

import torch
from torch._dynamo import lookup_backend

from neuronbert import sdk
from neuronbert.backends import flags, pt2
from neuronbert.backends.base import ANYWHERE, Availability, Compiled
from neuronbert.backends.batching import DynamicBatch
from neuronbert.errors import (
    ArtifactCorruptError,
    BackendUnavailableError,
    CompilationFailedError,
    DeviceLoadError,
    DeviceRunError,
    InvalidOptionError,
    StorageError,
    WeightsRefusedError,
    first_line,
)
from neuronbert.manifest import CompilerInfo, ProgramSpec
from neuronbert.places import cache_folder
from neuronbert.reference import COMPILER_FLAGS, NEFF_CACHE, NO_FALLBACK, raises

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, fx, nn

    from neuronbert.backends.base import Compiler, Placement, Program, Runtime
    from neuronbert.manifest import Manifest
    from neuronbert.shapes import StaticShape
    from neuronbert.spec import ExportSpec

DEVICE: Final = "neuron"
BACKEND: Final = "neuron"
"""Of torch.compile."""

_FLAGS_IN_USE: Final = RLock()
"""The environment is everybody's: programs that are compiled at once would get each other's flags."""


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
        for word in flags.unknown(line):
            expected = "left out, as it is not in the compiler's reference: loading compiles, and takes no others"
            raise InvalidOptionError("compiler_args", word, expected)
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
            raise InvalidOptionError("placement", placement, expected)
        flags.refuse_other_lnc(manifest)
        for word in flags.unknown(manifest.compiler.flags):
            raise ArtifactCorruptError(folder, f"asks the compiler for {word!r}, which is not in its reference")
        for word in flags.unlike(manifest):
            raise ArtifactCorruptError(folder, f"has a manifest that says another thing than its flags: {word!r}")
        _import(manifest.target)
        programs: dict[StaticShape, Program] = {}
        shared: dict[str, Tensor] = {}
        for spec in manifest.programs:
            module = _module(folder / spec.file, shared)
            shared = shared or module.state_dict()
            program = TorchNeuronProgram(module, manifest.compiler.flags)
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
        line: The compiler's command line.
    """

    def __init__(self, module: nn.Module, line: tuple[str, ...]) -> None:
        def compile_graph(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            # Dynamo asks again when it is called in another mode than before: inference_mode, autocast, other threads.
            with _compiler_flags(line):
                compiled: Callable[..., Any] = lookup_backend(BACKEND)(graph, inputs)
                return compiled

        self._module = module
        self._line = line
        self._compiled = torch.compile(module, backend=compile_graph, fullgraph=True, dynamic=False)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it: CPU tensors in and out."""
        try:
            return self._run(*inputs)
        except RuntimeError as error:
            raise DeviceRunError(_reason(error)) from error

    def warm(self, name: str, inputs: Iterable[Tensor]) -> None:
        """Compile it: the first call does, so it is made at once and not in the middle of somebody's work.

        Raises:
            CompilationFailedError: the compiler refused, or ended.
        """
        try:
            with torch.no_grad(), _compiler_flags(self._line):
                self._run(*inputs)
        except Exception as error:  # Dynamo's, the backend's or the compiler's
            raise CompilationFailedError(name, _reason(error)) from error

    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy other weights over the module's."""
        try:
            self._module.load_state_dict(weights)
        except RuntimeError as error:
            raise WeightsRefusedError(first_line(error)) from error

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self._compiled(*(tensor.to(DEVICE) for tensor in inputs))
        return tuple(output.cpu() for output in outputs)


def compiler() -> Compiler:
    """The compiler of this backend."""
    return TorchNeuronCompiler()


def runtime() -> Runtime:
    """The runtime of this backend."""
    return TorchNeuronRuntime()


def _import(target: str) -> None:
    """The vendor's library, which registers its device and its backend; told beforehand where NEFFs are kept."""
    said = os.environ.get(NO_FALLBACK, "").strip()
    if not raises(said):
        reason = f"{NO_FALLBACK} is {said!r}: what can't be compiled would run uncompiled, without an error"
        raise BackendUnavailableError(target, f"{reason}; unset {NO_FALLBACK}")
    if not os.environ.get(NEFF_CACHE):
        cache = cache_folder().absolute() / "neff"  # the library may be imported in one folder, and used in another
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(cache, error.strerror or str(error)) from error
        os.environ[NEFF_CACHE] = str(cache)
    try:
        import_module("torch_neuronx")
    except Exception as error:
        raise BackendUnavailableError(target, f"torch_neuronx can't be imported ({first_line(error)})") from error
    if BACKEND not in torch.compiler.list_backends(()):
        reason = (
            f"torch_neuronx adds no backend {BACKEND!r} to torch.compile; {sdk.install('native', torch.__version__)}"
        )
        raise BackendUnavailableError(target, reason)


def _module(path: Path, shared: Mapping[str, Tensor]) -> nn.Module:
    """The module of a file on the device, over the weights that are there already."""
    program = pt2.load(path)
    try:
        module = pt2.module_on(program, DEVICE)
    except Exception as error:  # the device's, or what torch says of a graph that isn't one
        raise DeviceLoadError(path.name, first_line(error)) from error
    if shared:
        try:
            module.load_state_dict(shared, assign=True)
        except RuntimeError as error:
            raise ArtifactCorruptError(
                path, f"has other weights than the other programs ({first_line(error)})"
            ) from error
    return module


def _warm(program: TorchNeuronProgram, spec: ProgramSpec, manifest: Manifest) -> None:
    inputs = (torch.full(spec.shape.dims, item.default or 0, dtype=torch.int64) for item in manifest.inputs)
    program.warm(spec.shape.name, inputs)


def _reason(error: Exception) -> str:
    # Dynamo's first line only says which backend it was.
    return first_line(getattr(error, "inner_exception", error))


@contextmanager
def _compiler_flags(line: tuple[str, ...]) -> Iterator[None]:
    # Of an option that is given twice the right-most wins: what the manifest records.
    added = " ".join(line)
    with _FLAGS_IN_USE:
        before = os.environ.get(COMPILER_FLAGS, "")
        if not before.endswith(added):  # the first call and the backend that it asks both see to it
            os.environ[COMPILER_FLAGS] = f"{before} {added}".lstrip()
        try:
            yield
        finally:
            os.environ[COMPILER_FLAGS] = before
            if not before:
                del os.environ[COMPILER_FLAGS]
