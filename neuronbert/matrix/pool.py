"""Processes side by side, within a number and a bound of memory.

Owns: which waiting piece of work is started when. Knows nothing of what the work is.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from neuronbert.matrix.process import Ended, Process


class Work(Protocol):
    """One piece of work: a process, before and after."""

    def need(self) -> int:
        """The bytes of memory that it will take, as far as is known now."""

    def holds(self) -> str:
        """What only one piece of work may have at a time; empty for nothing."""

    def start(self) -> Process:
        """Start it."""

    def finish(self, process: Process, ended: Ended) -> None:
        """Take up what it left."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once.

    Attributes:
        jobs: Processes.
        memory: Bytes that they may be expected to take together. A piece of work that needs more runs alone.
        timeout: Seconds that one may take; None for as long as it likes.
    """

    jobs: int
    memory: int
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class _Running:
    work: Work
    process: Process
    need: int


def run(works: Iterable[Work], limits: Limits) -> None:
    """Do all of the work; when this is interrupted, whatever runs is ended first."""
    waiting = deque(works)
    running: dict[Future[Ended], _Running] = {}
    with ThreadPoolExecutor(limits.jobs) as threads:
        try:
            while waiting or running:
                _fill(waiting, running, limits, threads)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    held = running.pop(future)
                    held.work.finish(held.process, future.result())
        except BaseException:
            with _uninterrupted():
                for held in running.values():
                    held.process.kill()
            raise


def _fill(
    waiting: deque[Work], running: dict[Future[Ended], _Running], limits: Limits, threads: ThreadPoolExecutor
) -> None:
    while waiting and len(running) < limits.jobs:
        chosen = _choose(waiting, list(running.values()), limits.memory)
        if chosen is None:
            return
        waiting.remove(chosen)
        with _uninterrupted():  # else a process runs that nobody knows of
            held = _Running(chosen, chosen.start(), chosen.need())
            running[threads.submit(held.process.wait, limits.timeout)] = held


def _choose(waiting: deque[Work], running: list[_Running], memory: int) -> Work | None:
    """The first that fits beside what runs; if nothing does, the first, whatever it needs."""
    free = memory - sum(held.need for held in running)
    taken = {held.work.holds() for held in running} - {""}
    fitting = (work for work in waiting if work.need() <= free and work.holds() not in taken)
    return next(fitting, None if running else waiting[0])


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A signal that would raise in the middle of the block does so after it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler is ever called in another
        return
    came: list[int] = []
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    raising = {number: handler for number, handler in known.items() if callable(handler)}
    for caught in raising:
        signal.signal(caught, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)
