"""`neuronbert serve` as a process: its start, a worker that dies, its end."""

from __future__ import annotations

import gzip
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
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
        claimed = {"x-forwarded-for": "203.0.113.7"}  # by somebody who is no proxy of ours
        expected = client.post("/embed", json={"inputs": TEXTS}, headers=claimed).json()

        (worker,) = workers(server.pid)
        nice = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (server.pid, worker)]
        assert nice[1] >= min(19, nice[0] + 10)  # so that reading and refusing don't wait for programs
        assert os.getsid(worker) == os.getsid(server.pid)  # where Linux groups by sessions, it would be for nothing
        os.kill(worker, signal.SIGKILL)
        again = client.post("/embed", json={"inputs": TEXTS})
        assert np.allclose(again.json(), expected, atol=1e-6)
        assert 'neuronbert_worker_restarts{model="mine",worker="0"} 1.0' in client.get("/metrics").text
        (lost,) = [line["event"] for line in server.log if line["level"] == "warning"]
        assert lost.startswith("worker 0 ")
        assert lost.endswith("; another takes its place")
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
        assert {line["client"] for line in asked} == {"127.0.0.1"}
        assert "s3cret" not in str(server.log)


def test_it_takes_as_many_connections_as_it_may(exported: Callable[..., Path]) -> None:
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        with Process(exported("sentence-embedding", *SHAPES)) as server:
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (most, most)
            server.send(signal.SIGINT)
            server.wait_for("ending")
            server.send(signal.SIGINT)  # at once
            assert server.wait() == 0
            assert not [line for line in server.log if line.get("level", "info") != "info"]
            assert server.rest == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))


def test_a_server_that_still_loads_ends_when_it_is_told_to(exported: Callable[..., Path]) -> None:
    with Process(exported("sentence-embedding", *SHAPES), "--grace", "60", ready=False) as server:
        end = time.monotonic() + PATIENCE
        while not (loading := workers(server.pid)):
            assert time.monotonic() < end
        os.kill(loading[0], signal.SIGSTOP)  # it never gets ready
        server.send(signal.SIGTERM)
        assert server.wait(30) == 0
        assert not Path(f"/proc/{loading[0]}").exists()
        assert not any(line["event"] == "ready" for line in server.log)
        assert server.rest == []


class Collector(BaseHTTPRequestHandler):
    """Takes spans as OTLP sends them over HTTP."""

    spans: ClassVar[list[Span]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        found = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        for own in found.resource_spans:
            assert ("service.name", "neuronbert") in told(own.resource).items()
            self.spans.extend(span for scope in own.scope_spans for span in scope.spans)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def told(something: Any) -> dict[str, Any]:
    values = {pair.key: pair.value for pair in something.attributes}
    return {name: getattr(value, value.WhichOneof("value")) for name, value in values.items()}


def test_spans_are_sent_and_a_proxy_is_believed(exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = exported("sentence-embedding", *SHAPES)
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        options = ("--grace", "0", "--forwarded-allow-ips", "10.0.0.0/8, 127.0.0.1")
        with Process(f"mine={artifact}", *options) as server, server.client() as client:
            caller, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
            headers = {"traceparent": f"00-{caller}-{parent}-01", "x-forwarded-for": "203.0.113.7"}
            assert client.post("/embed", json={"inputs": TEXTS}, headers=headers).status_code == 200
            assert client.get("/livez").status_code == 200
            server.send(signal.SIGTERM)
            assert server.wait() == 0
            asked = [line for line in server.log if line["event"] == "request"]
        collector.shutdown()
    assert [line["client"] for line in asked] == ["203.0.113.7"]
    spans = {span.name: span for span in Collector.spans}
    assert set(spans) == {"POST /embed", "ask mine"}
    outer, inner = spans["POST /embed"], spans["ask mine"]
    assert {span.trace_id.hex() for span in spans.values()} == {caller}
    assert (outer.parent_span_id.hex(), inner.parent_span_id) == (parent, outer.span_id)
    assert told(outer)["http.response.status_code"] == 200
    assert told(inner)["neuronbert.rows"] == 2
    assert 0 < told(inner)["neuronbert.inference.duration"] < PATIENCE
    assert not any(text in str(spans) for text in TEXTS)


def test_spans_that_cannot_be_sent_are_one_line(exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    done = CliRunner().invoke(app, ["serve", str(exported("sentence-embedding", *SHAPES))])
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert "telemetry" in done.stderr


def test_what_cannot_be_served_is_one_line(exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
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
    for named in (f"a/b={good}", f"={good}", f"a\nb={good}", "a="):
        assert serve(named)[0] == 2
    for key in ("", "two words", "schlüssel"):
        code, said = serve(good, "--api-key", key)
        assert code == 2
        assert "api_key is '" in said
        assert not key or key not in said
    monkeypatch.setenv("NEURONBERT_API_KEY", "")  # a secret that is empty isn't to open the server
    assert serve(good)[0] == 2
    monkeypatch.delenv("NEURONBERT_API_KEY")
    code, said = serve(good, "--forwarded-allow-ips", "127.0.0.1,here")
    assert code == 2
    assert "10.0.0.0/8" in said
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = serve(good, "--port", port)
    assert code == 2
    assert f"port is '127.0.0.1:{port}'; it must be where this process can listen" in said
