"""Python's bundled documentation of its own language (`pydoc_data.topics`) as plain text, split into blocks.

Owns: what is text and what is a heading, a table, an example or a grammar; which topic a paragraph belongs to; which
blocks are held out; and cutting passages. Knows nothing of tasks, models or labels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK: Final = 512
"""Tokens that a block has at least: enough for a long passage."""
EVERY: Final = 4
"""One block of so many neighbours is held out."""
STEP: Final = 3
"""How much further to the right the description of something stands than its name."""
_RULE: Final = re.compile(r"[\s*=~^|+-]*")
"""A line that is only drawn: under a heading, or in a table."""
_NOT_PROSE: Final = re.compile(r">>> |\.\.\. |[\w-]+\s+::= |\(?Pdb\)|\s*\|")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of prose, or the line over one.

    Attributes:
        text: With single spaces for all white space; its markup ("code", *term*) stands as in the documentation.
        indent: How far it is moved to the right.
    """

    text: str
    indent: int


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring paragraphs of one topic.

    Attributes:
        topic: Its name in `pydoc_data.topics`.
        paragraphs: In order.
        held_out: Whether it is kept from training.
    """

    topic: str
    paragraphs: tuple[Paragraph, ...]
    held_out: bool

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(paragraph.text for paragraph in self.paragraphs)


@cache
def paragraphs() -> dict[str, tuple[Paragraph, ...]]:
    """The paragraphs of each topic.

    A paragraph that several topics hold, as a chapter holds its sections, belongs to the shortest of them, so that none
    is there twice.
    """
    found: dict[str, tuple[Paragraph, ...]] = {}
    seen: set[str] = set()
    for name in sorted(topics, key=lambda name: (len(topics[name]), name)):
        own = []
        for paragraph in _read(topics[name]):
            if paragraph.text not in seen:
                seen.add(paragraph.text)
                own.append(paragraph)
        found[name] = tuple(own)
    return {name: found[name] for name in sorted(found)}


def _read(text: str) -> Iterator[Paragraph]:
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [line for line in part.split("\n") if line.strip()]
        if any(_RULE.fullmatch(line) or _NOT_PROSE.match(line.lstrip()) for line in lines):
            continue  # a heading, a table, an example or a grammar
        if len(lines) > 1 and min(map(_indent, lines[1:])) == _indent(lines[0]) + STEP:
            yield Paragraph(" ".join(lines[0].split()), _indent(lines[0]))  # a term, and what is said of it
            lines = lines[1:]
        if lines:
            yield Paragraph(" ".join("\n".join(lines).split()), _indent(lines[0]))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def blocks(tokenizer: Any) -> list[Block]:
    """The whole text in blocks, topic by topic.

    Of a topic's blocks the second, the sixth and so on are held out: one of four neighbours. A topic that is a single
    block is held out whole, if it is one of four such topics.

    Args:
        tokenizer: What tokens are counted with.
    """
    found: list[Block] = []
    singles = count()
    for name, whole in paragraphs().items():
        cut = _cut(tokenizer, whole)
        first = next(singles) if len(cut) == 1 else 0
        found += [Block(name, own, place % EVERY == 1) for place, own in enumerate(cut, start=first)]
    return found


def _cut(tokenizer: Any, whole: Sequence[Paragraph]) -> list[tuple[Paragraph, ...]]:
    if not whole:
        return []
    texts = [paragraph.text for paragraph in whole]
    sizes = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    left, size, places = sum(sizes), 0, [0]
    for place, tokens in enumerate(sizes):
        size, left = size + tokens, left - tokens
        if size >= BLOCK and left >= BLOCK:  # what is left must make a block too
            places.append(place + 1)
            size = 0
    return [tuple(whole[first:last]) for first, last in pairwise([*places, len(whole)])]


def windows(tokenizer: Any, text: str, size: int, stride: int) -> list[tuple[int, int]]:
    """Stretches of a text with at most so many tokens, each beginning so many after the one before, cut between words.

    Args:
        tokenizer: A fast tokenizer that splits at white space first, as BERT's does.
        text: With single spaces. One that is too short for a whole window has none.
        size: Tokens of a window.
        stride: Tokens between the beginnings, at least.

    Returns:
        Where each begins and ends in the text, in characters.
    """
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    words = [index for index, (start, _) in enumerate(places) if start == 0 or text[start - 1] == " "]
    ends = [*words[1:], len(places)]
    found, least = [], 0
    for first in words:
        last = max((end for end in ends if first < end <= first + size), default=0)
        if last and first >= least and first + size <= len(places):
            found.append((places[first][0], places[last - 1][1]))
            least = first + stride
    return found
