"""Calls given out to workers, and workers replaced.

Owns: one queue for all; which worker takes which call, what becomes of the call of a worker that ended, when a worker
is started again. Knows nothing of artifacts, nor of what a call holds.
"""

from __future__ import annotations

import logging
import os
import selectors
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from neuronbert.errors import NeuronBertError, PoolClosedError, WorkerLostError, WorkerStartError, first_line
from neuronbert.workers.process import Worker, WorkerEnded, WorkerLate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

State = Literal["starting", "idle", "busy", "down", "closed"]
"""down: it could not be started, and is tried again in a while."""

logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())  # a program that logs nothing isn't to see it on stderr

_DEATHS: Final = 2
"""Workers that one call may cost."""
_LONGEST_PAUSE: Final = 60.0
_GRACE: Final = 2.0
"""Seconds that idle workers have to end by themselves."""
_ANOTHER_PROCESS: Final = "belongs to the process that opened it, and this one was forked off"


@dataclass(frozen=True, slots=True)
class Health:
    """How one worker is.

    Attributes:
        number: Of the worker, from 0.
        pid: Of its process; None while there is none.
        state: What it is doing.
        calls: How many it has answered, over all of its processes.
        restarts: How often its process was replaced.
        busy_seconds: How long it has been at its call; 0 if it has none.
        problem: Why it was started again last, or can't be.
    """

    number: int
    pid: int | None
    state: State
    calls: int
    restarts: int
    busy_seconds: float
    problem: str


@dataclass(eq=False, slots=True)
class _Call:
    name: str
    message: Sequence[memoryview]
    answer: Future[tuple[Tensor, ...]]
    deaths: int = 0

    def begin(self) -> bool:
        """Whether it is still wanted."""
        return bool(self.deaths) or self.answer.set_running_or_notify_cancel()


@dataclass(eq=False, slots=True)
class _Seat:
    number: int
    worker: Worker | None = None
    state: State = "starting"
    calls: int = 0
    restarts: int = 0
    since: float = 0.0
    failures: int = 0
    """Starts in a row that came to nothing."""
    error: NeuronBertError | None = None
    problem: str = ""


class Crew:
    """Workers that take calls from one queue, each the next one as soon as it is free.

    Args:
        hire: Starts the worker of a number.
        count: How many there are.
        one_first: Start the others when the first is ready: where loading compiles, they find what it left.
    """

    def __init__(self, hire: Callable[[int], Worker], count: int, *, one_first: bool = False) -> None:
        self._hire = hire
        self._one_first = one_first
        self._owner = os.getpid()
        self._queue = _Queue()
        self._changed = Condition()
        self._closing = Event()
        self._seats = [_Seat(number) for number in range(count)]
        self._threads = [
            Thread(target=self._keep, args=[seat], daemon=True, name=f"neuronbert-worker-{seat.number}")
            for seat in self._seats
        ]

    def open(self) -> None:
        """Start all workers and wait until they are ready.

        Raises:
            NeuronBertError: one of them is not; all are ended.
        """
        try:
            if self._one_first:
                self._threads[0].start()
                self._settle(self._seats[:1])
            for thread in self._threads[self._one_first :]:
                thread.start()
            self._settle(self._seats)
        except BaseException:
            self.close()
            raise

    def _settle(self, seats: Sequence[_Seat]) -> None:
        """Wait until these workers are ready, or one of them can't be."""

        def failed() -> NeuronBertError | None:
            return next((seat.error for seat in seats if seat.error), None)

        with self._changed:
            self._changed.wait_for(lambda: failed() or all(seat.state != "starting" for seat in seats))
            if error := failed():
                raise error

    def submit(self, name: str, message: Sequence[memoryview]) -> Future[tuple[Tensor, ...]]:
        """Queue a call.

        Args:
            name: Of the call, for messages.
            message: As a worker takes it.

        Returns:
            Its outputs to come. An answer comes exactly once, whatever happens to workers.

        Raises:
            PoolClosedError: there is nobody to answer it.
        """
        call = _Call(name, message, Future())
        with self._changed:
            if self._owner != os.getpid():
                raise PoolClosedError(_ANOTHER_PROCESS)
            if self._closing.is_set():
                raise PoolClosedError
            if down := self._why_down():
                raise down
            self._queue.put(call)
        return call.answer

    def health(self) -> tuple[Health, ...]:
        """How every worker is, now."""
        with self._changed:
            return tuple(
                Health(
                    number=seat.number,
                    pid=seat.worker.pid if seat.worker else None,
                    state=seat.state,
                    calls=seat.calls,
                    restarts=seat.restarts,
                    busy_seconds=monotonic() - seat.since if seat.state == "busy" else 0.0,
                    problem=seat.problem,
                )
                for seat in self._seats
            )

    def close(self) -> None:
        """End all workers; whatever still waits for an answer gets an error. Closing twice is closing once."""
        if self._owner != os.getpid():
            return  # after a fork the workers are the other process's
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            workers = [seat.worker for seat in self._seats if seat.worker]
            self._changed.notify_all()
        for worker in workers:
            worker.hang_up()
        try:
            self._join()
        except BaseException:  # Ctrl-C once more: nobody waits for them to end by themselves
            for worker in workers:
                worker.kill()
            self._join()
            raise
        finally:
            self._refuse_queued(PoolClosedError())
            self._queue.close()

    def _join(self) -> None:
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _keep(self, seat: _Seat) -> None:
        """Keep one worker going: the life of a seat's thread."""
        while not self._closing.is_set():
            worker = self._start(seat)
            if worker is None:
                self._pause(seat)
                continue
            try:
                problem = self._serve(seat, worker)
            except Exception as error:  # noqa: BLE001  without this thread, whoever waits would wait for ever
                problem = f"was given up ({first_line(error)})"
            if not self._closing.is_set():
                logger.warning("worker %d %s; another takes its place", seat.number, problem)
            worker.end(_GRACE if self._closing.is_set() else 0)
            with self._changed:
                seat.worker, seat.problem = None, problem
                seat.state = "closed" if self._closing.is_set() else "starting"
                seat.restarts += not self._closing.is_set()
        with self._changed:
            seat.state = "closed"
            self._changed.notify_all()  # whoever opens it may not know yet that it was closed

    def _start(self, seat: _Seat) -> Worker | None:
        worker = None
        try:
            worker = self._hire(seat.number)
            with self._changed:
                seat.worker = worker
                if self._closing.is_set():
                    worker.hang_up()
            worker.wait_ready()
        except NeuronBertError as error:
            self._mark_down(seat, worker, error)
        except WorkerEnded as ended:
            self._mark_down(seat, worker, WorkerStartError(seat.number, str(ended)))
        except Exception as error:  # noqa: BLE001  no memory, no process, no file: the seat's thread must outlive it
            self._mark_down(seat, worker, WorkerStartError(seat.number, f"can't be had ({first_line(error)})"))
        else:
            with self._changed:
                seat.state, seat.failures, seat.error = "idle", 0, None
                self._changed.notify_all()
            return worker
        return None

    def _mark_down(self, seat: _Seat, worker: Worker | None, error: NeuronBertError) -> None:
        if worker:
            worker.end()
        with self._changed:
            if self._closing.is_set():  # it was the pool that ended it
                error = PoolClosedError()
            seat.worker, seat.state, seat.error, seat.problem = None, "down", error, str(error)
            seat.failures += 1
            down = self._why_down()
            if down:
                self._refuse_queued(down)
            self._changed.notify_all()

    def _why_down(self) -> NeuronBertError | None:
        """Why no worker can take a call, now or soon; None if one can."""
        return self._seats[0].error if all(seat.state == "down" for seat in self._seats) else None

    def _pause(self, seat: _Seat) -> None:
        with self._changed:
            self._changed.wait_for(self._closing.is_set, min(2.0 ** min(seat.failures, 10), _LONGEST_PAUSE))

    def _serve(self, seat: _Seat, worker: Worker) -> str:
        """Give a worker one call after another until it ends; why it did."""
        with selectors.PollSelector() as either:
            either.register(worker.connection, selectors.EVENT_READ)
            either.register(self._queue, selectors.EVENT_READ)
            while not self._closing.is_set():
                ready = [key.fileobj for key, _ in either.select()]
                if worker.connection in ready:
                    return worker.how_ended()  # it speaks only when it is asked
                call = self._queue.take()
                problem = self._run(seat, worker, call) if call is not None and call.begin() else ""
                if problem:
                    return problem
        return ""

    def _run(self, seat: _Seat, worker: Worker, call: _Call) -> str:
        """Run one call; why the worker ended, if it did."""
        with self._changed:
            seat.state, seat.since = "busy", monotonic()
        try:
            outputs = worker.run(call.message)
        except WorkerEnded as ended:
            self._give_back(call, str(ended), late=isinstance(ended, WorkerLate))
            return str(ended)
        except NeuronBertError as error:
            call.answer.set_exception(error)
        except Exception as error:
            self._give_back(call, first_line(error))
            raise
        else:
            call.answer.set_result(outputs)
        with self._changed:
            seat.state, seat.calls = "idle", seat.calls + 1
        return ""

    def _give_back(self, call: _Call, problem: str, *, late: bool = False) -> None:
        """Queue a call once more, before all others; unless it has cost enough workers."""
        call.deaths += 1
        with self._changed:
            if not self._closing.is_set() and call.deaths < _DEATHS:
                self._queue.put(call, first=True)
                return
            lost = WorkerLostError(call.name, _DEATHS, problem, late=late)
            error = PoolClosedError() if self._closing.is_set() else lost
        call.answer.set_exception(error)

    def _refuse_queued(self, error: NeuronBertError) -> None:
        while (call := self._queue.take()) is not None:
            if call.begin():
                call.answer.set_exception(error)


class _Queue:
    """Calls in order. As a file it can be read while there is one, so that a thread can wait for this and for more."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()
        self._count = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._count

    def put(self, call: _Call, *, first: bool = False) -> None:
        (self._calls.appendleft if first else self._calls.append)(call)
        os.eventfd_write(self._count, 1)

    def take(self) -> _Call | None:
        """The next call; None if another thread was faster."""
        try:
            os.eventfd_read(self._count)
        except BlockingIOError:
            return None
        return self._calls.popleft()

    def close(self) -> None:
        os.close(self._count)
