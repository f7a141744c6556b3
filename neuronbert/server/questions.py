"""What is asked of a model, and what it tells.

Owns: the forms of questions and answers, and of their pieces while they are under way. Knows nothing of who answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from neuronbert.pieces import Cut, Piece, Want


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a model at once.

    Attributes:
        rows: As the model's task takes them.
        want: What is asked for.
        cut: What becomes of rows that are too long.
        client: Who asks.
        size: Bytes of the request.
        after: What is done to the answers, in a thread that has a tokenizer.
    """

    rows: Sequence[dict[str, Any]]
    want: Want
    cut: Cut
    client: str
    size: int
    after: Callable[[list[Any]], list[Any]] | None = None


@dataclass(slots=True)
class Times:
    """What a request took, in seconds; of rows, the mean."""

    tokenization: float = 0.0
    queue: float = 0.0
    inference: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of a question.

    Attributes:
        values: For each row what Engine.merge gives.
        tokens: Of all rows, special tokens included.
        times: What it took.
    """

    values: list[Any]
    tokens: int
    times: Times


@dataclass(eq=False, slots=True)
class Asked:
    """A request whose pieces are under way."""

    done: asyncio.Future[None]
    left: int
    times: Times
    begun: float = field(default_factory=monotonic)


@dataclass(eq=False, slots=True)
class Slot:
    """One piece and what it is to tell."""

    asked: Asked
    piece: Piece
    found: Any = None
