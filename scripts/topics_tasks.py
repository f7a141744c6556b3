"""Three tasks made of Python's documentation, each with rows to train on and rows that are held out.

Owns: the tasks, their rows and their labels. Rows are those of the library's labelled files (`neuronbert validate
--data`, `neuronbert predict --file`). Every label follows from the documentation's own text; none is a judgement:

- sections: which topic a passage is from. Routing of text to the chapter it belongs to.
- markup: which words of a text are code and which are terms, where the documentation prints "code" and *term*; the
  marks are taken away. Finding the names of things in technical prose, as named entity recognition does.
- entries: where a passage of a manual says what an entry is. The question is the entry's own line (the signature of a
  method, a command, a type), the answer the first sentence of its description.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from topics_text import STEP, Block, blocks, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Row = dict[str, Any]

LEAST: Final = 3
"""Blocks that a topic must have to be a class."""
LABELS: Final = ("O", "B-CODE", "I-CODE", "B-TERM", "I-TERM")
MAX_ANSWER: Final = 30
"""Tokens of the longest answer: what is looked for in question answering (neuronbert.spans)."""
_MAX_NAME: Final = 12
"""Words of the longest line that names an entry."""
_SPECIAL: Final = {"text-classification": 2, "token-classification": 2, "question-answering": 3}
_MARKED: Final = re.compile(
    r"(?<![\w\"])\"(?P<code>\S(?:.*?\S)??)\"(?![\w\"])|(?<![\w*])\*(?P<term>[^\s*](?:[^*]*?[^\s*])??)\*(?![\w*])"
)
_SENTENCE: Final = re.compile(r"(?:[A-Z\"].*?\.)(?=\s+[A-Z\"*(“]|$)")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A task's rows.

    Attributes:
        name: Of the task and its length.
        task: The task in the library's words.
        length: Tokens of the longest row.
        labels: Their names; none for question answering.
        train: Rows to train on.
        held_out: Rows of blocks that no row to train on is of. They overlap each other.
    """

    name: str
    task: str
    length: int
    labels: tuple[str, ...]
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]

    @property
    def summary(self) -> str:
        """How much there is of it."""
        kinds = f", {len(self.labels)} labels" if self.labels else ""
        return f"{self.name}: {len(self.train)} rows to train on, {len(self.held_out)} held out{kinds}"


def sections(tokenizer: Any, name: str, length: int, stride: int) -> Dataset:
    """Passages of the topics that are long enough, and which topic each is from."""
    whole = blocks(tokenizer)
    counted = Counter(block.topic for block in whole)
    labels = tuple(sorted(topic for topic, count in counted.items() if count >= LEAST))

    def rows(block: Block) -> Iterator[Row]:
        if block.topic in labels:
            for first, last in windows(tokenizer, block.text, length - 2, stride):
                yield {"text": block.text[first:last], "label": block.topic}

    return _split(name, "text-classification", length, labels, whole, rows)


def markup(tokenizer: Any, name: str, length: int, stride: int) -> Dataset:
    """Passages of prose without its marks, and which stretches had them. One that a passage cuts is cut with it."""

    def rows(block: Block) -> Iterator[Row]:
        text, marks = _unmarked(block)
        for first, last in windows(tokenizer, text, length - 2, stride):
            inside = [(max(start, first), min(end, last), label) for start, end, label in marks]
            entities = [
                {"start": start - first, "end": end - first, "label": label}
                for start, end, label in inside
                if start < end
            ]
            yield {"text": text[first:last], "entities": entities}

    return _split(name, "token-classification", length, LABELS, blocks(tokenizer), rows)


def _unmarked(block: Block) -> tuple[str, list[tuple[int, int, str]]]:
    text, marks = "", []
    for paragraph in block.paragraphs:
        read = unmark(paragraph.text)
        if read is None:
            continue
        prose, found = read
        offset = len(text) + 1 if text else 0
        text = f"{text} {prose}" if text else prose
        marks += [(start + offset, end + offset, label) for start, end, label in found]
    return text, marks


def unmark(text: str) -> tuple[str, list[tuple[int, int, str]]] | None:
    """A paragraph of whole sentences without its marks, and what they stood around.

    Returns:
        The text and its marked stretches (start, end, label); or None if it isn't prose (a name, a heading, code), or
        its marks can't be told from the characters they are made of.
    """
    text = text.removeprefix("* ")
    if not re.match(r"[A-Z\"*“]", text) or not text.endswith((".", ":", ".)")):
        return None
    prose, found, place = "", [], 0
    for match in _MARKED.finditer(text):
        kind = str(match.lastgroup)
        prose += text[place : match.start()]
        found.append((len(prose), len(prose) + len(match[kind]), kind.upper()))
        prose += match[kind]
        place = match.end()
    prose += text[place:]
    bare = "".join(prose[end:start] for end, start in _between(found, len(prose)))
    return None if '"' in bare or "*" in bare else (prose, found)


def _between(found: list[tuple[int, int, str]], size: int) -> Iterator[tuple[int, int]]:
    last = 0
    for start, end, _ in found:
        yield last, start
        last = end
    yield last, size


def entries(tokenizer: Any, name: str, length: int, _stride: int) -> Dataset:
    """The lines that name an entry, passages that hold it, and the first sentence that is said of it."""

    def size(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def rows(block: Block) -> Iterator[Row]:
        for place, question, answer in _named(block):
            budget = length - size(question) - _SPECIAL["question-answering"]
            if size(answer) > MAX_ANSWER:
                continue
            before = ""
            for first in range(place, -1, -1):
                before = f"{block.paragraphs[first].text} {before}"
                if size(before + answer) > budget:
                    break
                context = " ".join(paragraph.text for paragraph in block.paragraphs[first:])
                cut = windows(tokenizer, context, min(budget, size(context)), length)[0]
                yield {
                    "question": question,
                    "context": context[cut[0] : cut[1]],
                    "answers": [answer],
                    "answer_start": len(before),
                }

    return _split(name, "question-answering", length, (), blocks(tokenizer), rows)


def _named(block: Block) -> Iterator[tuple[int, str, str]]:
    for place, (name, body) in enumerate(zip(block.paragraphs, block.paragraphs[1:], strict=False)):
        sentence = _SENTENCE.match(body.text)
        is_name = len(name.text.split()) <= _MAX_NAME and not name.text.endswith((".", ":", ","))
        if is_name and body.indent == name.indent + STEP and sentence:
            yield place, name.text, sentence[0]


def _split(
    name: str,
    task: str,
    length: int,
    labels: tuple[str, ...],
    whole: list[Block],
    rows: Callable[[Block], Iterator[Row]],
) -> Dataset:
    train, held_out = (
        tuple(row for block in whole if block.held_out is side for row in rows(block)) for side in (False, True)
    )
    return Dataset(name, task, length, labels, train, held_out)


_MAKERS: Final[Mapping[str, tuple[Callable[[Any, str, int, int], Dataset], int, int]]] = {
    "sections-128": (sections, 128, 32),
    "sections-384": (sections, 384, 16),
    "markup-128": (markup, 128, 64),
    "entries-128": (entries, 128, 0),
}
"""What makes a task's rows, of which length, and how far apart passages begin."""

NAMES: Final = tuple(_MAKERS)


def read(name: str, tokenizer: Any) -> Dataset:
    """A task by its name: one of NAMES."""
    make, length, stride = _MAKERS[name]
    return make(tokenizer, name, length, stride)


def write(dataset: Dataset, folder: Path) -> None:
    """Write a task's rows: NAME-train.jsonl, to calibrate and to train with, and NAME-held-out.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, rows in (("train", dataset.train), ("held-out", dataset.held_out)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{dataset.name}-{side}.jsonl").write_text(lines, encoding="utf-8")
