"""One model as requests see it: asked for rows, it answers when they have run.

Owns: Served: what of a request is done in which thread, and what becomes of it when it fails, is late or is left. Knows
nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from neuronbert.errors import NeuronBertError, PoolClosedError, WorkerLostError, WorkerStartError
from neuronbert.server.questions import Answers, Asked, Question, Slot, Times
from neuronbert.server.refusals import Refusal
from neuronbert.server.scheduler import Limits, Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from neuronbert.engine import Engine
    from neuronbert.pieces import Piece
    from neuronbert.server.meters import Meters
    from neuronbert.server.queues import Request
    from neuronbert.server.scheduler import Batch
    from neuronbert.server.settings import Settings

_FRESH: Final = 1.0
"""Seconds for which a batch that ran is proof enough that the workers answer."""


class Served:
    """A model with its queue and its workers. All methods are for the event loop's thread.

    Args:
        name: What clients call it.
        engine: The artifact; it is started and closed here.
        settings: The server's.
        meters: The server's.
    """

    def __init__(self, name: str, engine: Engine, settings: Settings, meters: Meters) -> None:
        self.name = name
        self.engine = engine
        self.ready = False
        self._settings = settings
        self._meters = meters
        self._scheduler = Scheduler(engine.shapes, settings.limits)
        # One more than there are workers: while they run, the next batch is put together.
        self._free = settings.workers + 1
        self._callers = ThreadPoolExecutor(self._free, f"neuronbert-{name}-call")
        self._tokenizers = ThreadPoolExecutor(settings.tokenizers, f"neuronbert-{name}-tokenize")
        self._probing: asyncio.Future[None] | None = None
        self._answered = float("-inf")
        self._well = False
        self._running: list[float] = []

    @property
    def waiting(self) -> dict[int, int]:
        """How many rows wait, by the length of their programs."""
        return self._scheduler.waiting

    @property
    def full(self) -> bool:
        """Whether there is no room for any row now."""
        return self._scheduler.full

    @property
    def seconds_behind(self) -> int:
        """Whole seconds that what is held takes."""
        return self._scheduler.seconds_behind()

    @property
    def held(self) -> Limits:
        """What is admitted and has not ended."""
        return self._scheduler.held

    async def start(self, first_core: int) -> None:
        """Load the model and run every program; then it is ready.

        Args:
            first_core: Which NeuronCore its first worker gets, if it is for a device.

        Raises:
            NeuronBertError: it can't be had.
        """
        settings = self._settings

        def load() -> None:
            self.engine.start(workers=settings.workers, timeout=settings.call_timeout, first_core=first_core)

        await asyncio.get_running_loop().run_in_executor(None, load)
        await self.tokenizing(self.engine.texts.tokenizer)
        self._well = True  # each program has run
        self.ready = True

    async def stop(self) -> None:
        """End the workers; what still runs fails."""
        self.ready = False
        await asyncio.get_running_loop().run_in_executor(None, self.engine.close)
        self._callers.shutdown(wait=False, cancel_futures=True)
        self._tokenizers.shutdown(wait=False, cancel_futures=True)

    async def healthy(self) -> bool:
        """Whether a worker answers within the time for that."""
        if not self.ready:
            return False
        now = monotonic()
        if now - self._answered < _FRESH or self._at_work(now):
            return True
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(None, self.engine.probe))
        try:
            await asyncio.wait_for(asyncio.shield(self._probing), self._settings.health_timeout)
        except (TimeoutError, NeuronBertError):
            return False
        return True

    def _at_work(self, now: float) -> bool:
        """Whether a call runs that may take its time yet, after one that was answered: a probe would wait behind it."""
        if not self._well or not self._running:
            return False
        return now - max(min(self._running), self._answered) < self._settings.call_timeout

    async def tokenizing(self, function: Callable[[], Any]) -> Any:
        """The result of a function that uses the engine's tokenizer, in a thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, function)

    async def ask(self, question: Question) -> Answers:
        """Answer a question.

        Raises:
            OverloadedError: there is no room for it now.
            InputError: a row can't be answered.
            NeuronBertError: a program could not be run.
            Refusal: it is not ready, or its time was up.
        """
        async with self._admitted(question.client, len(question.rows), question.size) as request:
            return await self._answer(request, question)

    async def convert(self, client: str, rows: int, size: int, function: Callable[[], Any]) -> Any:
        """The result of a function that uses only the tokenizer, within the same limits as a question.

        Raises:
            OverloadedError: there is no room for it now.
            Refusal: it is not ready, or its time was up.
        """
        async with self._admitted(client, rows, size):
            return await self.tokenizing(function)

    @asynccontextmanager
    async def _admitted(self, client: str, rows: int, size: int) -> AsyncIterator[Request]:
        if not self.ready:
            raise Refusal(503, "Unhealthy", "The model is still being loaded.", retry_after=1)
        deadline = monotonic() + self._settings.timeout
        request = self._scheduler.admit(client, rows, size, deadline)
        try:
            async with asyncio.timeout(self._settings.timeout):
                yield request
        except TimeoutError:
            refusal = f"The request was not answered in {self._settings.timeout:g} s."
            raise Refusal(504, "Overloaded", refusal, retry_after=self._scheduler.seconds_behind()) from None
        finally:
            self._scheduler.cancel(request)  # late, left or failed; after an answer nothing is left to drop

    async def _answer(self, request: Request, question: Question) -> Answers:
        asked = Asked(asyncio.get_running_loop().create_future(), 0, Times())
        pieces: list[list[Piece]] = await self.tokenizing(
            lambda: self.engine.texts.prepare(question.rows, question.want, question.cut)
        )
        asked.times.tokenization = monotonic() - asked.begun
        slots = [[Slot(asked, piece) for piece in of_row] for of_row in pieces]
        flat = [slot for of_row in slots for slot in of_row]
        lengths = [len(slot.piece) for slot in flat]
        asked.left = len(flat)
        self._scheduler.queue(request, list(zip(lengths, flat, strict=True)))
        self._dispatch()
        await asked.done
        for length in lengths:
            self._meters.input_length.observe(length)
        asked.times.queue /= len(flat)
        asked.times.inference /= len(flat)
        values = [
            self._merge(row, [slot.found for slot in of_row]) for row, of_row in zip(question.rows, slots, strict=True)
        ]
        if question.after:
            after = question.after
            values = await self.tokenizing(lambda: after(values))
        return Answers(values, sum(lengths), asked.times)

    def _merge(self, row: dict[str, Any], parts: list[Any]) -> Any:
        return self.engine.merge(row, parts)

    def _dispatch(self) -> None:
        """Give batches out as long as there is somebody to take them."""
        while self._free and self.ready:
            now = monotonic()
            self._scheduler.expire(now)
            batch = self._scheduler.take(now)
            if batch is None:
                return
            self._free -= 1
            self._running.append(batch.taken)
            running = asyncio.get_running_loop().run_in_executor(self._callers, self._run, batch)
            running.add_done_callback(lambda done, batch=batch: self._finish(batch, done))  # type: ignore[misc]

    def _run(self, batch: Batch) -> list[Any]:
        """What each row tells, or the error that is its own. In a thread of its own."""
        slots = [row.item for row in batch.rows]
        try:
            return self.engine.run(batch.shape, [slot.piece for slot in slots])
        except Exception as error:  # noqa: BLE001  it is raised where the answer is awaited
            failure = error
        if len(slots) == 1 or not _of_a_row(failure):
            return [failure] * len(slots)
        # Whichever row it was, the others are not to fail with it.
        return [self._run_alone(batch, slot, failure) for slot in slots]

    def _run_alone(self, batch: Batch, slot: Slot, failure: Exception) -> Any:
        if slot.asked.done.done():  # late, left, or failed with another of its rows
            return failure
        try:
            return self.engine.run(batch.shape, [slot.piece])[0]
        except Exception as error:  # noqa: BLE001  as above
            return error

    def _finish(self, batch: Batch, done: asyncio.Future[list[Any]]) -> None:
        now = monotonic()
        self._free += 1
        self._running.remove(batch.taken)
        self._scheduler.finish(batch, now)
        found = [PoolClosedError()] * len(batch.rows) if done.cancelled() else done.result()
        failed = False
        for row, value in zip(batch.rows, found, strict=True):
            slot: Slot = row.item
            asked = slot.asked
            asked.times.queue += batch.taken - asked.begun - asked.times.tokenization
            asked.times.inference += now - batch.taken
            asked.left -= 1
            if isinstance(value, Exception):
                failed = True
                if not asked.done.done():
                    asked.done.set_exception(value)
            else:
                slot.found = value
                self._answered = now
                if not asked.left and not asked.done.done():
                    asked.done.set_result(None)
        self._well = any(not isinstance(value, Exception) for value in found)
        self._meters.note(self.name, batch, failed=failed)
        self._dispatch()


def _of_a_row(error: Exception) -> bool:
    """Whether a row by itself may fare better: not where there is no worker, or where each would take as long again."""
    if isinstance(error, WorkerLostError):
        return not error.late
    return not isinstance(error, PoolClosedError | WorkerStartError)
