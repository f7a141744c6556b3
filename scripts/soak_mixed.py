"""Everything at once: right requests and wrong ones, clients that leave, workers that are killed.

Owns: what clients do by chance, and what must be found. Knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from soak_client import Connection, LostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from soak_client import Answer
    from soak_server import Server

CLIENTS: Final = 12
_MINUTE: Final = 60.0
_SETTLED: Final = 0.2
"""The share of the time after which memory is looked at first."""
_UNANSWERABLE: Final[Sequence[tuple[int, str, bytes, str]]] = (
    (400, "/embed", b"{", "application/json"),
    (400, "/embed", b'{"inputs": "\xff"}', "application/json"),
    (422, "/embed", b'{"inputs": "\\ud800"}', "application/json"),
    (415, "/embed", b'{"inputs": "a"}', "text/plain"),
    (400, "/embed", b'{"inputs": []}', "application/json"),
    (422, "/embed", b'{"inputs": NaN}', "application/json"),
    (422, "/embed", b'{"inputs": [[1000000]]}', "application/json"),
    (422, "/embed", b'{"inputs": "' + b"a " * 1000 + b'", "truncate": false}', "application/json"),
    (422, "/embed", json.dumps({"inputs": ["a"] * 33}).encode(), "application/json"),
    (413, "/embed", b'{"inputs": "' + b"a" * 2_100_000 + b'"}', "application/json"),
    (424, "/predict", b'{"inputs": "a"}', "application/json"),
    (404, "/v2/models/other/infer", b'{"inputs": []}', "application/json"),
    (404, "/nothing", b"", "application/json"),
    (400, "/v1/embeddings", b"[" * 100_000, "application/json"),
)


class Mixed:
    """A mixed load.

    Args:
        server: What it is for.
        texts: What is asked for.
        expected: Their vectors, of length 1.
        seconds: For how long.
    """

    def __init__(self, server: Server, texts: Sequence[str], expected: np.ndarray, seconds: float) -> None:
        self._server = server
        self._texts = texts
        self._expected = expected
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._did: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._memory: list[int] = []

    async def run(self) -> dict[str, Any]:
        """What became of it. The server has ended then."""
        watching = asyncio.ensure_future(self._watch())
        killing = asyncio.ensure_future(self._kill())
        await asyncio.gather(*(self._client(random.Random(number)) for number in range(CLIENTS)))
        watching.cancel()
        killing.cancel()
        code = await asyncio.get_running_loop().run_in_executor(None, self._server.wait)
        failures = self._server.failures()
        settled = self._memory[int(_SETTLED * len(self._memory)) :]
        # The most of one half and of the other, as there is less for a moment where a worker was killed.
        halves = [max(settled[: len(settled) // 2 or 1]), max(settled[len(settled) // 2 :])]
        growth = halves[1] / halves[0] - 1
        return {
            "seconds": round(self._seconds),
            "did": dict(self._did.most_common()),
            "wrong": self._wrong[:10],
            "logged errors": failures[:5],
            "memory": [f"{held / 2**20:.0f} MiB" for held in (*halves, settled[-1])],
            "exit code": code,
            "kept": not self._wrong and not failures and not code and growth <= 0.05,
        }

    async def _watch(self) -> None:
        """Look at memory; and tell the server to end while it is at work."""
        while time.monotonic() < self._end - 3:
            self._memory.append(self._server.memory)
            await asyncio.sleep(min(5.0, self._seconds / 60))
        self._server.tell_to_end()  # it answers for 5 seconds more, and clients stop asking in 3

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(min(_MINUTE, self._seconds / 4))
            self._did["workers killed"] += self._server.kill_worker()

    async def _client(self, chance: random.Random) -> None:
        connection = Connection(self._server.port)
        acts = (self._embed, self._openai, self._similar, self._refuse, self._leave, self._break_off, self._probe)
        while time.monotonic() < self._end:
            act = chance.choices(acts, weights=(55, 10, 5, 15, 8, 4, 3))[0]
            try:
                problem = await act(connection, chance)
            except (LostError, OSError, ValueError, KeyError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                self._wrong.append(f"{act.__name__[1:]}: {problem}")
            self._did[act.__name__[1:]] += 1
        connection.close()

    def _choose(self, chance: random.Random) -> list[int]:
        return chance.choices(range(len(self._texts)), k=chance.choice((1, 1, 1, 2, 5, 8, 32)))

    async def _post(self, connection: Connection, path: str, body: dict[str, Any]) -> Answer:
        """What is answered in the end: who is told to come again does."""
        while True:
            answer = await connection.ask("POST", path, json.dumps(body).encode())
            if answer.status != 429 or time.monotonic() > self._end:
                return answer
            self._did["told to come again"] += 1
            await asyncio.sleep(int(answer.headers["retry-after"]))

    def _compare(self, answer: Answer, read: Callable[[Any], Any], expected: np.ndarray) -> str:
        """What is wrong with an answer, if anything is."""
        if answer.status != 200:
            return _shown(answer)
        found = np.array(read(json.loads(answer.body)))
        self._did["vectors compared"] += len(found)
        right = found.shape == expected.shape and np.allclose(found, expected, atol=1e-4)
        return "" if right else "not what `predict` gives"

    async def _embed(self, connection: Connection, chance: random.Random) -> str:
        places = self._choose(chance)
        answer = await self._post(connection, "/embed", {"inputs": [self._texts[place] for place in places]})
        return self._compare(answer, lambda found: found, self._expected[places])

    async def _openai(self, connection: Connection, chance: random.Random) -> str:
        places = self._choose(chance)
        body = {"input": [self._texts[place] for place in places], "encoding_format": "base64"}
        answer = await self._post(connection, "/v1/embeddings", body)
        return self._compare(answer, _decoded, self._expected[places])

    async def _similar(self, connection: Connection, chance: random.Random) -> str:
        first, *others = chance.choices(range(len(self._texts)), k=4)
        sentences = {"source_sentence": self._texts[first], "sentences": [self._texts[place] for place in others]}
        answer = await self._post(connection, "/similarity", {"inputs": sentences})
        return self._compare(answer, lambda found: found, self._expected[others] @ self._expected[first])

    @staticmethod
    async def _refuse(connection: Connection, chance: random.Random) -> str:
        status, path, body, kind = chance.choice(_UNANSWERABLE)
        answer = await connection.ask("POST", path, body, kind)
        return "" if answer.status == status else f"{body[:40]!r} must be {status}: {_shown(answer)}"

    async def _leave(self, connection: Connection, chance: random.Random) -> str:
        texts = [self._texts[place] for place in self._choose(chance)]
        await connection.send("POST", "/embed", json.dumps({"inputs": texts}).encode())
        await asyncio.sleep(chance.random() ** 3)
        connection.close()
        return ""

    @staticmethod
    async def _break_off(connection: Connection, chance: random.Random) -> str:
        await connection.send("POST", "/embed", b'{"inputs": ', length=1000)
        await asyncio.sleep(chance.random())
        connection.close()
        return ""

    @staticmethod
    async def _probe(connection: Connection, chance: random.Random) -> str:
        path = chance.choice(("/livez", "/metrics", "/info", "/openapi.json"))
        answer = await connection.ask("GET", path)
        return "" if answer.status == 200 else f"{path}: {_shown(answer)}"


def _decoded(found: Any) -> Any:
    return [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in found["data"]]


def _shown(answer: Answer) -> str:
    return f"{answer.status} {answer.body[:200]!r}"
