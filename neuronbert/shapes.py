"""Static shapes.

Owns: StaticShape, as plain integers. Knows nothing of tensors or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuronbert.errors import InvalidShapeError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TOKENS = 1 << 20
"""Tokens one program may take in one call; 2**20 is 2048 rows of 512. More is a slip of the keyboard."""


@dataclass(frozen=True, slots=True)
class StaticShape:
    """The shape one program is compiled for.

    Attributes:
        batch_size: Rows in a call (for multiple choice: questions).
        sequence_length: Tokens in a row.
        num_choices: Choices to a question; None for every other task.
    """

    batch_size: int
    sequence_length: int
    num_choices: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "sequence_length", "num_choices"):
            value = getattr(self, name)
            if value is None and name == "num_choices":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidShapeError(name, value, "a whole number, 1 or more")
            if value > MAX_TOKENS:
                raise InvalidShapeError(name, f"more than {MAX_TOKENS}", "less")
        if self.tokens > MAX_TOKENS:
            raise InvalidShapeError("shape", self.name, f"at most {MAX_TOKENS} tokens in all, this is {self.tokens}")

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions of every input: (batch, sequence) or (batch, choices, sequence)."""
        if self.num_choices is None:
            return (self.batch_size, self.sequence_length)
        return (self.batch_size, self.num_choices, self.sequence_length)

    @property
    def name(self) -> str:
        """The dimensions joined by x: "1x128", or "1x4x128" for multiple choice."""
        return "x".join(str(dim) for dim in self.dims)

    @property
    def tokens(self) -> int:
        """How many tokens one call holds."""
        return self.batch_size * self.sequence_length * (self.num_choices or 1)

    def order(self) -> tuple[int, int]:
        """By this the smallest program comes first."""
        return self.tokens, self.sequence_length


def check_choices(shapes: Iterable[StaticShape], *, needed: bool) -> None:
    """Refuse shapes without a number of choices for a task that has them, and with one for any other.

    Raises:
        InvalidShapeError: a shape is of the wrong kind.
    """
    for shape in shapes:
        if (shape.num_choices is not None) != needed:
            expected = "given for multiple-choice, and for no other task (--num-choices)"
            raise InvalidShapeError("num_choices", shape.num_choices, expected)
