"""What the kinds of Neuron instances are, and what they allow.

Owns: the facts of each target. Knows nothing of compilers, programs or this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB: Final = 1 << 30

Kind = Literal["trace", "native"]
"""A library: the one on PyTorch/XLA with torch_neuronx.trace, or TorchNeuron."""
LogicalCores = Literal[1, 2]
"""How many physical cores make one that programs see."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a kind of instance is, and what it allows.

    Attributes:
        name: As the compiler's --target takes it.
        chip: The target that stands for its chips: programs for one run on the other.
        kinds: The libraries that serve it, the one that compiles without a device first.
        core: The generation of its NeuronCores.
        cores: How many physical ones a device has.
        hbm_bytes: The memory that one core can use at most. On Trn2 and Trn3 it is that of a stack of memory, which two
            cores share.
        lncs: How many physical cores a logical one may have; the last is what compiler and runtime take by default.
    """

    name: str
    chip: str
    kinds: tuple[Kind, ...]
    core: int
    cores: int
    hbm_bytes: int
    lncs: tuple[LogicalCores, ...]

    @property
    def default_lnc(self) -> LogicalCores:
        """Physical cores to a logical one where nobody says how many."""
        return self.lncs[-1]

    @property
    def has_lnc(self) -> bool:
        """Whether there is anything to say about it: elsewhere the compiler has no such flag."""
        return len(self.lncs) > 1


# Sources, in the SDK's documentation: about-neuron/arch/neuron-hardware (for trn1n's chips, its trn1-arch) and
# logical-neuroncore-config; for the stacks of Trn3, nki/guides/architecture/trainium3_arch; for the libraries,
# torch/about-pytorch-neuron.
TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (
        Target("inf2", "inf2", ("trace",), 2, 2, 16 * GIB, (1,)),
        Target("trn1", "trn1", ("trace",), 2, 2, 16 * GIB, (1,)),
        Target("trn1n", "trn1", ("trace",), 2, 2, 16 * GIB, (1,)),
        Target("trn2", "trn2", ("trace", "native"), 3, 8, 24 * GIB, (1, 2)),
        Target("trn3", "trn3", ("native",), 4, 8, 36 * GIB, (1, 2)),
    )
}
