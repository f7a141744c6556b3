"""Clients of a server in a process of their own: run as `python bench_load.py`, asked in lines of JSON on stdin.

Owns: asking a server for embeddings over HTTP as OpenAI's protocol has them, from several connections at once, each
with its next request as soon as its last one was answered. Uses nothing but Python, so that it takes little time.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from http.client import HTTPConnection
from typing import Any


class Load:
    """Requests that several clients send over and over.

    Args:
        port: Of the server, on this machine.
        clients: How many connections.
        texts: What is asked for.
        each: How many of them are in one request.
    """

    def __init__(self, port: int, clients: int, texts: list[str], each: int) -> None:
        self._port = port
        self._clients = clients
        self._each = each
        parts = [texts[start : start + each] for start in range(0, len(texts), each)]
        self._bodies = [json.dumps({"input": part, "model": "minilm"}).encode() for part in parts]

    def answers(self) -> list[list[float]]:
        """A vector for each text, all of them asked for once."""
        found: dict[int, list[list[float]]] = {}
        places = iter(range(len(self._bodies)))

        def keep(place: int, body: bytes) -> None:
            data = sorted(json.loads(body)["data"], key=lambda item: item["index"])
            found[place] = [item["embedding"] for item in data]

        self._run(places, keep)
        return [vector for place in sorted(found) for vector in found[place]]

    def rate(self, seconds: float) -> float:
        """Texts that were answered in a second, from when each client has had an answer.

        Args:
            seconds: For how long; and for as long as it takes until every text was answered once.
        """
        times: list[float] = []
        begun = time.perf_counter()
        least = self._clients + len(self._bodies)

        def places() -> Any:
            for place in itertools.count():
                if len(times) >= least and time.perf_counter() - begun > seconds:
                    return
                yield place % len(self._bodies)

        self._run(places(), lambda _place, _body: times.append(time.perf_counter()))
        # What is sent last runs with less and less beside it: only what was answered while everybody asked counts.
        whole = sorted(times)[self._clients - 1 : -self._clients or None]
        return (len(whole) - 1) * self._each / (whole[-1] - whole[0])

    def _run(self, places: Any, keep: Any) -> None:
        failures: list[BaseException] = []
        lock = threading.Lock()

        def take() -> int | None:
            with lock:
                return None if failures else next(places, None)

        def ask_on() -> None:
            try:
                connection = HTTPConnection("127.0.0.1", self._port)
                while (place := take()) is not None:
                    keep(place, self._ask(connection, self._bodies[place]))
                connection.close()
            except BaseException as error:  # noqa: BLE001  it is raised where the threads are joined
                failures.append(error)

        threads = [threading.Thread(target=ask_on) for _ in range(self._clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    @staticmethod
    def _ask(connection: HTTPConnection, body: bytes) -> bytes:
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise ValueError(answer[:200])
        return answer


def main() -> None:
    """Answer what is asked on stdin."""
    for line in sys.stdin:
        asked = json.loads(line)
        load = Load(asked["port"], asked["clients"], asked["texts"], asked["each"])
        answer = load.answers() if asked["seconds"] is None else load.rate(asked["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
