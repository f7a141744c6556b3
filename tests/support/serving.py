"""Servers for tests, on a port of this machine: one as a process, one in a thread whose models run in this process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from neuronbert import engine as engines
from neuronbert.engine import Engine
from neuronbert.runtime import Session
from neuronbert.server.app import create_app
from neuronbert.server.connection import Connection
from neuronbert.server.exchange import Site
from neuronbert.server.settings import Settings

PATIENCE = 120.0


class Process:
    """`neuronbert serve` as it is started by users.

    Attributes:
        url: Where it listens.
        log: What it has written so far, each line read as JSON.
    """

    def __init__(self, *arguments: object, ready: bool = True) -> None:
        command = [Path(sys.executable).with_name("neuronbert"), "serve", "--port", "0", *map(str, arguments)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.log: list[dict[str, Any]] = []
        self.rest: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = str(self.wait_for("ready" if ready else "listening")["url"])

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                if line.startswith("{"):
                    self.log.append(json.loads(line))
                else:
                    self.rest.append(line)
                self._changed.notify_all()
        with self._changed:
            self.log.append({"event": "end"})
            self._changed.notify_all()

    def wait_for(self, event: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((line for line in self.log if line["event"] in (event, "end")), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None, PATIENCE)
            line = found()
        assert line is not None
        assert line["event"] == event, self.rest
        return line

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        return self._process.wait(seconds)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


class Here(Session):
    """A session of this process in the place of a pool."""

    def health(self) -> tuple[Any, ...]:
        return ()


@contextmanager
def served(models: Mapping[str, Path], **settings: Any) -> Iterator[tuple[str, Site]]:
    """A server in a thread. What differs from `neuronbert serve` is that its models run here: no process is started."""
    up = threading.Event()
    failures: list[Exception | None] = []

    def started(error: Exception | None) -> None:
        failures.append(error)
        up.set()

    original = engines.Pool
    engines.Pool = lambda artifact, *_, **__: Here.open(artifact.path)  # type: ignore[assignment, misc, return-value]
    found = {name: Engine.find(str(path)) for name, path in models.items()}
    app, site = create_app(found, Settings(**settings), started=started)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        options: dict[str, Any] = {
            "http": Connection,
            "ws": "none",
            "timeout_keep_alive": 75,
            "timeout_graceful_shutdown": 1,
        }
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            assert up.wait(PATIENCE)
            assert failures == [None]
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", site
        finally:
            server.should_exit = True
            thread.join()
            engines.Pool = original
