"""One request and its answer, whatever protocol they are of.

Owns: Exchange: which model is meant, what is asked of it, what is told of it in headers; and that nothing is computed
for a client that has gone. Knows nothing of any protocol's JSON.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import orjson
from fastapi import Depends, Request, Response
from opentelemetry import trace

from neuronbert.server.guard import NOTES, told_size
from neuronbert.server.questions import Answers, Question
from neuronbert.server.refusals import Refusal, body, unserved
from neuronbert.server.tensors import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from starlette.types import Scope

    from neuronbert.pieces import Cut, Want
    from neuronbert.server.meters import Meters
    from neuronbert.server.served import Served
    from neuronbert.server.settings import Settings

Found = TypeVar("Found")
_tracer: Final = trace.get_tracer("neuronbert")  # its spans go where those of FastAPI do, or nowhere
ROWS: Final = "rows"
"""The note of how many texts a request has, from when that is known."""
EMBEDDING: Final = ("feature-extraction", "sentence-embedding")
_NAMES: Final = {
    "x-tokenization-time": "tokenization",
    "x-queue-time": "queue",
    "x-inference-time": "inference",
}


@dataclass(eq=False, slots=True)
class Site:
    """What all requests share.

    Attributes:
        models: By their names, in the order in which they were given.
        settings: The server's.
        meters: The server's.
        ending: Whether it was told to end: it answers still, but isn't ready.
    """

    models: dict[str, Served]
    settings: Settings
    meters: Meters
    ending: bool = False

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return not self.ending and all(model.ready for model in self.models.values())

    @property
    def full(self) -> bool:
        """Whether no model has room for another row."""
        return bool(self.models) and all(model.full for model in self.models.values())

    @property
    def seconds_behind(self) -> int:
        """Whole seconds until a model has worked off what it holds."""
        return min((model.seconds_behind for model in self.models.values()), default=1)

    def refuse(self, scope: Scope, refusal: Refusal) -> Response:
        """What a request is answered that isn't answered as it wants to be; it is counted."""
        if scope["method"] == "POST":
            self.meters.failures.labels(refusal.meter).inc()
            if ROWS not in scope[NOTES]:
                self.meters.requests.labels("unread").inc()  # before it was known how many texts it has
        headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
        if refusal.status == 401:
            headers["www-authenticate"] = "Bearer"
        content = as_json(body(scope["path"], refusal))
        return Response(content, refusal.status, headers=headers, media_type="application/json")

    async def healthy(self) -> bool:
        """Whether every model's workers answer: a call goes through one, unless one was answered in the last second."""
        return self.ready and all(await asyncio.gather(*(model.healthy() for model in self.models.values())))


@dataclass(eq=False, slots=True)
class Exchange:
    """A request under way.

    Attributes:
        request: As it came.
        site: Where it came to.
        begun: When.
        rows: How many texts it has.
        characters: What they hold.
        answers: What models answered so far.
        model: The one that was asked last.
    """

    request: Request
    site: Site
    begun: float = field(default_factory=monotonic)
    rows: int = 0
    characters: int = 0
    answers: list[Answers] = field(default_factory=list)
    model: Served | None = None

    def pick(
        self, name: str | None, tasks: Sequence[str], wanted: str, suits: Callable[[Served], bool] = lambda _model: True
    ) -> Served:
        """The model that is named; or, of those that have one of these tasks, the first that suits, or the first.

        Raises:
            Refusal: there is none of that name among several, or none for these tasks.
        """
        models = self.site.models
        if name is not None and len(models) > 1:
            if name not in models:
                raise self.unknown()
            models = {name: models[name]}
        able = [model for model in models.values() if model.engine.task in tasks]
        if able:
            return next(filter(suits, able), able[0])
        raise unserved(wanted, ", ".join(f"{name} is for {model.engine.task}" for name, model in models.items()))

    def unknown(self) -> Refusal:
        """What is said of a model that isn't served."""
        return Refusal(404, "Validation", f"There is no such model. There are: {', '.join(self.site.models)}.")

    def count(self, number: int, field: str = "inputs") -> None:
        """Take note of how many texts there are, in which field.

        Raises:
            Refusal: there are none, or too many.
        """
        self.site.meters.requests.labels("single" if number == 1 else "batch").inc()
        self.rows = self.request.scope[NOTES][ROWS] = number
        if not number:
            raise Refusal(400, "Empty", f"`{field}` cannot be empty")
        most = self.site.settings.max_client_batch_size
        if number > most:
            raise Refusal(422, "Validation", f"batch size {number} > maximum allowed batch size {most}")

    def cut(self, truncate: bool | None, direction: str = "right") -> Cut:
        """What becomes of rows that are too long."""
        asked = self.site.settings.auto_truncate if truncate is None else truncate
        return ("left" if direction.lower() == "left" else "right") if asked else "refuse"

    async def ask(
        self,
        model: Served,
        rows: Sequence[dict[str, Any]],
        want: Want,
        cut: Cut,
        after: Callable[[list[Any]], list[Any]] | None = None,
    ) -> list[Any]:
        """What is wanted of each row.

        Args:
            model: Who is asked.
            rows: As its task takes them.
            want: What is asked for.
            cut: What becomes of rows that are too long.
            after: What is done to the answers, in a thread that has a tokenizer.

        Raises:
            NeuronBertError: it can't be had.
            Refusal: its time was up, or the client has gone.
        """
        self.model = model
        self.characters += sum(len(value) for row in rows for value in row.values())
        question = Question(rows, want, cut, self._client, self._size, after)
        answers = await self._unless_left(self._traced(model, question))
        self.answers.append(answers)
        return answers.values

    async def convert(self, model: Served, function: Callable[[], list[Any]]) -> list[Any]:
        """The result of a function that uses only the model's tokenizer.

        Raises:
            NeuronBertError: it can't be had.
            Refusal: its time was up, or the client has gone.
        """
        self.model = model
        return await self._unless_left(model.convert(self._client, self.rows, self._size, function))

    @property
    def _client(self) -> str:
        return self.request.client.host if self.request.client else ""

    @property
    def _size(self) -> int:
        return told_size(self.request.headers.get("content-length", "").encode()) or self.characters

    async def _unless_left(self, coroutine: Coroutine[Any, Any, Found]) -> Found:
        answering = asyncio.ensure_future(coroutine)
        leaving = asyncio.ensure_future(_left(self.request))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise Refusal(499, "Overloaded", "The client has gone.")
            return answering.result()
        finally:
            leaving.cancel()
            answering.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await answering

    @staticmethod
    async def _traced(model: Served, question: Question) -> Answers:
        with _tracer.start_as_current_span(f"ask {model.name}") as span:
            answers = await model.ask(question)
            times = {f"neuronbert.{name}.duration": value for name, value in asdict(answers.times).items()}  # seconds
            sizes = {"neuronbert.rows": len(question.rows), "neuronbert.tokens": answers.tokens}
            span.set_attributes({"neuronbert.model": model.name, **sizes, **times})
            return answers

    @property
    def tokens(self) -> int:
        """Of all rows that were answered."""
        return sum(answers.tokens for answers in self.answers)

    def reply(self, content: object, *, tail: bytes | None = None) -> Response:
        """The answer: data as JSON, with what it took in headers.

        Args:
            content: Anything that `as_json` takes; bytes are JSON already.
            tail: Tensors that follow the JSON.
        """
        meters, total = self.site.meters, monotonic() - self.begun
        meters.successes.labels("single" if self.rows == 1 else "batch").inc()
        meters.duration.observe(total)
        times = {
            name: sum(getattr(answers.times, part) for answers in self.answers) / max(1, len(self.answers))
            for name, part in _NAMES.items()
        }
        for meter, value in zip((meters.tokenization, meters.queueing, meters.inference), times.values(), strict=True):
            meter.observe(value)
        headers = {
            "x-compute-type": "neuron" if self.model and self.model.engine.on_device else "cpu",
            "x-compute-time": _milliseconds(total),
            "x-compute-characters": str(self.characters),
            "x-compute-tokens": str(self.tokens),
            "x-total-time": _milliseconds(total),
            **{name: _milliseconds(value) for name, value in times.items()},
        }
        if self.model:
            told = {"model": self.model.name, "tokens": self.tokens}
            waited = {"queue_ms": 1e3 * times["x-queue-time"], "inference_ms": 1e3 * times["x-inference-time"]}
            self.request.scope[NOTES].update(told, **{name: round(value, 1) for name, value in waited.items()})
        content = content if isinstance(content, bytes) else as_json(content)
        if tail is None:
            return Response(content, media_type="application/json", headers=headers)
        headers[HEADER] = str(len(content))
        return Response(content + tail, media_type="application/octet-stream", headers=headers)


def as_json(content: object) -> bytes:
    """Data as JSON; arrays are lists."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


async def as_long_json(items: Sequence[object]) -> bytes:
    """A list as JSON, made in another thread: item by item, as the encoder lets nobody else run within one."""
    parts = await asyncio.get_running_loop().run_in_executor(None, lambda: [as_json(item) for item in items])
    return b"[" + b",".join(parts) + b"]"


def _milliseconds(seconds: float) -> str:
    return str(round(1000 * seconds))


async def _left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _exchange(request: Request) -> Exchange:
    return Exchange(request, request.app.state.site)


Open = Annotated[Exchange, Depends(_exchange)]
"""The exchange of a route's request."""
