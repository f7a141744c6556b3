"""`neuronbert serve` as a process: its start, a worker that dies, its end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from cli.app import app
from neuronbert import StaticShape
from tests.support.serving import PATIENCE, Process

SHAPES = (StaticShape(1, 16), StaticShape(4, 16), StaticShape(4, 48))
TEXTS = ["Bread.", "A man is playing a guitar on the street."]


def workers(pid: int) -> list[int]:
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [child for child in found if b"neuronbert.workers" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_the_life_of_a_server(exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONBERT_API_KEY", "s3cret")
    artifact = exported("sentence-embedding", *SHAPES)
    key = {"authorization": "Bearer s3cret"}
    with Process(f"mine={artifact}", "--grace", "3", ready=False) as server, server.client(headers=key) as client:
        assert client.get("/livez").status_code == 200
        early = [client.get(path).status_code for path in ("/readyz", "/health", "/ping")]
        assert early == [503] * 3
        assert client.post("/embed", json={"inputs": TEXTS}).status_code == 503
        server.wait_for("ready")
        assert [client.get(path).status_code for path in ("/readyz", "/health", "/ping")] == [200] * 3
        assert httpx.post(f"{server.url}/embed", json={"inputs": TEXTS}).status_code == 401
        expected = client.post("/embed", json={"inputs": TEXTS}).json()

        (worker,) = workers(server.pid)
        os.kill(worker, signal.SIGKILL)
        again = client.post("/embed", json={"inputs": TEXTS})
        assert np.allclose(again.json(), expected, atol=1e-6)
        assert 'neuronbert_worker_restarts{model="mine",worker="0"} 1.0' in client.get("/metrics").text
        (replaced,) = workers(server.pid)
        assert replaced != worker

        os.kill(replaced, signal.SIGSTOP)
        found: list[httpx.Response] = []
        flying = threading.Thread(target=lambda: found.append(client.post("/embed", json={"inputs": TEXTS})))
        flying.start()
        told = time.monotonic()
        server.send(signal.SIGTERM)
        server.wait_for("ending")
        assert client.get("/readyz").status_code == 503
        os.kill(replaced, signal.SIGCONT)
        assert client.post("/embed", json={"inputs": TEXTS}).status_code == 200
        flying.join(PATIENCE)
        assert np.allclose(found[0].json(), expected, atol=1e-6)
        assert server.wait() == 0
        assert 3 <= time.monotonic() - told < 30
        assert not Path(f"/proc/{replaced}").exists()
        assert server.rest == []  # nothing but JSON
        asked = [line for line in server.log if line["event"] == "request"]
        assert {line["status"] for line in asked} == {200, 401, 503}
        assert next(line for line in asked if line["status"] == 200)["tokens"] > 2
        assert "s3cret" not in str(server.log)


def test_what_cannot_be_served_is_one_line(exported: Callable[..., Path]) -> None:
    def serve(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["serve", *map(str, arguments)])
        assert done.stderr.count("\n") == 1
        return done.exit_code, done.stderr

    good = exported("sentence-embedding", *SHAPES)
    code, said = serve(exported("multiple-choice"))
    assert code == 2
    assert said.startswith("Error: artifact is for multiple-choice, which is not served. Served are: ")
    code, said = serve(good, good)
    assert code == 2
    assert "NAME=ARTIFACT" in said
    assert serve(good.parent / "nothing")[0] == 3
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = serve(good, "--port", port)
    assert code == 2
    assert f"port is '127.0.0.1:{port}'; it must be where this process can listen" in said
