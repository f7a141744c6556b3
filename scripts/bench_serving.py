"""The figures of the server over HTTP, on the loopback: the texts of bench_texts, as OpenAI's clients ask for them.

Owns: the servers, what they are compared with, and the limits. Clients run in a process of their own, beside the server
and its worker, on the same cores; `predict` has these to itself.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bench_peers import differ
from bench_texts import LIMIT, ROUNDING, TEXTS, choose, documentation
from bench_tools import Row, timer

from neuronbert import Predictor, StaticShape, tokenization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_tools import Models

SIZES: Final = (1, 8, 16, 32)
LENGTHS: Final = 16
CLIENTS: Final = {"16 clients of 32 texts": (16, 32), "64 clients of one": (64, 1)}
LEAST: Final = 0.93
"""Of the texts that `predict` answers in a second, in the requests of many texts."""
PEERS: Final = {"infinity": 1.6, "FastAPI + sentence-transformers": 2.0}
"""How many times as many texts we answer as each of them at its best."""
_PATIENCE: Final = 120.0
_SCRIPTS: Final = Path(__file__).parent


def serving(models: Models, rounds: int) -> list[Row]:
    """All texts answered over HTTP, and by `predict` in this process."""
    texts, artifact = prepared(models, LENGTHS, SIZES)
    predictor = Predictor.from_pretrained(str(artifact))
    rows = [{"text": text} for text in texts]
    predict = timer(lambda: predictor.predict(rows, truncate=True))
    with _Clients(texts) as clients, _ours(models, artifact) as port:
        expected = _unit([reply["embedding"] for reply in predictor.predict(rows, truncate=True)])
        _check({"ours": port}, clients, expected)
        rates: dict[str, list[float]] = {"predict": [], **{kind: [] for kind in CLIENTS}}
        for _ in range(rounds):
            first = predict(models.seconds / 2)
            for kind in CLIENTS:
                rates[kind].append(clients.rate(port, kind, models.seconds))
            rates["predict"].append(TEXTS / statistics.median(first + predict(models.seconds / 2)))
    found = [Row(f"serving: {name}", tuple(values), "/s") for name, values in rates.items()]
    for kind, (_, each) in CLIENTS.items():
        share = _over(rates[kind], rates["predict"])
        limit = LEAST if each > 1 else None
        found.append(Row(f"serving: {kind} over predict", share, "x", limit, at_least=True))
    return found


def servers(models: Models, rounds: int) -> list[Row]:
    """The same texts asked of others' servers, one after the other."""
    texts, artifact = prepared(models, LENGTHS, SIZES)
    with ExitStack() as stack:
        clients = stack.enter_context(_Clients(texts))
        ports = {
            "ours": stack.enter_context(_ours(models, artifact)),
            "infinity": stack.enter_context(_infinity(models)),
            "FastAPI + sentence-transformers": stack.enter_context(_plain(models)),
        }
        _check(ports, clients, None)
        rates: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in CLIENTS} for name in ports}
        for _ in range(rounds):
            for name, port in ports.items():
                for kind in CLIENTS:
                    rates[name][kind].append(clients.rate(port, kind, models.seconds))
    found = [
        Row(f"servers: {name}, {kind}", tuple(values), "/s")
        for name, of_name in rates.items()
        for kind, values in of_name.items()
    ]
    best = {name: [max(values) for values in zip(*of_name.values(), strict=True)] for name, of_name in rates.items()}
    for name, limit in PEERS.items():
        share = _over(best["ours"], best[name])
        found.append(Row(f"servers: our best over that of {name}", share, "x", limit, at_least=True))
    return found


def prepared(models: Models, count: int, sizes: Sequence[int]) -> tuple[list[str], Path]:
    """The texts, and an artifact with programs for them.

    Args:
        models: Where it is made.
        count: How many lengths are chosen.
        sizes: The batch sizes of each.
    """
    tokenizer = tokenization.require(models.minilm)
    texts = documentation(tokenizer)
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=LIMIT)["input_ids"]]
    chosen = [shape.sequence_length for shape in choose(lengths, count)]
    shapes = [StaticShape(size, length) for length in chosen for size in sizes]
    return texts, models.export(models.minilm, shapes, "none").path


def _check(ports: dict[str, int], clients: _Clients, expected: np.ndarray | None) -> None:
    """End the run if a server answers something else than was expected, or than the first one."""
    for name, port in ports.items():
        for kind in CLIENTS:
            found = clients.answers(port, kind)
            expected = found if expected is None else expected
            differ(f"{name}, {kind}", found, expected, ROUNDING)


def _unit(vectors: Any) -> np.ndarray:
    values = np.array(vectors)
    unit: np.ndarray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def _over(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(one, other, strict=True))


class _Clients:
    """The process that asks; use it in a `with`."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        command = [sys.executable, _SCRIPTS / "bench_load.py"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()

    def answers(self, port: int, kind: str) -> np.ndarray:
        """A vector for each text."""
        return np.array(self._ask(port, kind, None))

    def rate(self, port: int, kind: str, seconds: float) -> float:
        """Texts that are answered in a second."""
        return float(self._ask(port, kind, seconds))

    def _ask(self, port: int, kind: str, seconds: float | None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        count, each = CLIENTS[kind]
        asked = {"port": port, "clients": count, "each": each, "texts": self._texts, "seconds": seconds}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit("bench.py: the clients have ended; what they said stands above")
        return json.loads(line)


@contextmanager
def _ours(models: Models, artifact: Path) -> Iterator[int]:
    # A worker for each thread: what the server itself does then holds up one of them, and not all of a call's threads.
    command = [Path(sys.executable).with_name("neuronbert"), "serve", artifact, "--workers", models.threads]
    with _server("/readyz", lambda port: [*command, "--port", port]) as port:
        yield port


@contextmanager
def _infinity(models: Models) -> Iterator[int]:
    def command(port: int) -> list[Any]:
        given = ["--model-id", models.minilm, "--served-model-name", "minilm", "--engine", "torch", "--device", "cpu"]
        return [models.infinity, "v2", *given, "--url-prefix", "/v1", "--no-bettertransformer", "--port", port]

    with _server("/v1/models", command) as port:
        yield port


@contextmanager
def _plain(models: Models) -> Iterator[int]:
    script = _SCRIPTS / "bench_plain_server.py"
    with _server("/docs", lambda port: [sys.executable, script, models.minilm, models.threads, port]) as port:
        yield port


@contextmanager
def _server(ready: str, command: Callable[[int], list[Any]]) -> Iterator[int]:
    """A server on a free port, once it answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = int(free.getsockname()[1])
    said = subprocess.DEVNULL
    with subprocess.Popen([str(part) for part in command(port)], stdout=said, stderr=said) as process:
        try:
            _wait_for(process, port, ready)
            yield port
        finally:
            process.kill()


def _wait_for(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"bench.py: {process.args!r} does not answer")
