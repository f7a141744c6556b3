"""The CPU target: TorchScript programs traced per static shape over one set of weights.

Owns: tracing with auto-cast in the graph, the file, and loading it again. It is the reference that other backends are
measured against. Weights lie in the file as they are and are folded (rounded, transposed) when it is loaded.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.backends.autocast import AutoCastMode
from neuronbert.backends.base import Availability, Compiled
from neuronbert.errors import ArtifactCorruptError, first_line
from neuronbert.manifest import CompilerInfo, ProgramSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from neuronbert.backends.base import Compiler, Program, Runtime
    from neuronbert.manifest import Manifest
    from neuronbert.shapes import StaticShape
    from neuronbert.spec import ExportSpec

PROGRAM_FILE: Final = "model.neuron"
_FILE_OVERHEAD: Final = 4 << 20
"""Bytes of a program file beside its weights, generously."""
_AVAILABLE: Final = Availability(ok=True)
_NAMESPACES: Final = ("aten::", "prim::")
_FORBIDDEN: Final = frozenset(
    {"aten::from_file", "aten::save", "aten::_print", "aten::wait", "prim::PythonOp", "prim::Print", "prim::fork"}
    | {"prim::rpc_async", "prim::rpc_sync", "prim::rpc_remote", "prim::awaitable", "prim::CudaFusionGroup"}
)
"""Operators of those namespaces that act outside the program; no traced encoder has one."""
_HOOKS: Final = (b"__setstate__", b"torch.classes")
"""What in a program's code would act while it is loaded."""


class CpuCompiler:
    """Traces a head to TorchScript."""

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
        flat = _Flat(head, [program.method for program in programs])
        inputs = {program.method: examples[program.shape] for program in programs}
        cast = nullcontext() if spec.auto_cast == "none" else AutoCastMode(spec.auto_cast, spec.auto_cast_type)
        with torch.no_grad(), warnings.catch_warnings(), cast:
            warnings.simplefilter("ignore")  # each Python branch on a shape warns; shapes are static here
            module: Any = torch.jit.trace_module(  # type: ignore[no-untyped-call]
                flat, inputs, check_trace=False, strict=False
            )
        _save(module, folder / PROGRAM_FILE)
        info = CompilerInfo(
            name="torch.jit.trace",
            auto_cast=spec.auto_cast,
            auto_cast_type=spec.auto_cast_type,
            versions={"torch": torch.__version__},
        )
        return Compiled(PROGRAM_FILE, programs, info)


class _Flat(torch.nn.Module):
    """A head as one module that holds all the weights, with a method for each program.

    The tracer would describe every submodule in the file (half of the time it takes), where only the weights matter.
    """

    def __init__(self, head: nn.Module, methods: list[str]) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that it is not registered as a submodule
        for name, weight in head.named_parameters():
            self.register_parameter(name.replace(".", "__"), weight)
        for name, value in head.named_buffers():
            self.register_buffer(name.replace(".", "__"), value)
        for method in methods:
            if method != "forward":
                setattr(self, method, self.forward)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self._head[0](*tensors)
        return outputs


class CpuRuntime:
    """Loads TorchScript programs and folds their weights."""

    def availability(self, target: str) -> Availability:
        """Always, for the CPU."""
        return _AVAILABLE if target == "cpu" else Availability(ok=False, reason="this backend runs on cpu only")

    def load(self, path: Path, manifest: Manifest) -> Mapping[StaticShape, Program]:
        """The programs of the file, by shape."""
        methods = [program.method for program in manifest.programs]
        try:
            _refuse_hooks(path)
            module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            _refuse_effects(module, methods, path)
            extra = [method for method in methods if method != "forward"]
            frozen = torch.jit.freeze(module, preserved_attrs=extra)
            return {program.shape: getattr(frozen, program.method) for program in manifest.programs}
        except (RuntimeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
            raise ArtifactCorruptError(path, f"is not a program for the cpu target ({first_line(error)})") from error


def compiler() -> Compiler:
    """The compiler of this backend."""
    return CpuCompiler()


def runtime() -> Runtime:
    """The runtime of this backend."""
    return CpuRuntime()


def _name_methods(shapes: tuple[StaticShape, ...]) -> tuple[ProgramSpec, ...]:
    # Other readers of this format run `forward`, so that is the one that takes the most.
    largest = max(shapes, key=lambda shape: (shape.tokens, shape.sequence_length))
    return tuple(
        ProgramSpec(
            batch_size=shape.batch_size,
            sequence_length=shape.sequence_length,
            num_choices=shape.num_choices,
            method="forward" if shape == largest else f"forward_{shape.name}",
        )
        for shape in shapes
    )


def _save(module: Any, path: Path) -> None:
    # TorchScript's writer aborts the whole process when the disk is full, so it is asked first whether the file fits.
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size + _FILE_OVERHEAD)
    torch.jit.save(module, str(path))


def _refuse_hooks(path: Path) -> None:
    """Look at the code of an archive before TorchScript does: loading it may already run some of it."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):  # two readers may take different ones
            raise ArtifactCorruptError(path, "holds two members of one name")
        for name in names:
            if "/code/" in name and name.endswith(".py"):
                code = archive.read(name)
                if any(hook in code for hook in _HOOKS):
                    raise ArtifactCorruptError(path, "has code that would run while it is loaded")


def _refuse_effects(module: Any, methods: list[str], path: Path) -> None:
    for method in methods:
        for kind in _kinds(getattr(module, method).inlined_graph):
            if kind in _FORBIDDEN or not kind.startswith(_NAMESPACES):
                raise ArtifactCorruptError(path, f"contains the operator {kind}, which no encoder needs")


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
