"""One artifact as a server runs it: batches of pieces are answered in worker processes, from several threads.

Owns: Engine. Knows nothing of HTTP, nor of which pieces come together.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from torch import nn

from neuronbert import answers, decoding, hub
from neuronbert.artifact import Artifact
from neuronbert.backends.base import ANYWHERE, Placement
from neuronbert.errors import NoNumberError, NotServedError
from neuronbert.pieces import Candidates, Texts
from neuronbert.pooling import SentenceEncoder
from neuronbert.runtime import Session
from neuronbert.sentences import MODULES, after_program
from neuronbert.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from neuronbert.decoding import Call, Row
    from neuronbert.pieces import Cut, Piece, Want
    from neuronbert.shapes import StaticShape
    from neuronbert.workers.crew import Health

TASKS: Final = (
    *("feature-extraction", "sentence-embedding", "text-classification"),
    *("token-classification", "question-answering", "fill-mask"),
)
_BEHIND: Final = 10
"""How nice workers are: the process that reads requests and sends answers needs little time, but at once."""
MOST_CANDIDATES: Final = 100
"""Tokens that are told for a mask."""


class Engine:
    """An artifact in worker processes, asked piece by piece. Calls from several threads are safe.

    Args:
        artifact: A verified artifact.

    Attributes:
        artifact: The same.
        texts: What is done to texts before they run.

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
        self.texts = Texts(artifact)
        self._tokenizer = self.texts.tokenizer()  # of this thread, which only asks it for its special tokens
        self._settings = answers.settings(artifact.config())
        self._pooling = _pooling(artifact)
        self._pool: Pool | None = None
        self._here: Session | None = None
        self._closing = threading.Lock()
        self._closed = False

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
            PoolClosedError: it was closed in the meantime.
        """
        placement = Placement(first_core) if self.on_device else ANYWHERE
        self._pool = Pool(
            self.artifact, workers, placement=placement, timeout=timeout, starting=self._keep, niceness=_BEHIND
        )
        for _ in self._pool.spread(self._run_blank, [shape for shape in self.shapes for _ in range(2 * workers)]):
            pass

    def _keep(self, pool: Pool) -> None:
        with self._closing:
            self._pool = pool
            closed = self._closed
        if closed:
            pool.close()

    def load(self) -> None:
        """Load the artifact in this process, in place of `start`; it is for one thread then.

        Raises:
            NeuronBertError: it can't be loaded here.
        """
        self._here = Session.open(self.artifact.path)

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
        """End the workers, also while they start: that fails then."""
        with self._closing:
            self._closed, pool = True, self._pool
        if pool:
            pool.close()

    @property
    def _session(self) -> Session:
        session = self._pool or self._here
        if session is None:
            raise AssertionError("start or load comes first")  # noqa: TRY003  no caller's fault
        return session

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

    def vectors(self, texts: Sequence[str], cut: Cut) -> np.ndarray:
        """A vector of each text, with the prompt before it that the checkpoint has for all: (texts, size), fp32.

        Args:
            texts: One or more.
            cut: What becomes of those that are too long.

        Raises:
            TextError: a text can't be answered, or its vector holds what is no number; it says which.
            NeuronBertError: a program could not be run.
        """
        prompt = self.texts.default_prompt or ""
        rows = [{"text": prompt + text} for text in texts]
        pieces = [piece for (piece,) in self.texts.prepare(rows, "vector", cut)]
        found: list[Any] = [None] * len(pieces)
        for step in self._session.plan([len(piece) for piece in pieces]):
            vectors = self.run(step.shape, [pieces[place] for place in step.rows])
            for place, vector in zip(step.rows, vectors, strict=True):
                found[place] = vector
        whole = np.stack(found).astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(whole).all(axis=1))
        if wrong.size:
            raise NoNumberError().of_row(int(wrong[0]))
        return whole

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

    def merge(self, row: Row, parts: Sequence[Any]) -> Any:
        """The answer to a row from what its pieces told, where "reading" was wanted; else what the one piece told."""
        merge = answers.READERS[self.task].merge
        return merge(row, parts) if merge else parts[0]


class _Pooling(SentenceEncoder):
    """The modules that follow a program for feature-extraction."""

    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__(_Hidden(), modules)
        self.modes: tuple[str, ...] = modules[0].modes


class _Hidden(nn.Module):
    def forward(self, attention_mask: Tensor, last_hidden_state: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        return {"last_hidden_state": last_hidden_state}


def _pooling(artifact: Artifact) -> _Pooling | None:
    if artifact.manifest.task != "feature-extraction" or not (artifact.path / MODULES).is_file():
        return None
    return _Pooling(after_program(artifact.path)).eval()
