"""The port between the library and a backend: two protocols and what crosses them.

Owns: Compiler, Runtime, Program, Availability. Knows nothing of any vendor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from neuronbert.manifest import CompilerInfo, Manifest, ProgramSpec
    from neuronbert.shapes import StaticShape
    from neuronbert.spec import ExportSpec


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether something can be done here, and if not, why."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiler left in the output folder."""

    file: str
    programs: tuple[ProgramSpec, ...]
    compiler: CompilerInfo


class Program(Protocol):
    """One compiled program of one static shape: the inputs in order, exactly of that shape, to the outputs in order."""

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""


class Compiler(Protocol):
    """Compiles a head for a target; needs no device that runs the result."""

    def availability(self, target: str) -> Availability:
        """Whether this compiler can compile for a target on this machine."""

    def compile(
        self,
        head: nn.Module,
        examples: Mapping[StaticShape, tuple[Tensor, ...]],
        spec: ExportSpec,
        folder: Path,
    ) -> Compiled:
        """Compile a program for each shape and leave them, over one set of weights, in a folder.

        Args:
            head: Positional tensors in, a tuple of tensors out; in eval mode.
            examples: Inputs of each static shape, in the spec's order.
            spec: The compiler's settings.
            folder: A staged folder.

        Raises:
            StorageError: the folder can't be written.
        """


class Runtime(Protocol):
    """Loads what the compiler of the same backend left."""

    def availability(self, target: str) -> Availability:
        """Whether a program for this target can run on this machine."""

    def load(self, path: Path, manifest: Manifest) -> Mapping[StaticShape, Program]:
        """The programs in a verified file.

        Raises:
            ArtifactCorruptError: the file isn't what the manifest says.
        """
