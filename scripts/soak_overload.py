"""Ten times as many requests as a server can answer.

Owns: what is sent when, and what is found. Every request is one text: 200 and 429 are right,
and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from soak_client import Connection, LostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soak_server import Server

HELD: Final = 512
"""Texts that the server holds by default: as many clients saturate it, and none is refused."""
TIMES: Final = 10
_WARM_UP: Final = 10.0
_FIRST: Final = 0.2
"""The share of the time after which memory is looked at first."""
_TICK: Final = 0.02


async def overload(server: Server, texts: Sequence[str], expected: np.ndarray, seconds: float) -> dict[str, Any]:
    """What becomes of requests at saturation, and beyond it.

    Args:
        server: Not asked by anybody else.
        texts: What is asked for.
        expected: Their vectors, of length 1.
        seconds: How long it is overloaded; saturated for a third of that.
    """
    load = _Load(server, texts, expected)
    await load.saturate(_WARM_UP)
    saturated = await load.saturate(seconds / 3)
    rate = len(saturated.took) / (seconds / 3)
    overloaded = await load.exceed(TIMES * rate, seconds)
    ratio = overloaded.p99 / saturated.p99
    growth = overloaded.memory[1] / overloaded.memory[0] - 1
    right = not saturated.wrong and not overloaded.wrong and overloaded.statuses.keys() <= {200, 429}
    return {
        "saturated": saturated.told(),
        "overloaded": overloaded.told(),
        "offered per second": round(sum(overloaded.statuses.values()) / seconds),
        "p99 over saturated p99": round(ratio, 2),
        "memory grew by": f"{growth:.1%}",
        "kept": right and ratio <= 2 and growth <= 0.05,
    }


class _Found:
    """What became of requests."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.took: list[float] = []
        self.wrong: list[str] = []
        self.memory = (0, 0)

    @property
    def p99(self) -> float:
        return float(np.quantile(self.took, 0.99))

    def told(self) -> dict[str, Any]:
        times = {f"p{part}": f"{1e3 * float(np.quantile(self.took, part / 100)):.0f} ms" for part in (50, 99)}
        return {"statuses": dict(self.statuses), **times, "wrong": self.wrong[:5]}


class _Load:
    def __init__(self, server: Server, texts: Sequence[str], expected: np.ndarray) -> None:
        self._server = server
        self._bodies = [json.dumps({"inputs": text}).encode() for text in texts]
        self._expected = expected
        self._idle: list[Connection] = []
        self._sent = 0

    async def _ask(self, found: _Found) -> None:
        place = self._sent % len(self._bodies)
        self._sent += 1
        connection = self._idle.pop() if self._idle else Connection(self._server.port)
        begun = time.perf_counter()
        try:
            answer = await connection.ask("POST", "/embed", self._bodies[place])
        except (LostError, OSError) as error:
            found.wrong.append(f"{type(error).__name__}: {error}")
            return
        self._idle.append(connection)
        found.statuses[answer.status] += 1
        if answer.status == 200:
            found.took.append(time.perf_counter() - begun)
            if not np.allclose(json.loads(answer.body)[0], self._expected[place], atol=1e-4):
                found.wrong.append(f"another vector for text {place}")
        elif "retry-after" not in answer.headers:
            found.wrong.append(answer.body.decode())

    async def saturate(self, seconds: float) -> _Found:
        """As many clients as texts are held, each of which sends its next text when it has the last one's vector."""
        found, end = _Found(), time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                await self._ask(found)

        await asyncio.gather(*(client() for _ in range(HELD)))
        return found

    async def exceed(self, rate: float, seconds: float) -> _Found:
        """So many requests in a second, whatever becomes of those before them."""
        found, begun, sent = _Found(), time.perf_counter(), 0
        asking: set[asyncio.Task[None]] = set()
        while (passed := time.perf_counter() - begun) < seconds:
            if not found.memory[0] and passed > _FIRST * seconds:
                found.memory = (self._server.memory, 0)
            due = int(passed * rate)
            for _ in range(due - sent):
                task = asyncio.ensure_future(self._ask(found))
                asking.add(task)
                task.add_done_callback(asking.discard)
            sent = due
            await asyncio.sleep(_TICK)
        found.memory = (found.memory[0], self._server.memory)
        await asyncio.gather(*asking)
        return found
