"""Texts to answers, for every task.

Owns: Predictor: splits rows over calls. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from neuronbert import answers, hub, tokenization
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import EmptyInputError
from neuronbert.shapes import chunk
from neuronbert.workers.pool import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from neuronbert import decoding
    from neuronbert.backends.base import Placement
    from neuronbert.decoding import Reply, Row
    from neuronbert.runtime import Session


_TEXTS: Final = "The list of texts"


class Predictor:
    """A loaded artifact with its tokenizer.

    Args:
        session: The loaded artifact.

    Raises:
        NoTokenizerError: the artifact has none.

    Example:
        >>> predictor = Predictor.from_pretrained("my-artifact/")  # doctest: +SKIP
        >>> predictor.predict([{"text": "A sentence."}])  # doctest: +SKIP
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.task = session.manifest.task
        self.tokenizer = tokenization.require(session.artifact.path)
        self._settings = answers.settings(session.artifact.config())
        self._shapes = session.manifest.shapes
        self._length = max(shape.sequence_length for shape in self._shapes)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        placement: Placement = ANYWHERE,
        workers: int | None = None,
    ) -> Predictor:
        """Verify and load an artifact: a local folder or a Hub id.

        Args:
            model: The folder or id.
            revision: Branch, tag or commit of a Hub id.
            token: For the Hub; None takes the one that is logged in.
            placement: Which NeuronCores the programs go to.
            workers: Load it in so many processes (Pool) in place of this one.
        """
        path = hub.resolve(model, revision=revision, token=token, files=None).path
        session = load(path, placement=placement, workers=workers)
        try:
            return cls(session)
        except BaseException:
            session.close()
            raise

    def predict(self, rows: Sequence[Row], *, truncate: bool = False, top_k: int = 5) -> list[Reply]:
        """Answer rows of text, as many as there are, in order.

        Args:
            rows: Mappings with the texts that the task takes: "text" (and "text_pair"), "question" and "context", or
                "text" and "choices".
            truncate: Cut rows that are longer than the program; by default they are an error.
            top_k: How many candidates to give for a mask or a next token.

        Raises:
            InputError: a row can't be answered.
        """
        if not rows:
            raise EmptyInputError(_TEXTS)
        answered = self.session.spread(self._run, self._calls(rows, truncate, top_k))
        return [answer for call, outputs in answered for answer in self._read(call, outputs)]

    def _calls(self, rows: Sequence[Row], truncate: bool, top_k: int) -> Iterator[decoding.Call]:
        options: dict[str, Any] = {**self._settings, "top_k": top_k}
        if truncate:
            options["max_length"] = self._length
        lengths = [answers.encode(self.task, self.tokenizer, [row], **options).length for row in rows]
        for some in chunk(self._shapes, lengths):
            yield answers.encode(self.task, self.tokenizer, [rows[index] for index in some], **options)

    def _run(self, call: decoding.Call) -> tuple[decoding.Call, dict[str, Tensor]]:
        # Nothing else: in a pool this is called from several threads, and a tokenizer is for one at a time.
        return call, self.session.run(call.inputs)

    def _read(self, call: decoding.Call, outputs: dict[str, Tensor]) -> list[Reply]:
        return answers.READERS[self.task].decode(call, outputs)
