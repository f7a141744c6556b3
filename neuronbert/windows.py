"""What of a tokenized text goes into a program as one row: all of it, or overlapping stretches.

Owns: Window and cutting. Knows nothing of tasks, tensors or programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuronbert.errors import InvalidOptionError, QuestionTooLongError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of one text or pair.

    Attributes:
        encoding: What a fast tokenizer made of the whole of it (tokenizers.Encoding).
        places: Which of its tokens, in order; special tokens are among them.
    """

    encoding: Any
    places: Sequence[int]

    @classmethod
    def whole(cls, encoding: Any) -> Window:
        """All the tokens."""
        return cls(encoding, range(len(encoding)))

    def __len__(self) -> int:
        return len(self.places)

    def take(self, name: str) -> list[Any]:
        """One thing about each token.

        Args:
            name: "ids", "type_ids", "offsets", "word_ids", "sequence_ids" or "special_tokens_mask".
        """
        values: list[Any] = getattr(self.encoding, name)
        return values if len(self.places) == len(values) else [values[place] for place in self.places]

    def stretch(self, sequence: int) -> range:
        """Which tokens of the encoding it holds of the first (0) or the second (1) text."""
        held = [place for place, of in zip(self.places, self.take("sequence_ids"), strict=True) if of == sequence]
        return range(held[0], held[-1] + 1)


def cut(encoding: Any, sequence: int, length: int, stride: int) -> list[Window]:
    """Windows of a program's length over a text that may be longer, each with all that stands around the text.

    They begin where a tokenizer's own do (`return_overflowing_tokens`): the last one may be shorter.

    Args:
        encoding: Of the whole text or pair.
        sequence: Which text is cut: the first (0) or the second (1).
        length: Tokens in a window, special tokens and the other text included.
        stride: Tokens that neighbouring windows share.

    Raises:
        QuestionTooLongError: what stands around the text leaves no room for it.
        InvalidOptionError: the windows would not get on.
    """
    window = Window.whole(encoding)
    if len(window) <= length:
        return [window]
    text = window.stretch(sequence)
    around = len(window) - len(text)
    room = length - around
    if room < 1:
        raise QuestionTooLongError(around, length)
    if stride >= room:
        raise InvalidOptionError("stride", stride, f"less than {room}, which is what a window holds of this text")
    before, after = range(text.start), range(text.stop, len(window))
    starts = range(text.start, text.stop - stride, room - stride)
    return [Window(encoding, (*before, *text[start - text.start :][:room], *after)) for start in starts]
