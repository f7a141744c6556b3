"""Texts to answers, for every task.

Owns: Predictor: deals rows out to calls, and puts their answers together. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from neuronbert import answers, hub, tokenization, windows
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import EmptyInputError, InvalidOptionError, SequenceTooLongError, TextError
from neuronbert.plan import Step
from neuronbert.workers.pool import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from neuronbert.backends.base import Placement
    from neuronbert.decoding import Call, Item, Reply, Row
    from neuronbert.runtime import Session
    from neuronbert.windows import Window


_TEXTS: Final = "The list of texts"
_BLOCK: Final = 2048
_BLOCK_CHARACTERS: Final = 1 << 20
"""So many rows, or fewer if they are long, are tokenized, planned and answered together: what is held in memory doesn't
grow with the rows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a row is answered.

    Attributes:
        reply: The answer, by the names of its parts.
        buckets: The shapes of the programs that it was run by, as in "8x128": one, or one for each window.
    """

    reply: Reply
    buckets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Options:
    """How rows are answered: the options of `stream`."""

    truncate: bool
    stride: int | None
    top_k: int


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that are answered together, and the place of the first of them."""

    first: int
    rows: Sequence[Row]


class Predictor:
    """A loaded artifact with its tokenizer.

    Args:
        session: The loaded artifact.

    Raises:
        NoTokenizerError: the artifact has none.

    Example:
        >>> predictor = Predictor.from_pretrained("my-artifact/")  # doctest: +SKIP
        >>> predictor.predict(["A sentence.", "Another one."])  # doctest: +SKIP
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.task = session.manifest.task
        self.tokenizer = tokenization.require(session.artifact.path)
        self._reader = answers.READERS[self.task]
        self._settings = answers.settings(session.artifact.config())
        self._length = max(shape.sequence_length for shape in session.manifest.shapes)

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

    def predict(
        self, rows: Iterable[Row | str], *, truncate: bool = False, stride: int | None = None, top_k: int = 5
    ) -> list[Reply]:
        """Answer rows of text, as many as there are and of any lengths, in order.

        Args:
            rows: Texts; or mappings with the texts that the task takes: "text" (and "text_pair"), "question" and
                "context", or "text" and "choices".
            truncate: Cut rows that are longer than the programs; by default they are an error.
            stride: Answer them in windows that share so many tokens; for question answering and token classification.
            top_k: How many candidates to give for a mask or a next token.

        Raises:
            InputError: a row can't be answered. If it lacks a text or is too long, nothing was run.
            InvalidOptionError: the task has no windows, or they would not get on.
        """
        return [answer.reply for answer in self.stream(rows, truncate=truncate, stride=stride, top_k=top_k)]

    def stream(
        self, rows: Iterable[Row | str], *, truncate: bool = False, stride: int | None = None, top_k: int = 5
    ) -> Iterator[Answer]:
        """Answer rows of text one after another, in memory that doesn't grow with their number.

        Takes what `predict` takes and raises what it raises; also says which programs ran.
        """
        options = _Options(truncate, stride, top_k)
        listed = self._check(rows, options)
        blocks = list(self._blocks(listed))
        return chain.from_iterable(self._answer(*block, options) for block in self._tokenized(blocks, options))

    def _check(self, rows: Iterable[Row | str], options: _Options) -> list[Row]:
        if isinstance(rows, (str, Mapping)):
            raise InvalidOptionError("rows", type(rows).__name__, "a list of texts, or of mappings that hold them")
        stride = options.stride
        wrong = self._reader.merge is None or options.truncate or not isinstance(stride, int) or stride < 0
        if stride is not None and wrong:
            expected = "a whole number, for question-answering and token-classification only, and without truncate"
            raise InvalidOptionError("stride", stride, expected)
        listed = [{"text": row} if isinstance(row, str) else row for row in rows]
        if not listed:
            raise EmptyInputError(_TEXTS)
        answers.check_all(self.task, listed)
        return listed

    def _blocks(self, rows: Sequence[Row]) -> Iterator[_Block]:
        first = held = 0
        for place, row in enumerate(rows):
            size = answers.size(self.task, row)
            if place - first == _BLOCK or (place > first and held + size > _BLOCK_CHARACTERS):
                yield _Block(first, rows[first:place])
                first, held = place, 0
            held += size
        yield _Block(first, rows[first:])

    def _tokenized(
        self, blocks: Sequence[_Block], options: _Options
    ) -> Iterator[tuple[Sequence[Row], list[list[Item]]]]:
        if options.truncate or options.stride is not None:
            return ((block.rows, self._items(block, options)) for block in blocks)
        # Whether a row is too long is told before any is run. One block is tokenized once; of several only the lengths
        # could be kept, so they are tokenized twice.
        first = self._items(blocks[0], options)
        later = (self._items(block, options) for block in blocks[1:])
        self._check_lengths([_length(item) for items in chain([first], later) for (item,) in items])
        rest = ((block.rows, self._items(block, options)) for block in blocks[1:])
        return chain([(blocks[0].rows, first)], rest)

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        too_long = [row for row, length in enumerate(lengths) if length > self._length]
        if too_long:
            longest = max(too_long, key=lengths.__getitem__)
            raise SequenceTooLongError(lengths[longest], self._length, row=longest, others=len(too_long) - 1)

    def _items(self, block: _Block, options: _Options) -> list[list[Item]]:
        cut = self._length if options.truncate else None
        try:
            items = answers.tokenize(self.task, self.tokenizer, block.rows, max_length=cut)
            if options.stride is None:
                return [[item] for item in items]
            return [self._windows(place, whole, options.stride) for place, (whole,) in enumerate(items)]
        except TextError as error:
            raise error.of_row(block.first + error.row) from None

    def _windows(self, place: int, whole: Window, stride: int) -> list[Item]:
        try:
            return [(window,) for window in windows.cut(whole.encoding, self._reader.cut, self._length, stride)]
        except TextError as error:
            raise error.of_row(place) from None

    def _answer(self, rows: Sequence[Row], items: list[list[Item]], options: _Options) -> Iterator[Answer]:
        flat = [(row, item) for row, of_row in zip(rows, items, strict=True) for item in of_row]
        found: list[tuple[Any, str]] = [(None, "")] * len(flat)
        steps = list(self._plan([item for _, item in flat]))  # what can't be planned is told before any is run
        calls = ((step, self._assemble([flat[place] for place in step.rows], options)) for step in steps)
        for step, call, outputs in self.session.spread(self._run, calls):
            for place, part in zip(step.rows, self._reader.decode(call, outputs), strict=True):
                found[place] = part, step.shape.name
        parts = iter(found)
        for row, of_row in zip(rows, items, strict=True):
            told, buckets = zip(*(next(parts) for _ in of_row), strict=True)
            yield Answer(self._reader.merge(row, told) if self._reader.merge else told[0], buckets)

    def _plan(self, items: Sequence[Item]) -> Iterator[Step]:
        if not self._reader.many:
            yield from self.session.plan([_length(item) for item in items])
            return
        # Questions with as many choices share calls.
        for choices in sorted({len(item) for item in items}):
            places = [place for place, item in enumerate(items) if len(item) == choices]
            for step in self.session.plan([_length(items[place]) for place in places], choices):
                yield Step(step.shape, [places[row] for row in step.rows])

    def _assemble(self, some: Sequence[tuple[Row, Item]], options: _Options) -> Call:
        rows, items = zip(*some, strict=True)
        return answers.assemble(self.task, self.tokenizer, rows, items, **self._settings, top_k=options.top_k)

    def _run(self, given: tuple[Step, Call]) -> tuple[Step, Call, dict[str, Tensor]]:
        # Nothing else: in a pool this is called from several threads, and a tokenizer is for one at a time.
        step, call = given
        return step, call, self.session.run(call.inputs, shape=step.shape)


def _length(item: Item) -> int:
    return max(map(len, item))
