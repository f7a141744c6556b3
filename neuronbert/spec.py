"""What one export makes.

Owns: ExportSpec and the names of the auto-cast modes. Knows nothing of torch or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from neuronbert.errors import InvalidOptionError, InvalidShapeError
from neuronbert.shapes import StaticShape

AutoCast = Literal["none", "matmul", "all"]
AutoCastType = Literal["bf16", "fp16", "tf32", "fp8_e4m3"]
AUTO_CASTS: Final[tuple[AutoCast, ...]] = get_args(AutoCast)
AUTO_CAST_TYPES: Final[tuple[AutoCastType, ...]] = get_args(AutoCastType)


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """What one export makes: everything that decides the program.

    Attributes:
        model: A local checkpoint folder or a Hub id.
        shapes: The static shapes to compile, one program each, over one set of weights.
        task: The head's task (or a synonym that optimum knows); "auto" reads it off the checkpoint.
        revision: Branch, tag or commit of a Hub id.
        target: What to compile for: "cpu", or "auto" for the best that this machine has.
        auto_cast: Which operations are lowered to `auto_cast_type`: "none", "matmul" or "all".
        auto_cast_type: "bf16", "fp16", "tf32" or "fp8_e4m3".
        allow_random_weights: Initialise head weights that the checkpoint lacks, in place of refusing.

    Raises:
        InvalidOptionError: an option has a value that it can't take.
        InvalidShapeError: there is no shape, or one is given twice.
    """

    model: str
    shapes: tuple[StaticShape, ...]
    task: str = "auto"
    revision: str | None = None
    target: str = "auto"
    auto_cast: AutoCast = "matmul"
    auto_cast_type: AutoCastType = "bf16"
    allow_random_weights: bool = False

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidOptionError("model", self.model, "a checkpoint folder or a Hub id")
        for name, allowed in (("auto_cast", AUTO_CASTS), ("auto_cast_type", AUTO_CAST_TYPES)):
            if getattr(self, name) not in allowed:
                raise InvalidOptionError(name, getattr(self, name), "one of " + ", ".join(allowed))
        if not self.shapes or len(set(self.shapes)) != len(self.shapes):
            names = [shape.name for shape in self.shapes]
            raise InvalidShapeError("shapes", names, "at least one, and each only once")


def shapes_of(
    batch_sizes: tuple[int, ...] = (1,), sequence_lengths: tuple[int, ...] = (128,), num_choices: int | None = None
) -> tuple[StaticShape, ...]:
    """Every batch size with every sequence length, smallest program first."""
    shapes = {StaticShape(b, s, num_choices) for b in batch_sizes for s in sequence_lengths}
    return tuple(sorted(shapes, key=lambda shape: (shape.tokens, shape.sequence_length)))
