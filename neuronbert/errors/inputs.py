"""A call's tensors or texts can't be used.

Owns: the errors of what is given to a model; those of one row of several say which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronbert.errors.base import UsageError
from neuronbert.errors.wording import listed, shape, short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


class InputError(UsageError, ValueError):
    """A call's tensors or texts can't be used."""


class MissingInputError(InputError):
    """An input without a default is missing."""

    def __init__(self, name: str, given: Sequence[str]) -> None:
        super().__init__(f"{name} is missing; given: {listed(given) or 'nothing'}.")


class InputTypeError(InputError, TypeError):
    """An input that is neither a tensor nor an array."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(
            f"{name} is a {found}, not a dense torch.Tensor or a numpy array. "
            'Call the tokenizer with return_tensors="pt" (or "np") and padding=True.'
        )


class InputDtypeError(InputError):
    """An input whose numbers aren't whole."""

    def __init__(self, name: str, dtype: object) -> None:
        super().__init__(f"{name} has dtype {dtype}; it must hold integers, as torch.int64.")


class InputRankError(InputError):
    """An input with the wrong number of dimensions."""

    def __init__(self, name: str, dims: Sequence[int], expected: Sequence[str]) -> None:
        super().__init__(f"{name} has shape {shape(dims)}; it must be [{listed(expected)}].")


class InputShapeError(InputError):
    """Inputs whose shapes differ from each other."""

    def __init__(self, name: str, dims: Sequence[int], first: str, expected: Sequence[int]) -> None:
        super().__init__(f"{name} has shape {shape(dims)}, but {first} has {shape(expected)}; they must be equal.")


class InputRangeError(InputError):
    """A value outside what the model has an entry for."""

    def __init__(self, name: str, low: int, high: int, maximum: int) -> None:
        value = low if low < 0 else high
        super().__init__(
            f"{name} holds {value}; its values must be from 0 to {maximum}. Was another model's tokenizer used?"
        )


class InputDeviceError(InputError):
    """An input that isn't on the CPU, from where programs take theirs."""

    def __init__(self, name: str, device: object) -> None:
        super().__init__(
            f"{name} is on {device}, but programs take their inputs from the CPU, whatever device they run on. "
            "Move it there with its method cpu."
        )


class MaskedRowError(InputError):
    """A row without a token that it may attend to: nothing says what its answer would be."""

    def __init__(self, row: int) -> None:
        super().__init__(f"attention_mask masks out the whole of row {row}. Leave the row out, or attend to a token.")


class EmptyInputError(InputError):
    """Nothing to run on."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is empty; give at least one.")


class BatchTooLargeError(InputError):
    """More rows (or choices) than any compiled shape holds."""

    def __init__(self, what: str, got: int, limit: int, option: str) -> None:
        super().__init__(
            f"The call has {got} {what}, but this artifact was compiled for up to {limit}. "
            f"Split the call, or export again with {option} {got}."
        )


class SequenceTooLongError(InputError):
    """Longer rows than any compiled shape holds."""

    def __init__(self, got: int, limit: int, *, row: int = 0, others: int = 0) -> None:
        more = f" ({others} more {'is' if others == 1 else 'are'} too long)" if others else ""
        super().__init__(
            f"Row {row}, the longest, has {got} tokens, but this artifact was compiled for up to {limit}{more}. "
            f"Truncate with tokenizer(..., truncation=True, max_length={limit}) or predict --truncate, "
            "or export again with a longer --sequence-length."
        )


class OutputsTooLargeError(InputError):
    """Outputs that don't fit in memory."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__(
            f"The outputs of {rows} rows take {size / 1e9:.1f} GB, which this machine doesn't give. "
            "Call with fewer rows at a time, or use predict, which keeps the answers only."
        )


class TooManyIdsError(InputError):
    """More token ids than are made, or made texts of, at once."""

    def __init__(self, name: str, got: int, most: int) -> None:
        super().__init__(f"{name} take {got} token ids, and may take {most} in all. Ask for fewer at once.")


class TextError(InputError):
    """A row of text that has no answer for this task.

    Attributes:
        row: Which of several rows it is, from 0.
        problem: The message without it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.row = 0
        self.problem = str(self)

    def of_row(self, row: int) -> Self:
        """The same error, whose message says which of several rows it is."""
        self.row = row
        self.args = (f"Row {row}: {self.problem}",)
        return self


class MissingTextError(TextError):
    """A row without a text that the task takes."""

    def __init__(self, name: str, given: Sequence[str]) -> None:
        super().__init__(f"A row for this task needs {name!r}; this one has {listed(given) or 'nothing'}.")


class NotATextError(TextError):
    """Something else where a text must be."""

    def __init__(self, name: str, found: object, expected: str) -> None:
        super().__init__(f"{name!r} holds {type(found).__name__} {short(found)}; it must hold {expected}.")


class EmptyTextError(TextError):
    """A text of nothing but white space."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The {name} is empty: there is nothing to answer.")


class InvalidTextError(TextError):
    """A text that can't be encoded."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The {name} is not valid Unicode: it holds a lone surrogate.")


class NoNumberError(TextError):
    """A text for which the model computed what is no number."""

    def __init__(self) -> None:
        super().__init__(
            "Its vector holds a value that is no number (NaN or infinite). "
            "See what the artifact does: neuronbert validate."
        )


class RowTooLongError(TextError):
    """A row that is longer than every program, where it may not be cut."""

    def __init__(self, got: int, limit: int, *, may_be_cut: bool) -> None:
        advice = "Shorten it, or allow it to be truncated" if may_be_cut else "Shorten it"
        super().__init__(f"It has {got} tokens, and may have {limit}. {advice}.")


class QuestionTooLongError(TextError):
    """A question that leaves no room for its context."""

    def __init__(self, got: int, limit: int) -> None:
        super().__init__(
            f"The question takes {got} of the {limit} tokens that this artifact was compiled for, and leaves none for "
            "its context. Shorten it, or export again with a longer --sequence-length."
        )


class NoMaskError(TextError):
    """A text without the token that is to be filled in."""

    def __init__(self, mask: str) -> None:
        super().__init__(f"There is nothing to fill in: write {mask} where a word is missing.")
