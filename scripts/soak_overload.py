"""Ten times as many requests as a server can answer.

Owns: what is sent when, and what is found. Every request is one text: 200 and 429 are right,
and nothing else; and half of what the server can answer is answered, at least.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
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
_LOOK: Final = 0.5
"""Seconds between two looks at memory."""
_ACCEPTED: Final = 0.5
"""The least share of the saturated throughput that is answered under overload: what sends and refuses ten times as much
is on the processors that compute."""


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
    rate = saturated.statuses[200] / saturated.lasted
    overloaded = await load.exceed(TIMES * rate, seconds)
    figures = Figures(
        rate=rate,
        accepted=overloaded.statuses[200] / overloaded.lasted,
        refused=overloaded.statuses[429],
        p99s=(saturated.p99, overloaded.p99),
        memory=overloaded.memory,
    )
    right = not saturated.wrong and not overloaded.wrong and overloaded.statuses.keys() <= {200, 429}
    return {
        "saturated": saturated.told(),
        "overloaded": overloaded.told(),
        "offered per second": round(sum(overloaded.statuses.values()) / seconds),
        **figures.told(),
        "kept": right and figures.kept,
    }


@dataclass(frozen=True, slots=True)
class Figures:
    """What a server that bears it is judged by.

    Attributes:
        rate: Texts answered in a second at saturation.
        accepted: The same while it was overloaded.
        refused: How many were told to come again.
        p99s: Seconds at saturation, and beyond it.
        memory: Bytes of all its processes, one time after the other.
    """

    rate: float
    accepted: float
    refused: int
    p99s: tuple[float, float]
    memory: Sequence[int]

    @property
    def growth(self) -> float:
        """How much more there was at most than at first, as a share of it."""
        return max(self.memory) / self.memory[0] - 1

    @property
    def kept(self) -> bool:
        """Whether it answers on at half its rate, refuses the rest, and neither slows down twofold nor grows."""
        slower = self.p99s[1] / self.p99s[0]
        return self.accepted >= _ACCEPTED * self.rate and self.refused > 0 and slower <= 2 and self.growth <= 0.05

    def told(self) -> dict[str, Any]:
        """As it is printed."""
        return {
            "accepted over saturated throughput": round(self.accepted / self.rate, 2),
            "p99 over saturated p99": round(self.p99s[1] / self.p99s[0], 2),
            "memory in MiB": {"at first": self.memory[0] >> 20, "at most": max(self.memory) >> 20},
            "memory grew by": f"{self.growth:.1%}",
        }


class _Found:
    """What became of requests."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.took: list[float] = []
        self.wrong: list[str] = []
        self.memory: list[int] = []
        self.lasted = 0.0

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
        found, begun = _Found(), time.perf_counter()

        async def client() -> None:
            while time.perf_counter() < begun + seconds:
                await self._ask(found)

        await asyncio.gather(*(client() for _ in range(HELD)))
        found.lasted = time.perf_counter() - begun
        return found

    async def exceed(self, rate: float, seconds: float) -> _Found:
        """So many requests in a second, whatever becomes of those before them."""
        found, begun, sent = _Found(), time.perf_counter(), 0
        asking: set[asyncio.Task[None]] = set()
        while (passed := time.perf_counter() - begun) < seconds:
            if passed > _FIRST * seconds + _LOOK * len(found.memory):
                found.memory.append(self._server.memory)
            due = int(passed * rate)
            for _ in range(due - sent):
                task = asyncio.ensure_future(self._ask(found))
                asking.add(task)
                task.add_done_callback(asking.discard)
            sent = due
            await asyncio.sleep(_TICK)
        found.memory.append(self._server.memory)
        await asyncio.gather(*asking)
        found.lasted = time.perf_counter() - begun  # until the last of the answers that count
        return found
