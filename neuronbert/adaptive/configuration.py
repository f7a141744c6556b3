"""Length configurations: how many tokens go on after the attention of each layer.

Owns: reading, checking and scaling them, lists of layers, and the names of the ways to move tokens. Knows nothing of
models, files or frameworks.
The form is that of a checkpoint's config.json: a literal tuple, "(315, 251, 242, 159, 142, 33)". It is never evaluated.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, get_args

from neuronbert.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

Lengths = tuple[int, ...]
Selection = Literal["gather", "one-hot"]
SELECTIONS: Final[tuple[Selection, ...]] = get_args(Selection)

LEAST: Final = 2
"""Tokens that a layer keeps at least."""
_LITERAL: Final = re.compile(r"(\(?)(\[?)( *[0-9]{1,7} *(?:, *[0-9]{1,7} *)*,? *)(\]?)(\)?)", re.ASCII)
_LONGEST: Final = 16_384
"""Characters of a literal; a thousand layers take fewer."""
_ANY_NUMBERS: Final = re.compile(r"[(\[]? *-?[0-9]+ *(?:, *-?[0-9]+ *)*,?[ )\]]*", re.ASCII)
"""As a literal, but for the numbers' sizes: what is refused for those is told so."""
_MOST: Final = 9_999_999
_ALL: Final = "all"
_SHOWN: Final = 60
_NUMBERS: Final = "whole numbers joined by commas, as in (96, 80, 64)"


def parse(name: str, text: str) -> Lengths:
    """The numbers of a literal: "(96, 80, 64)", "[96, 80, 64]" or "96, 80, 64".

    Args:
        name: What is read, for the error.
        text: The literal.

    Raises:
        InvalidOptionError: it is anything else.
    """
    match = _LITERAL.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    opened, listed, numbers, closed, ended = match.groups() if match else ("(", "", "", "", "")
    if bool(opened) != bool(ended) or bool(listed) != bool(closed) or (opened and listed):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise InvalidOptionError(name, shown, _expected(name, text.strip()) if match is None else _NUMBERS)
    return tuple(int(number) for number in numbers.split(",") if number.strip())


def _expected(name: str, text: str) -> str:
    if len(text) > _LONGEST or _ANY_NUMBERS.fullmatch(text) is None:
        return _NUMBERS
    if "-" not in text:
        return f"numbers of at most {_MOST}"
    return f"numbers of tokens, each {LEAST} or more" if name == "length_config" else "numbers of 0 or more"


def stored(name: str, value: object) -> Lengths | None:
    """The numbers that config.json holds: a literal, as dynamic BERT writes it, or an array.

    Raises:
        InvalidOptionError: it holds anything else.
    """
    if value == _ALL:
        raise InvalidOptionError(name, value, f"{_NUMBERS}; {_ALL!r} is the command line's word for what is None here")
    if value is None or isinstance(value, str):
        return None if value is None else parse(name, value)
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    if not are_numbers(numbers):
        raise InvalidOptionError(name, repr(value)[:_SHOWN], _NUMBERS)
    return numbers


def spell(lengths: Sequence[int]) -> str:
    """The literal that config.json holds."""
    return str(tuple(lengths))


def are_numbers(value: object) -> bool:
    """Whether it is a tuple of whole numbers, with at least one."""
    return isinstance(value, tuple) and bool(value) and all(type(item) is int for item in value)


def check_order(lengths: Lengths) -> None:
    """Refuse what is a length configuration of no model.

    Raises:
        InvalidOptionError: they aren't whole numbers of 2 or more of which none is larger than the one before it.
    """
    if not are_numbers(lengths):
        raise InvalidOptionError("length_config", lengths, _NUMBERS)
    if min(lengths) < LEAST:
        raise InvalidOptionError("length_config", spell(lengths), f"numbers of tokens, each {LEAST} or more")
    for before, after in pairwise(lengths):
        if after > before:
            expected = f"non-increasing, as dropped tokens don't come back: {after} follows {before}"
            raise InvalidOptionError("length_config", spell(lengths), expected)


def check(lengths: Lengths, layers: int, sequence_length: int) -> None:
    """Refuse what isn't a length configuration of a model for rows of a length.

    Args:
        lengths: One number for each layer of the model, whether it is run or not.
        layers: How many layers it has.
        sequence_length: Tokens of a row.

    Raises:
        InvalidOptionError: they are too many, too few, too large, too small or in another order.
    """
    check_order(lengths)
    if len(lengths) != layers:
        expected = f"one number for each of the model's {layers} layers, not {len(lengths)}"
        raise InvalidOptionError("length_config", spell(lengths), expected)
    if lengths[0] > sequence_length:
        expected = f"no longer than the {sequence_length} tokens of a row: {lengths[0]} can't be kept"
        raise InvalidOptionError("length_config", spell(lengths), expected)


def check_lengths_fit(lengths: Lengths, rows: Sequence[int]) -> None:
    """Refuse what isn't a length configuration of any model for the longest of some rows, and scaled for the others.

    Raises:
        InvalidOptionError: they are too large, too small or in another order; or a row is too short for any.
    """
    check(lengths, len(lengths) if are_numbers(lengths) else 0, max(rows))
    scale(lengths, max(rows), min(rows))


def check_layers(chosen: Lengths, layers: int) -> None:
    """Refuse what doesn't say which layers of a model are run.

    Raises:
        InvalidOptionError: there is none, one is given twice or out of order, or the model has no such layer.
    """
    if not are_numbers(chosen):
        raise InvalidOptionError("layer_config", chosen, "layers by number, with at least one, as in (0, 2, 4)")
    if chosen[0] < 0 or chosen[-1] >= layers or any(before >= after for before, after in pairwise(chosen)):
        expected = f"in order, each once, and from 0 to {layers - 1}: the model has {layers} layers"
        raise InvalidOptionError("layer_config", spell(chosen), expected)


def scale(lengths: Lengths, made_for: int, sequence_length: int) -> Lengths:
    """The configuration for rows of another length: the same shares of a row, rounded up, and at least 2.

    Args:
        lengths: A configuration.
        made_for: The length of the rows that it is for.
        sequence_length: The length of those that it is to be for.
    """
    if sequence_length < LEAST:
        expected = f"{LEAST} or more with a length_config, which keeps that many tokens at least"
        raise InvalidOptionError("sequence_length", sequence_length, expected)
    return tuple(max(LEAST, -(-length * sequence_length // made_for)) for length in lengths)
