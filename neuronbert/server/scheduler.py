"""Which rows run next, in which program, and who is refused.

Owns: Scheduler: the order of clients, the bounds, the rate. Plain data: it has no clock, no thread and no event loop,
so that the server and a simulation drive the same code. Knows nothing of texts, tensors or HTTP.

There is a queue for each compiled length. The one whose head comes first is served, at once and with what it holds: a
row alone runs nearly as well as one of eight, so nobody waits for a fuller batch. The batch is as many rows as a
compiled size holds in full. Heads come in the order of start-time fair queueing: each client has a line of its own, and
clients take turns by the tokens that their rows cost. With one client, or with many of one row each, that is the order
in which rows came.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert.errors import OverloadedError, RequestTooLargeError
from neuronbert.server import queues
from neuronbert.server.queues import Queue, Request, Row
from neuronbert.shapes import StaticShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FADING: Final = 0.95
"""What a batch leaves of the weight of those before it in the measured rate: the last 20 count."""
_LONGEST_RETRY: Final = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """What is held at most, waiting and running together.

    Attributes:
        rows: Rows: texts, pairs, windows of long texts.
        tokens: Their tokens, as padded to the length of their programs.
        size: Bytes of the requests that they came in.
    """

    rows: int = 512
    tokens: int = 1 << 18
    size: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that run together.

    Attributes:
        shape: The program.
        rows: As many as it takes, or fewer where nothing smaller is compiled.
        taken: When.
    """

    shape: StaticShape
    rows: tuple[Row, ...]
    taken: float


class Scheduler:
    """Admits requests, and gives out their rows in batches.

    Every row that was queued ends exactly once: in a batch that `finish` is told of, or among those that `expire` or
    `cancel` return.

    Args:
        shapes: What is compiled.
        limits: What is held at most.
    """

    def __init__(self, shapes: Iterable[StaticShape], limits: Limits) -> None:
        sizes: dict[int, list[int]] = {}
        for shape in shapes:
            sizes.setdefault(shape.sequence_length, []).append(shape.batch_size)
        self._queues = {length: Queue(sorted(sizes[length])) for length in sorted(sizes)}
        self._limits = limits
        self._rate = _Rate()
        self._held = Limits(0, 0, 0)
        self._arrivals = 0
        self._reached = 0
        self._lines: dict[str, int] = {}
        self._deadlines: list[tuple[float, int, Request]] = []

    @property
    def held(self) -> Limits:
        """What is admitted and has not ended."""
        return self._held

    @property
    def full(self) -> bool:
        """Whether there is no room for any row, not for the shortest."""
        held, limits = self._held, self._limits
        shortest = min(self._queues)
        return held.rows >= limits.rows or held.tokens + shortest > limits.tokens or held.size >= limits.size

    @property
    def waiting(self) -> dict[int, int]:
        """How many rows wait, by the length of their programs."""
        return {length: len(queue) for length, queue in self._queues.items()}

    def admit(self, client: str, rows: int, size: int, deadline: float) -> Request:
        """Make room for a request, before anything is done for it.

        Args:
            client: Who asks.
            rows: How many rows it has; 1 or more.
            size: Its bytes.
            deadline: When its answer is of no use any more, on the clock that every `now` is read from.

        Raises:
            OverloadedError: there is no room now.
            RequestTooLargeError: there never is.
        """
        asked = Limits(rows, 0, size)
        self._check(asked, asked)
        request = Request(client, size, rows)
        while self._deadlines and not self._deadlines[0][2].rows:  # nobody may ever call `expire`
            heapq.heappop(self._deadlines)
        self._hold(asked)
        self._arrivals += 1
        heapq.heappush(self._deadlines, (deadline, self._arrivals, request))
        return request

    def queue(self, request: Request, items: Sequence[tuple[int, Any]]) -> list[Row]:
        """Let the rows of an admitted request wait for their programs.

        Args:
            request: As `admit` gave it; once.
            items: For each row its tokens, no more than the longest program takes, and whatever belongs to it. There
                may be more than were admitted, where rows were cut into windows.

        Returns:
            The rows; none if the request was cancelled since.

        Raises:
            OverloadedError: there is no room for so many; the request has ended.
            RequestTooLargeError: there never is; the request has ended.
        """
        if not request.rows:
            return []
        lengths = [self._fit(length) for length, _ in items]
        asked = Limits(len(items), sum(lengths), request.size)
        more = Limits(len(items) - request.rows, asked.tokens, 0)
        try:
            self._check(more, asked)
        except (OverloadedError, RequestTooLargeError):
            self._end(request, request.rows)
            raise
        self._hold(more)
        request.rows = len(items)
        rows = [self._line_up(request, item, length) for (_, item), length in zip(items, lengths, strict=True)]
        request.waiting = set(rows)
        return rows

    def take(self, now: float) -> Batch | None:
        """The batch that runs next, if any row waits. Call `expire` first: what is late is not left out here."""
        heads = [(queue.head(), length, queue) for length, queue in self._queues.items() if len(queue)]
        if not heads:
            return None
        head, length, queue = min(heads, key=lambda entry: entry[0].turn)
        self._reached = head.turn[0]
        size = queue.fit()
        rows = tuple(queue.pop() for _ in range(min(size, len(queue))))
        for row in rows:
            (row.request.waiting or set()).discard(row)
        return Batch(StaticShape(size, length), rows, now)

    def finish(self, batch: Batch, now: float) -> None:
        """Take note that a batch has run, well or not: once for each."""
        self._rate.note(batch, now)
        for row in batch.rows:
            self._hold(Limits(0, -row.length, 0))
            self._end(row.request, 1)

    def expire(self, now: float) -> list[Row]:
        """Drop the rows that still wait although their time is up."""
        dropped: list[Row] = []
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].rows):
            dropped += self.cancel(heapq.heappop(self._deadlines)[2])
        return dropped

    def cancel(self, request: Request) -> list[Row]:
        """Drop the rows of a request that still wait, as nobody wants them any more. Those that run go on."""
        if request.waiting is None:  # not queued yet, and never will be
            self._end(request, request.rows)
            return []
        dropped = list(request.waiting)
        request.waiting.clear()
        for row in dropped:
            row.item = None
            self._hold(Limits(0, -row.length, 0))
            if request.client in self._lines:
                self._lines[request.client] -= row.length
        for length, rows in Counter(row.length for row in dropped).items():
            self._queues[length].drop(rows)
        self._end(request, len(dropped))
        return dropped

    def seconds_behind(self) -> int:
        """Whole seconds that what is held now takes at the rate of the last batches; from 1 to 60."""
        return max(1, min(_LONGEST_RETRY, math.ceil(self._rate.seconds(self._held.tokens))))

    def _fit(self, length: int) -> int:
        return next(compiled for compiled in self._queues if compiled >= length)

    def _line_up(self, request: Request, item: Any, length: int) -> Row:
        if len(self._lines) > 2 * self._held.rows + queues.SLACK:  # who has nothing here any more begins anew
            here = {row.request.client for queue in self._queues.values() for row in queue}
            self._lines = {client: end for client, end in self._lines.items() if client in here}
        begin = max(self._reached, self._lines.get(request.client, 0))
        self._lines[request.client] = begin + length
        self._arrivals += 1
        row = Row(request, item, length, (begin, self._arrivals))
        self._queues[length].push(row)
        return row

    def _check(self, more: Limits, whole: Limits) -> None:
        for name in ("rows", "tokens", "size"):
            most = getattr(self._limits, name)
            if getattr(whole, name) > most:
                raise RequestTooLargeError(_WORDS[name], getattr(whole, name), most)
            if getattr(self._held, name) + getattr(more, name) > most:
                raise OverloadedError(self.seconds_behind())

    def _hold(self, more: Limits) -> None:
        held = self._held
        self._held = Limits(held.rows + more.rows, held.tokens + more.tokens, held.size + more.size)

    def _end(self, request: Request, rows: int) -> None:
        if not rows:
            return
        request.rows -= rows
        self._hold(Limits(-rows, 0, 0 if request.rows else -request.size))


class _Rate:
    """How fast tokens were worked off lately, while there was something to do."""

    def __init__(self) -> None:
        self._tokens = self._seconds = self._last = 0.0

    def note(self, batch: Batch, now: float) -> None:
        # Where several run side by side, each counts from when the one before it was done.
        took = now - max(batch.taken, self._last)
        self._last = now
        self._tokens = _FADING * self._tokens + sum(row.length for row in batch.rows)
        self._seconds = _FADING * self._seconds + took

    def seconds(self, tokens: int) -> float:
        """How long these take; 0 as long as nothing was measured."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0


_WORDS: Final = {"rows": "rows", "tokens": "tokens with their padding", "size": "bytes"}
