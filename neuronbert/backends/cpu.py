"""The CPU target: TorchScript programs traced per static shape over one set of weights.

Owns: tracing with auto-cast in the graph, the file, and loading it again. It is the reference that other backends are
measured against. Weights lie in the file as they are and are folded (rounded, transposed) when it is loaded.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.backends import attention, heap, int8, integer_kernels, packing, torchscript
from neuronbert.backends.autocast import AutoCastMode
from neuronbert.backends.base import ANYWHERE, Availability, Compiled
from neuronbert.backends.batching import DynamicBatch
from neuronbert.backends.flat import Flat
from neuronbert.errors import ArtifactCorruptError, FixedWeightsError, InvalidOptionError
from neuronbert.manifest import CompilerInfo, ProgramSpec
from neuronbert.shapes import StaticShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from neuronbert.backends.base import Compiler, Placement, Program, Runtime
    from neuronbert.manifest import Manifest
    from neuronbert.spec import ExportSpec

PROGRAM_FILE: Final = "model.neuron"
_AVAILABLE: Final = Availability(ok=True)


class CpuCompiler:
    """Traces a head to TorchScript."""

    options: frozenset[str] = frozenset()

    def availability(self, target: str) -> Availability:
        """Always, for the CPU."""
        return _AVAILABLE if target == "cpu" else Availability(ok=False, reason="this backend compiles for cpu only")

    def compile(
        self,
        head: nn.Module,
        examples: Mapping[StaticShape, tuple[Tensor, ...]],
        spec: ExportSpec,
        folder: Path,
    ) -> Compiled:
        """Trace one method for each shape; the largest is `forward`."""
        programs = _name_methods(tuple(examples))
        flat = Flat(head)
        for program in programs:
            if program.method != "forward":
                setattr(flat, program.method, flat.forward)
        inputs = {program.method: examples[program.shape] for program in programs}
        cast = nullcontext() if spec.auto_cast == "none" else AutoCastMode(spec.auto_cast, spec.auto_cast_type)
        with torch.no_grad(), warnings.catch_warnings(), cast:
            warnings.simplefilter("ignore")  # each Python branch on a shape warns; shapes are static here
            module: Any = torch.jit.trace_module(  # type: ignore[no-untyped-call]
                flat, inputs, check_trace=False, strict=False
            )
        torchscript.save(module, folder / PROGRAM_FILE)
        info = CompilerInfo(
            name="torch.jit.trace",
            auto_cast=spec.auto_cast,
            auto_cast_type=spec.auto_cast_type,
            versions={"torch": torch.__version__},
        )
        return Compiled(programs, info)


class CpuRuntime:
    """Loads TorchScript programs and folds their weights."""

    def availability(self, target: str) -> Availability:
        """Always, for the CPU."""
        return _AVAILABLE if target == "cpu" else Availability(ok=False, reason="this backend runs on cpu only")

    def load(self, folder: Path, manifest: Manifest, placement: Placement) -> Mapping[StaticShape, Program]:
        """The programs of the files, by shape."""
        if placement != ANYWHERE:
            raise InvalidOptionError("placement", placement, "left out: the cpu target has no NeuronCores")
        heap.keep()
        programs: dict[StaticShape, Program] = {}
        for name in manifest.program_files:
            held = [program for program in manifest.programs if program.file == name]
            methods = [program.method for program in held]
            rows = max(program.shape.tokens for program in held)
            frozen = _freeze(torchscript.load(folder / name, methods), methods, rows, folder / name)
            for program in held:
                run = CpuProgram(getattr(frozen, program.method), folder / name)
                programs[program.shape] = DynamicBatch(run, program.batch_size) if manifest.dynamic_batch else run
        return programs

    def replace_weights(
        self,
        programs: Mapping[StaticShape, Program],  # noqa: ARG002  the port's
        weights: Mapping[str, Tensor],  # noqa: ARG002
    ) -> None:
        """Never: loading folds the weights into the program."""
        raise FixedWeightsError


@dataclass(frozen=True, slots=True)
class CpuProgram:
    """One method of a frozen module; what it raises is worded as ours.

    Attributes:
        method: The method.
        path: The file that it is from.
    """

    method: Callable[..., tuple[Tensor, ...]]
    path: Path

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        try:
            # The profiling executor would run the first calls slowly to learn shapes that are static.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return self.method(*inputs)
        except RuntimeError as error:
            raise ArtifactCorruptError(self.path, f"can't be run ({torchscript.reason(error)})") from error


def compiler() -> Compiler:
    """The compiler of this backend."""
    return CpuCompiler()


def runtime() -> Runtime:
    """The runtime of this backend."""
    return CpuRuntime()


def _freeze(module: Any, methods: list[str], rows: int, path: Path) -> Any:
    try:
        integer_kernels.install(module, methods)
        if int8.supported():
            int8.substitute(module)
        packing.round_weights(module, methods)
        frozen = torch.jit.freeze(module, preserved_attrs=[method for method in methods if method != "forward"])
        int8.pack(frozen, methods)
        attention.substitute(frozen, methods)
        if packing.supported():
            packing.pack(frozen, methods, rows)
    except RuntimeError as error:  # folding runs some of it
        raise ArtifactCorruptError(path, f"can't be folded ({torchscript.reason(error)})") from error
    return frozen


def _name_methods(shapes: tuple[StaticShape, ...]) -> tuple[ProgramSpec, ...]:
    # Other readers of this format run `forward`, so that is the one that takes the most.
    largest = max(shapes, key=StaticShape.order)
    return tuple(
        ProgramSpec.of(shape, file=PROGRAM_FILE, method="forward" if shape == largest else f"forward_{shape.name}")
        for shape in shapes
    )
