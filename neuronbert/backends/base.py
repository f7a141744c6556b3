"""The port between the library and a backend: two protocols and what crosses them.

Owns: Compiler, Runtime, Program, Placement, Availability. Knows nothing of any vendor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from neuronbert.errors import InvalidOptionError

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

    programs: tuple[ProgramSpec, ...]
    compiler: CompilerInfo


@dataclass(frozen=True, slots=True)
class Placement:
    """Where on a device programs go.

    Attributes:
        first_core: The first NeuronCore, counted from 0 among those that the process sees; None lets the device choose.
        cores: How many cores get a copy; calls go round them.

    Raises:
        InvalidOptionError: there is no such core, or none.
    """

    first_core: int | None = None
    cores: int = 1

    def __post_init__(self) -> None:
        if self.first_core is not None and self.first_core < 0:
            raise InvalidOptionError("first_core", self.first_core, "0 or more, or left out")
        if self.cores < 1:
            raise InvalidOptionError("cores", self.cores, "1 or more")


ANYWHERE: Final = Placement()


class Program(Protocol):
    """One compiled program of one static shape: the inputs in order, exactly of that shape, to the outputs in order.

    With a dynamic batch, the first dimension of the inputs may be of any size.
    """

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""


class Compiler(Protocol):
    """Compiles a head for a target; needs no device that runs the result.

    Attributes:
        options: Which of the spec's TARGET_OPTIONS it takes.
    """

    options: frozenset[str]

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
            CompilationFailedError: the compiler refused, or ended.
            StorageError: the folder can't be written.
        """


class Runtime(Protocol):
    """Loads what the compiler of the same backend left."""

    def availability(self, target: str) -> Availability:
        """Whether a program for this target can run on this machine."""

    def load(self, folder: Path, manifest: Manifest, placement: Placement) -> Mapping[StaticShape, Program]:
        """The programs in a verified artifact's folder.

        Raises:
            ArtifactCorruptError: a file isn't what the manifest says.
            DeviceError: the device didn't take them.
        """

    def replace_weights(self, programs: Mapping[StaticShape, Program], weights: Mapping[str, Tensor]) -> None:
        """Let loaded programs go on with other weights.

        Args:
            programs: What `load` gave.
            weights: By the names of the head's state_dict.

        Raises:
            UnsupportedFeatureError: they were compiled with their weights inside.
        """
