"""Rows to pieces: what a server tokenizes before it is known which program runs it, and what it tells of tokens.

Owns: Texts, and Piece. Knows nothing of programs but how long a row may be.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal

from neuronbert import answers, tokenization, windows
from neuronbert.errors import InputRangeError, RowTooLongError, TextError, TooManyIdsError
from neuronbert.folders import read_json
from neuronbert.sentences import PROMPTS, TEXTS
from neuronbert.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from neuronbert.artifact import Artifact
    from neuronbert.decoding import Row

Want = Literal["vector", "tokens", "logits", "masks", "reading"]
"""What of a program's outputs is asked for: a vector of the text, one of each token, the logits of labels, candidates
for each mask, or what the task's own reader takes."""
Cut = Literal["refuse", "right", "left", "windows"]
"""What becomes of a row that is longer than the programs."""

IDS: Final = "ids"
"""In place of a text, a row may hold token ids under this name, special tokens included."""
MOST_IDS: Final = 100_000
"""Token ids that are decoded, or told of, at once."""
_CHARACTERS_A_TOKEN: Final = 250
"""No more of a text is tokenized than its last token could reach, as in text-embeddings-inference."""
_STRIDE: Final = 4
"""Neighbouring windows share a quarter of what a window holds."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes into a program as one row: a row, or a window of it.

    Attributes:
        row: The row.
        window: Its tokens.
        want: What of the outputs is asked for.
    """

    row: Row
    window: Window
    want: Want

    def __len__(self) -> int:
        return len(self.window)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest tokens for one mask, best first.

    Attributes:
        ids: Their ids.
        scores: Their chances.
        text: The ids of the text that the mask is in.
        place: Where in them it is.
    """

    ids: list[int]
    scores: list[float]
    text: list[int]
    place: int


class Texts:
    """The tokenizer of an artifact, and what is done to texts before and after it. Safe to call from several threads.

    Args:
        artifact: A verified artifact.

    Attributes:
        limit: Tokens of a row at most.
        prompts: What sentence-transformers puts before texts, by name.
        default_prompt: What it puts before them if none is named.

    Raises:
        NoTokenizerError: it has no tokenizer.
    """

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self._task = manifest.task
        self._highest = manifest.inputs[0].maximum
        self._local = threading.local()
        self._tokenizer = tokenization.require(artifact.path)
        texts, prompts = _read(artifact.path / TEXTS), _read(artifact.path / PROMPTS)
        longest = max(shape.sequence_length for shape in manifest.shapes)
        made_for = texts.get("max_seq_length")
        self.limit = min(longest, made_for) if type(made_for) is int and made_for > 0 else longest
        self._lower = texts.get("do_lower_case") is True
        self.prompts: dict[str, str] = prompts.get("prompts") or {}
        self.default_prompt = self.prompts.get(prompts.get("default_prompt_name") or "")

    def tokenizer(self) -> Any:
        """The calling thread's own: one tokenizer is not for several threads."""
        if not hasattr(self._local, "tokenizer"):
            self._local.tokenizer = copy.deepcopy(self._tokenizer)
        return self._local.tokenizer

    def prepare(self, rows: Sequence[Row], want: Want, cut: Cut) -> list[list[Piece]]:
        """The pieces of each row.

        Args:
            rows: As the task takes them; or, where a vector or logits are wanted, {"ids": [...]}.
            want: What is asked for.
            cut: What becomes of rows that are too long.

        Raises:
            TextError: a row can't be answered; it says which.
        """
        given = [place for place, row in enumerate(rows) if IDS in row]
        texts = [place for place, row in enumerate(rows) if IDS not in row]
        pieces: list[list[Piece]] = [[] for _ in rows]
        for place in given:
            pieces[place] = [Piece(rows[place], self._given(rows[place][IDS], place, cut), want)]
        if texts:
            try:
                found = self._tokenized([self._shortened(rows[place], cut) for place in texts], cut)
            except TextError as error:
                raise error.of_row(texts[error.row]) from None
            for place, of_row in zip(texts, found, strict=True):
                pieces[place] = [Piece(rows[place], window, want) for window in of_row]
        return pieces

    def _given(self, ids: list[int], place: int, cut: Cut) -> Window:
        if min(ids) < 0 or max(ids) > self._highest:
            raise InputRangeError("inputs", min(ids), max(ids), self._highest)
        if len(ids) > self.limit and cut == "refuse":
            raise self._too_long(len(ids)).of_row(place)
        return Window.whole(_Given(ids[-self.limit :] if cut == "left" else ids[: self.limit]))

    def _shortened(self, row: Row, cut: Cut) -> Row:
        lower = self._lower
        most = self.limit * _CHARACTERS_A_TOKEN
        if not lower and (cut in ("windows", "refuse") or all(len(text) <= most for text in row.values())):
            return row
        sides: dict[Cut, Callable[[str], str]] = {"right": lambda text: text[:most], "left": lambda text: text[-most:]}
        shorten = sides.get(cut, str)
        return {name: shorten(text.lower() if lower else text) for name, text in row.items()}

    def _tokenized(self, rows: Sequence[Row], cut: Cut) -> list[list[Window]]:
        tokenizer = self.tokenizer()
        tokenizer.truncation_side = "left" if cut == "left" else "right"
        longest = self.limit if cut in ("left", "right") else None
        items = [item for (item,) in answers.tokenize(self._task, tokenizer, rows, max_length=longest)]
        for place, window in enumerate(items):
            if len(window) > self.limit and cut == "refuse":
                raise self._too_long(len(window)).of_row(place)
        if cut != "windows":
            return [[item] for item in items]
        return [self._windows(place, item) for place, item in enumerate(items)]

    def _too_long(self, size: int) -> RowTooLongError:
        # What is cut off could be the mask that is to be filled.
        return RowTooLongError(size, self.limit, may_be_cut=self._task != "fill-mask")

    def _windows(self, place: int, whole: Window) -> list[Window]:
        side = answers.READERS[self._task].cut
        try:
            around = len(whole) - len(whole.stretch(side))
            return windows.cut(whole.encoding, side, self.limit, max(0, self.limit - around) // _STRIDE)
        except TextError as error:
            raise error.of_row(place) from None

    def tokens(self, texts: Sequence[str], *, special: bool) -> list[list[dict[str, Any]]]:
        """What each text is tokenized to: id, text, whether it is special, and its place in the text if it isn't.

        Raises:
            InvalidTextError: a text is no Unicode.
            TooManyIdsError: there are more tokens than are told of at once.
        """
        for text in texts:
            answers.check_encodable("text", text)
        tokenizer = self.tokenizer()
        encodings = tokenizer(list(texts), add_special_tokens=special, verbose=False).encodings
        _bound("The texts", sum(map(len, encodings)))
        return [_listed(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def decode(self, lists: Sequence[list[int]], *, skip_special: bool) -> list[str]:
        """The text of each list of token ids.

        Raises:
            InputRangeError: the vocabulary doesn't have one.
            TooManyIdsError: there are more than are decoded at once.
        """
        _bound("The lists", sum(map(len, lists)))
        for ids in lists:
            if max(ids) > self._highest:
                raise InputRangeError("ids", min(ids), max(ids), self._highest)
        return [self.tokenizer().decode(ids, skip_special_tokens=skip_special) for ids in lists]

    def fill(self, found: Sequence[Sequence[Candidates]], most: int) -> list[list[list[dict[str, Any]]]]:
        """For each mask of each row the best candidates, each with its token, its chance and the text that it makes.

        Raises:
            TooManyIdsError: these texts are longer, taken together, than is decoded at once.
        """
        _bound(f"{most} texts for each mask", most * sum(len(mask.text) for masks in found for mask in masks))
        return [[self._fill(mask, most, alone=len(masks) == 1) for mask in masks] for masks in found]

    def _fill(self, candidates: Candidates, most: int, *, alone: bool) -> list[dict[str, Any]]:
        tokenizer = self.tokenizer()
        filled = []
        for number, score in zip(candidates.ids[:most], candidates.scores, strict=False):
            text = [*candidates.text[: candidates.place], number, *candidates.text[candidates.place + 1 :]]
            words = {
                "token_str": tokenizer.decode([number]),
                "sequence": tokenizer.decode(text, skip_special_tokens=alone),  # other masks are special tokens, too
            }
            filled.append({"score": score, "token": number, **words})
        return filled


@dataclass(frozen=True, slots=True)
class _Given:
    """Token ids that a caller gave, in place of a tokenizer's encoding."""

    ids: list[int]

    @property
    def type_ids(self) -> list[int]:
        return [0] * len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def _bound(name: str, ids: int) -> None:
    if ids > MOST_IDS:
        raise TooManyIdsError(name, ids, MOST_IDS)


def _listed(text: str, encoding: Any) -> list[dict[str, Any]]:
    # Places are counted in bytes of UTF-8, as in text-embeddings-inference.
    sizes = [0, *accumulate(len(character.encode()) for character in text)]
    tokens = []
    parts = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    for number, token, special, (start, stop) in parts:
        place = {} if special else {"start": sizes[start], "stop": sizes[stop]}
        tokens.append({"id": number, "text": token if special else text[start:stop], "special": bool(special), **place})
    return tokens


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
