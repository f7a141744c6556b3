"""How messages show what they are about.

Owns: the forms of values, lists and other libraries' errors. Every one is printable and a single line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN: Final = 40
"""Characters of a value that a message quotes."""


def listed(values: Sequence[object]) -> str:
    """Values one after the other."""
    return ", ".join(str(value) for value in values)


def short(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def shape(dims: Sequence[int]) -> str:
    """The dimensions of a tensor."""
    return "[" + ", ".join(str(dim) for dim in dims) + "]"


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line and without its full stop; or its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def printable(text: str) -> str:
    """A text in one line: what is from outside may hold line breaks, or the codes that a terminal obeys."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
