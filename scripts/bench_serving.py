"""The figures of the server over HTTP, on the loopback: the texts of bench_texts, against `predict` in this process.

Owns: the clients, and the limit. The clients run in this process, beside the server and its worker, on the same cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bench_texts import LIMIT, ROUNDING, TEXTS, choose, documentation
from bench_tools import Row, over, take_turns, timer

from neuronbert import Predictor, StaticShape, tokenization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench_tools import Models

SIZES: Final = (1, 8, 32)
LENGTHS: Final = 5
CLIENTS: Final = {"16 clients of 32 texts": (16, 32), "64 clients of one": (64, 1)}
LEAST: Final = 0.93
"""How many times as long `predict` must take as the clients of 32 texts."""


def serving(models: Models, rounds: int) -> list[Row]:
    """All texts answered over HTTP, in requests of 32 texts and of one, and by `predict`."""
    tokenizer = tokenization.require(models.minilm)
    pieces = documentation(tokenizer)
    lengths = [len(ids) for ids in tokenizer(pieces, truncation=True, max_length=LIMIT)["input_ids"]]
    chosen = [shape.sequence_length for shape in choose(lengths, LENGTHS)]
    shapes = [StaticShape(size, length) for length in chosen for size in SIZES]
    artifact = models.export(models.minilm, shapes, "none")
    predictor = Predictor.from_pretrained(str(artifact.path))
    candidates: dict[str, Callable[[], Any]] = {"predict": lambda: predictor.predict(pieces, truncate=True)}
    with _server(artifact.path) as port, ThreadPoolExecutor(64) as several:
        for name, (_, texts) in CLIENTS.items():
            candidates[name] = _clients(several, port, [pieces[at : at + texts] for at in range(0, TEXTS, texts)], name)
        expected = np.array([reply["embedding"] for reply in candidates["predict"]()])
        for name in CLIENTS:
            answers = np.concatenate([json.loads(body) for body in candidates[name]()])
            if not np.allclose(answers, expected, atol=ROUNDING):
                raise ValueError(name)
        taken = take_turns({name: timer(call) for name, call in candidates.items()}, rounds, models.seconds)
    rows = []
    for name in candidates:
        rows.append(Row(f"serving: {name}", tuple(TEXTS / value for value in taken[name]), "/s"))
    for name, (_, texts) in CLIENTS.items():
        limit = LEAST if texts > 1 else None
        ratio = over(taken["predict"], taken[name])
        rows.append(Row(f"serving: time of predict over that of {name}", ratio, "x", limit, at_least=True))
    return rows


def _clients(several: ThreadPoolExecutor, port: int, requests: list[list[str]], name: str) -> Callable[[], list[bytes]]:
    bodies = [json.dumps({"inputs": texts, "truncate": True, "normalize": False}) for texts in requests]
    held, most = local(), CLIENTS[name][0]

    def ask(body: str) -> bytes:
        if not hasattr(held, "connection"):
            held.connection = HTTPConnection("127.0.0.1", port)
        held.connection.request("POST", "/embed", body, {"Content-Type": "application/json"})
        response = held.connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise ValueError(answer)
        return answer

    def each(first: int) -> list[tuple[int, bytes]]:
        return [(place, ask(bodies[place])) for place in range(first, len(bodies), most)]

    def ask_all() -> list[bytes]:
        answers = dict(pair for pairs in several.map(each, range(most)) for pair in pairs)
        return [answers[place] for place in range(len(bodies))]

    return ask_all


@contextmanager
def _server(artifact: Path) -> Iterator[int]:
    command = [Path(sys.executable).with_name("neuronbert"), "serve", artifact, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                event = json.loads(line)
                if event["event"] == "ready":
                    break
            # What it logs goes on being read, or the pipe would be full one day and the server wait.
            with ThreadPoolExecutor(1) as reading:
                reading.submit(process.stderr.read)
                yield int(event["url"].rpartition(":")[2])
                process.kill()
        finally:
            process.kill()
