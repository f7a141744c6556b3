"""The memory of a NeuronCore that the programs of an artifact take together.

Owns: the estimate, and what surely doesn't fit. Source: neuron-runtime/explore/device-memory of the SDK's documentation
(as of SDK 2.32.0): each program has its own constants; scratchpad is shared, as large as the largest program's, since a
core runs one program at a time. Compared with no device. Knows nothing of how a graph is had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuronbert.errors import DeviceMemoryError
from neuronbert.targets import GIB, TARGETS

if TYPE_CHECKING:
    from neuronbert.preflight.graphs import Graph
    from neuronbert.spec import ExportSpec

CODE_BYTES: Final = 96 << 20
"""The micro-code on each physical core."""
_WIDTHS: Final = {"bf16": 2, "fp16": 2, "tf32": 1, "fp8_e4m3": 4}
"""By how much an auto-cast may shrink the weights. Whether they are kept as they are cast isn't documented."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the programs of an artifact take on a core.

    Attributes:
        target: Of what kind it is.
        programs: How many there are.
        copies: How often the weights lie there.
        weights_bytes: The weights, in fp32.
        other_bytes: Micro-code, and the inputs and outputs of the largest program.
        between_bytes: Its values between operators, each kept until its last use; a compiler that fuses operators
            needs less.
        shrink: By how much the weights may be smaller than in fp32.
    """

    target: str
    programs: int
    copies: int
    weights_bytes: int
    other_bytes: int
    between_bytes: int
    shrink: int

    @classmethod
    def of(cls, spec: ExportSpec, largest: Graph, rows: int, *, shared: bool) -> Footprint:
        """What an export's programs take.

        Args:
            spec: With its target resolved.
            largest: The program with the most tokens, recorded with one row.
            rows: Its rows.
            shared: Whether the programs share their weights.
        """
        return cls(
            target=spec.target,
            programs=len(spec.shapes),
            copies=1 if shared else len(spec.shapes),
            weights_bytes=largest.weights_bytes,
            other_bytes=CODE_BYTES * (spec.lnc or TARGETS[spec.target].lncs[-1]) + rows * largest.io_bytes,
            between_bytes=rows * largest.peak_bytes,
            shrink=1 if spec.auto_cast == "none" else _WIDTHS[spec.auto_cast_type],
        )

    @property
    def limit_bytes(self) -> int:
        """The memory that a core has at most."""
        return TARGETS[self.target].hbm_bytes

    @property
    def need_bytes(self) -> int:
        """What they take with the weights in fp32, and nothing fused."""
        return self.copies * self.weights_bytes + self.other_bytes + self.between_bytes

    @property
    def least_bytes(self) -> int:
        """What they surely take."""
        return self.copies * self.weights_bytes // self.shrink + self.other_bytes

    @property
    def notable(self) -> bool:
        """Whether it is worth a word: there are several programs, or it may not fit."""
        return self.programs > 1 or self.need_bytes > self.limit_bytes

    @property
    def summary(self) -> str:
        """The need in words."""
        copies = f"{self.copies} copies" if self.copies > 1 else "1 copy"
        return (
            f"{self.programs} programs take up to {self.need_bytes / GIB:.2f} GiB of the {self.limit_bytes / GIB:.0f} "
            f"GiB of a NeuronCore ({self.target}): {copies} of {self.weights_bytes / GIB:.2f} GiB of weights, "
            f"{(self.other_bytes + self.between_bytes) / GIB:.2f} GiB for the rest. An estimate"
        )

    def check(self) -> None:
        """Refuse what can't fit.

        Raises:
            DeviceMemoryError: not even the least that is needed does.
        """
        if self.least_bytes <= self.limit_bytes:
            return
        room = self.limit_bytes - self.other_bytes
        most = room * self.shrink // max(1, self.weights_bytes) if self.copies > 1 else 0
        raise DeviceMemoryError(self.target, self.programs, self.least_bytes, self.limit_bytes, max(0, most))
