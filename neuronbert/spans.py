"""Answers that are stretches of a text, over one window of it or several.

Owns: question answering and token classification: what is read off each window, and how windows are merged. Knows
nothing of programs, or of how texts were tokenized and cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from neuronbert.decoding import Call, Reply, Row
    from neuronbert.windows import Window

MAX_ANSWER_TOKENS: Final = 30
"""The longest answer looked for in question answering."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The logits of the context's tokens in one window: how likely the answer begins and ends at each."""

    window: Window
    start: Tensor
    end: Tensor


def read_ends(call: Call, outputs: Mapping[str, Tensor]) -> list[Ends]:
    """What a window tells of the answer to a question."""
    found = []
    for index, (window,) in enumerate(call.items):
        context = torch.tensor([sequence == 1 for sequence in window.take("sequence_ids")])
        start, end = (outputs[name][index, : len(window)][context] for name in ("start_logits", "end_logits"))
        found.append(Ends(window, start, end))
    return found


def word_span(row: Row, parts: Sequence[Ends]) -> Reply:
    """The likeliest span of the context in any window.

    Its score is the chance of its two ends among all tokens of the context, a token that several windows hold being
    counted once, as the one that makes most of it.
    """
    stretches = [part.window.stretch(1) for part in parts]
    scored = [_best_pair(part) for part in parts]
    best = max(range(len(parts)), key=lambda index: scored[index][0])
    score, first, last = scored[best]
    begins, ends = (_total(stretches, [getattr(part, name) for part in parts]) for name in ("start", "end"))
    offsets, place = parts[best].window.encoding.offsets, stretches[best].start
    begin, stop = offsets[place + first][0], offsets[place + last][1]
    chance = math.exp(score - begins - ends)
    return {"answer": str(row["context"])[begin:stop], "start": begin, "end": stop, "score": chance}


def _best_pair(part: Ends) -> tuple[float, int, int]:
    pairs = part.start[:, None] + part.end[None, :]
    allowed = torch.ones_like(pairs, dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
    pairs = pairs.masked_fill(~allowed, torch.finfo(pairs.dtype).min)
    first, last = divmod(int(pairs.argmax()), len(part.end))
    return float(pairs[first, last]), first, last


def _total(stretches: Sequence[range], logits: Sequence[Tensor]) -> float:
    # The logarithm of the sum over all tokens, each with the largest of its logits.
    largest = torch.full((stretches[-1].stop,), -math.inf)
    for stretch, values in zip(stretches, logits, strict=True):
        held = largest[stretch.start : stretch.stop]
        torch.maximum(held, values, out=held)
    return float(largest.logsumexp(0))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A word piece of a text: where it stands, which word it is of, and what it was labelled."""

    start: int
    end: int
    word: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Labels:
    """The labelled word pieces of one window, by their places in the text's tokens, and which tokens it holds."""

    pieces: Mapping[int, _Piece]
    stretch: range


def read_labels(call: Call, outputs: Mapping[str, Tensor]) -> list[Labels]:
    """What a window tells of each word piece."""
    scores, best = torch.softmax(outputs["logits"], dim=-1).max(dim=-1)
    return [
        _label(window, call.labels, best[index].tolist(), scores[index].tolist())
        for index, (window,) in enumerate(call.items)
    ]


def _label(window: Window, names: Mapping[int, str], best: list[int], scores: list[float]) -> Labels:
    pieces = {}
    read = zip(window.places, window.take("offsets"), window.take("word_ids"), best, scores, strict=False)
    for place, (start, end), word, label, score in read:
        if word is not None and end > start:
            pieces[place] = _Piece(start, end, word, names.get(label, f"LABEL_{label}"), score)
    return Labels(pieces, window.stretch(0))


def word_entities(row: Row, parts: Sequence[Labels]) -> Reply:
    """The entities: neighbouring pieces of one label, each as the window that shows most around it has labelled it."""
    first, last = parts[0].stretch.start, parts[-1].stretch.stop
    chosen: dict[int, tuple[float, _Piece]] = {}
    for part in parts:
        for place, piece in part.pieces.items():
            seen = _context(place, part.stretch, first, last)
            if place not in chosen or seen > chosen[place][0]:
                chosen[place] = seen, piece
    return {"entities": _group(str(row["text"]), [chosen[place][1] for place in sorted(chosen)])}


def _context(place: int, stretch: range, first: int, last: int) -> float:
    # Where the text itself begins or ends, nothing is cut off.
    before = place - stretch.start if stretch.start > first else math.inf
    after = stretch.stop - 1 - place if stretch.stop < last else math.inf
    return min(before, after)


def _group(text: str, pieces: list[_Piece]) -> list[Reply]:
    # Neighbouring pieces of one kind are one entity; B- begins another, unless it stands inside a word.
    groups: list[dict[str, Any]] = []
    for piece in pieces:
        kind = piece.label[2:] if piece.label[:2] in ("B-", "I-") else piece.label
        if kind == "O":
            continue
        last = groups[-1] if groups else None
        if last is not None and _goes_on(last, piece, kind, text):
            last.update(end=piece.end, word=piece.word)
            last["scores"].append(piece.score)
        else:
            found = {"label": kind, "start": piece.start, "end": piece.end, "word": piece.word}
            groups.append({**found, "scores": [piece.score]})
    return [
        {
            "label": group["label"],
            "text": text[group["start"] : group["end"]],
            "start": group["start"],
            "end": group["end"],
            "score": sum(group["scores"]) / len(group["scores"]),
        }
        for group in groups
    ]


def _goes_on(last: Reply, piece: _Piece, kind: str, text: str) -> bool:
    if last["label"] != kind or text[last["end"] : piece.start].strip():
        return False
    return piece.word == last["word"] or not piece.label.startswith("B-")
