"""One artifact as a server runs it: rows are tokenized, and batches of pieces of them answered, from several threads.

Owns: Engine. Knows nothing of HTTP, nor of which pieces come together.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import torch
from torch import nn

from neuronbert import answers, decoding, hub, tokenization, windows
from neuronbert.artifact import Artifact
from neuronbert.backends.base import ANYWHERE, Placement
from neuronbert.checkpoint import read_json
from neuronbert.errors import InputRangeError, NotServedError, RowTooLongError, TextError
from neuronbert.pooling import SentenceEncoder
from neuronbert.sentences import MODULES, PROMPTS, TEXTS, after_program
from neuronbert.windows import Window
from neuronbert.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from neuronbert.decoding import Call, Row
    from neuronbert.shapes import StaticShape
    from neuronbert.workers.crew import Health

Want = Literal["vector", "tokens", "logits", "masks", "reading"]
"""What of a program's outputs is asked for: a vector of the text, one of each token, the logits of labels, candidates
for each mask, or what the task's own reader takes."""
Cut = Literal["refuse", "right", "left", "windows"]
"""What becomes of a row that is longer than the programs."""

TASKS: Final = (
    *("feature-extraction", "sentence-embedding", "text-classification"),
    *("token-classification", "question-answering", "fill-mask"),
)
IDS: Final = "ids"
"""In place of a text, a row may hold token ids under this name, special tokens included."""
MOST_CANDIDATES: Final = 100
MOST_DECODED: Final = 100_000
"""Token ids that are decoded at once."""
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


class Engine:
    """An artifact in worker processes, asked piece by piece. Calls from several threads are safe.

    Args:
        artifact: A verified artifact.

    Attributes:
        artifact: The same.
        limit: Tokens of a row at most.
        prompts: What sentence-transformers puts before texts, by name.
        default_prompt: What it puts before them if none is named.

    Raises:
        NotServedError: there are no routes for its task.
        NoTokenizerError: it has no tokenizer.
        UnsupportedFeatureError: its modules don't say how to pool.
    """

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        if manifest.task not in TASKS:
            raise NotServedError(artifact.path.name, manifest.task, TASKS)
        self.artifact = artifact
        self.task = manifest.task
        self.shapes = manifest.shapes
        self._tokenizer = tokenization.require(artifact.path)
        self._local = threading.local()
        self._settings = answers.settings(artifact.config())
        self._pooling = _pooling(artifact)
        texts = _read(artifact.path / TEXTS)
        prompts = _read(artifact.path / PROMPTS)
        longest = max(shape.sequence_length for shape in manifest.shapes)
        made_for = texts.get("max_seq_length")
        self.limit = min(longest, made_for) if type(made_for) is int and made_for > 0 else longest
        self._lower = texts.get("do_lower_case") is True
        self.prompts: dict[str, str] = prompts.get("prompts") or {}
        self.default_prompt = self.prompts.get(prompts.get("default_prompt_name") or "")
        self._pool: Pool | None = None

    @classmethod
    def find(cls, model: str, *, revision: str | None = None, token: str | bool | None = None) -> Self:
        """Verify an artifact: a local folder or a Hub id. Nothing is started yet."""
        return cls(Artifact.open(hub.resolve(model, revision=revision, token=token, files=None).path.absolute()))

    @property
    def on_device(self) -> bool:
        """Whether each worker takes a NeuronCore."""
        return self.artifact.manifest.target != "cpu"

    @property
    def labels(self) -> Mapping[int, str]:
        """Names of the labels by index."""
        size = self.artifact.manifest.outputs[0].size or 0
        named = self._settings["labels"]
        return {index: named.get(index, f"LABEL_{index}") for index in range(size)}

    @property
    def independent(self) -> bool:
        """Whether labels don't exclude each other."""
        return bool(self._settings["independent"])

    @property
    def pooling(self) -> str:
        """How tokens become a vector."""
        if self.task == "sentence-embedding":
            return "compiled"
        return "+".join(self._pooling.modes) if self._pooling else "mean"

    def start(self, *, workers: int, timeout: float, first_core: int = 0) -> None:
        """Load the artifact in workers, and run every program some times: the first calls are slow.

        Args:
            workers: How many.
            timeout: Seconds that a call may take.
            first_core: Which NeuronCore the first worker gets; the CPU has none.

        Raises:
            NeuronBertError: a worker didn't start, or a program doesn't run.
        """
        placement = Placement(first_core) if self.on_device else ANYWHERE
        self._pool = Pool(self.artifact, workers, placement=placement, timeout=timeout)
        for _ in self._pool.spread(self._run_blank, [shape for shape in self.shapes for _ in range(2 * workers)]):
            pass

    def _run_blank(self, shape: StaticShape) -> None:
        self._session.run({"input_ids": torch.ones(shape.dims, dtype=torch.int64)}, shape=shape)

    def probe(self) -> None:
        """Send the smallest call through a worker.

        Raises:
            NeuronBertError: none can answer.
        """
        self._run_blank(min(self.shapes, key=lambda shape: shape.tokens))

    def health(self) -> tuple[Health, ...]:
        """How every worker is; none before `start`."""
        return self._pool.health() if self._pool else ()

    def close(self) -> None:
        """End the workers."""
        if self._pool:
            self._pool.close()

    @property
    def _session(self) -> Pool:
        if self._pool is None:
            raise AssertionError("start comes first")  # noqa: TRY003  no caller's fault
        return self._pool

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
        highest = self.artifact.manifest.inputs[0].maximum
        if min(ids) < 0 or max(ids) > highest:
            raise InputRangeError("inputs", min(ids), max(ids), highest)
        if len(ids) > self.limit and cut == "refuse":
            raise RowTooLongError(len(ids), self.limit).of_row(place)
        return Window.whole(_Given(ids[-self.limit :] if cut == "left" else ids[: self.limit]))

    def _shortened(self, row: Row, cut: Cut) -> Row:
        lower = self._lower and self.task in ("feature-extraction", "sentence-embedding")
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
        items = [item for (item,) in answers.tokenize(self.task, tokenizer, rows, max_length=longest)]
        for place, window in enumerate(items):
            if len(window) > self.limit and cut == "refuse":
                raise RowTooLongError(len(window), self.limit).of_row(place)
        if cut != "windows":
            return [[item] for item in items]
        return [self._windows(place, item) for place, item in enumerate(items)]

    def _windows(self, place: int, whole: Window) -> list[Window]:
        side = answers.READERS[self.task].cut
        try:
            around = len(whole) - len(whole.stretch(side))
            return windows.cut(whole.encoding, side, self.limit, max(0, self.limit - around) // _STRIDE)
        except TextError as error:
            raise error.of_row(place) from None

    def tokens(self, texts: Sequence[str], *, special: bool) -> list[list[dict[str, Any]]]:
        """What each text is tokenized to: id, text, whether it is special, and its place in the text if it isn't.

        Raises:
            InvalidTextError: a text is no Unicode.
        """
        for text in texts:
            answers.check_encodable("text", text)
        tokenizer = self.tokenizer()
        encodings = tokenizer(list(texts), add_special_tokens=special, verbose=False).encodings
        return [_listed(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def decode(self, lists: Sequence[list[int]], *, skip_special: bool) -> list[str]:
        """The text of each list of token ids.

        Raises:
            InputRangeError: the vocabulary doesn't have one.
        """
        highest = self.artifact.manifest.inputs[0].maximum
        for ids in lists:
            if max(ids) > highest:
                raise InputRangeError("ids", min(ids), max(ids), highest)
        return [self.tokenizer().decode(ids, skip_special_tokens=skip_special) for ids in lists]

    def run(self, shape: StaticShape, pieces: Sequence[Piece]) -> list[Any]:
        """What is wanted of each piece, in one call of one program.

        Args:
            shape: The program; it takes as many pieces, and each is short enough.
            pieces: Of one row or several.

        Returns:
            For "vector" an array (size), for "tokens" (tokens, size), for "logits" (labels); for "masks" Candidates for
            each mask; for "reading" what `merge` takes.

        Raises:
            NeuronBertError: the program could not be run.
        """
        rows, items = [piece.row for piece in pieces], [(piece.window,) for piece in pieces]
        call = answers.assemble(self.task, self._tokenizer, rows, items, **self._settings)
        outputs = self._session.run(call.inputs, shape=shape)
        found: list[Any] = [None] * len(pieces)
        for want in {piece.want for piece in pieces}:
            values = self._read(want, call, outputs)
            for place, piece in enumerate(pieces):
                if piece.want == want:
                    found[place] = values[place]
        return found

    def _read(self, want: Want, call: Call, outputs: Mapping[str, Tensor]) -> Sequence[Any]:
        if want == "vector":
            return self._vectors(call, outputs)
        if want == "tokens":
            values = outputs[self.artifact.manifest.outputs[0].name].numpy()
            return [values[place, : len(window)] for place, (window,) in enumerate(call.items)]
        if want == "logits":
            return list(outputs["logits"].numpy())
        if want == "masks":
            return [
                self._candidates(window.take("ids"), logits)
                for (window,), logits in zip(call.items, outputs["logits"], strict=True)
            ]
        return answers.READERS[self.task].decode(call, outputs)

    def _vectors(self, call: Call, outputs: Mapping[str, Tensor]) -> list[np.ndarray]:
        if self.task == "sentence-embedding":
            return list(outputs["sentence_embedding"].numpy())
        if self._pooling is None:
            return list(decoding.embed(call, outputs).numpy())
        with torch.no_grad():
            pooled = self._pooling(call.inputs["attention_mask"], last_hidden_state=outputs["last_hidden_state"])
        return list(pooled["sentence_embedding"].numpy())

    def _candidates(self, ids: list[int], logits: Tensor) -> list[Candidates]:
        places = [place for place, number in enumerate(ids) if number == self._tokenizer.mask_token_id]
        top = torch.softmax(logits[places], dim=-1).topk(min(MOST_CANDIDATES, logits.shape[-1]))
        return [
            Candidates(found, scores, ids, place)
            for found, scores, place in zip(top.indices.tolist(), top.values.tolist(), places, strict=True)
        ]

    def fill(self, candidates: Candidates, most: int) -> list[dict[str, Any]]:
        """The best of the candidates for a mask, each with its token, its chance and the text that it makes."""
        tokenizer = self.tokenizer()
        filled = []
        for number, score in zip(candidates.ids[:most], candidates.scores, strict=False):
            text = [*candidates.text[: candidates.place], number, *candidates.text[candidates.place + 1 :]]
            words = {
                "token_str": tokenizer.decode([number]),
                "sequence": tokenizer.decode(text, skip_special_tokens=True),
            }
            filled.append({"score": score, "token": number, **words})
        return filled

    def merge(self, row: Row, parts: Sequence[Any]) -> Any:
        """The answer to a row from what its pieces told, where "reading" was wanted; else what the one piece told."""
        merge = answers.READERS[self.task].merge
        return merge(row, parts) if merge else parts[0]


@dataclass(frozen=True, slots=True)
class _Given:
    """Token ids that a caller gave, in place of a tokenizer's encoding."""

    ids: list[int]

    @property
    def type_ids(self) -> list[int]:
        return [0] * len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class _Pooling(SentenceEncoder):
    """The modules that follow a program for feature-extraction."""

    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__(_Hidden(), modules)
        self.modes: tuple[str, ...] = modules[0].modes


class _Hidden(nn.Module):
    def forward(self, attention_mask: Tensor, last_hidden_state: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        return {"last_hidden_state": last_hidden_state}


def _listed(text: str, encoding: Any) -> list[dict[str, Any]]:
    # Places are counted in bytes of UTF-8, as in text-embeddings-inference.
    sizes = [0, *accumulate(len(character.encode()) for character in text)]
    tokens = []
    parts = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    for number, token, special, (start, stop) in parts:
        place = {} if special else {"start": sizes[start], "stop": sizes[stop]}
        tokens.append({"id": number, "text": token if special else text[start:stop], "special": bool(special), **place})
    return tokens


def _pooling(artifact: Artifact) -> _Pooling | None:
    if artifact.manifest.task != "feature-extraction" or not (artifact.path / MODULES).is_file():
        return None
    return _Pooling(after_program(artifact.path)).eval()


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
