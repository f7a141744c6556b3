"""Texts without labels to learn a model's own answers from: pages of Python's documentation, and docstrings.

Owns: Passages: how they are drawn. Knows nothing of models.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from torch import Tensor

_LEAST: Final = 120
"""Characters of a docstring that says something."""
_WHOLE: Final = 2000
"""Characters that a module's docstrings have together, at least."""
_LEFT_OUT: Final = frozenset({"test", "tests", "idle_test", "idlelib", "site-packages", "lib2to3"})
_PAGES: Final = 0.5
"""The share of passages that are of the pages."""
_SPLICED: Final = 0.5
"""The share of passages that are made of two."""
_SHORTEST: Final = 60
"""Tokens of a part of a spliced passage."""
_SAME: Final = 12
"""So many words in a row are no chance: one text has them from the other."""


class Passages:
    """Passages of one length, drawn at random.

    Args:
        tokenizer: A fast tokenizer of BERT's kind.
        pages: The texts of pages, which half of the passages are of.
        others: Texts for the other half.
        length: Tokens of a passage, with the two that are special.
    """

    def __init__(self, tokenizer: Any, pages: Sequence[str], others: Sequence[str], length: int) -> None:
        self._first, self._last = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._size = length - 2
        self._sources = [self._long(tokenizer, texts) for texts in (pages, others)]

    def _long(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        found = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
        return [ids for ids in found if len(ids) >= self._size]

    def draw(self, number: int, chance: Random) -> Tensor:
        """So many of them.

        Returns:
            Token ids of shape (number, length), int64.
        """
        return torch.tensor([[self._first, *self._inside(chance), self._last] for _ in range(number)])

    def _inside(self, chance: Random) -> list[int]:
        if chance.random() >= _SPLICED:
            return self._stretch(self._size, chance)
        size = chance.randint(_SHORTEST, self._size - _SHORTEST)
        return self._stretch(size, chance) + self._stretch(self._size - size, chance)

    def _stretch(self, size: int, chance: Random) -> list[int]:
        source = self._sources[chance.random() >= _PAGES]
        (ids,) = chance.choices(source, [len(ids) for ids in source])
        first = chance.randint(0, len(ids) - size)
        return ids[first : first + size]


def docstrings(unlike: Sequence[str]) -> list[str]:
    """The docstrings of each module of the standard library that has enough of them, joined.

    Args:
        unlike: Texts that aren't to be learned from. A module that shares twelve words in a row with one is left out.
    """
    held_back = {run for text in unlike for run in _runs(text)}
    return [text for text in _modules() if held_back.isdisjoint(_runs(text))]


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[first:] for first in range(_SAME)), strict=False)


@cache
def _modules() -> tuple[str, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted([*root.glob("*.py"), *root.glob("*/*.py")])
    texts = (" ".join(_docstrings(path)) for path in files if not _LEFT_OUT & set(path.relative_to(root).parts))
    return tuple(text for text in texts if len(text) >= _WHOLE)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # some are there to be wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            text = ast.get_docstring(node) or ""
            if len(text) > _LEAST:
                yield " ".join(text.split())
