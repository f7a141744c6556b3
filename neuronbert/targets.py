"""What the kinds of Neuron instances allow.

Owns: the limits of each target. Knows nothing of compilers or programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Target:
    """What a kind of instance allows.

    Attributes:
        name: As the compiler's --target takes it.
        core: The generation of its NeuronCores.
        hbm_bytes: The memory that one core can use at most. On Trn2 and Trn3 it is that of a stack of memory, which two
            cores share.
        lncs: How many physical cores a logical one may have.
    """

    name: str
    core: int
    hbm_bytes: int
    lncs: tuple[int, ...]


# Sources: about-neuron/arch/neuron-hardware and logical-neuroncore-config of the SDK's documentation; for the stacks of
# Trn3, nki/guides/architecture/trainium3_arch.
TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (
        Target("inf2", 2, 16 * GIB, (1,)),
        Target("trn1", 2, 16 * GIB, (1,)),
        Target("trn1n", 2, 16 * GIB, (1,)),
        Target("trn2", 3, 24 * GIB, (1, 2)),
        Target("trn3", 4, 36 * GIB, (1, 2)),
    )
}
