"""What becomes of requests when there are too many, when they are late or left, and when something fails."""

from __future__ import annotations

import logging
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from neuronbert import StaticShape
from neuronbert.errors import DeviceRunError, PoolClosedError, WorkerLostError, WorkerStartError
from neuronbert.server.exchange import Site
from neuronbert.server.questions import Asked, Slot, Times
from neuronbert.server.queues import Request, Row
from neuronbert.server.scheduler import Batch, Limits
from neuronbert.server.served import Served
from neuronbert.server.settings import Settings
from tests.support.serving import served

KEY = {"authorization": "Bearer s3cret"}
LIMITS = Limits(rows=12)
PATIENCE = 30.0


@pytest.fixture(scope="module")
def server(exported: Callable[..., Path]) -> Iterator[tuple[str, Site]]:
    artifact = exported("sentence-embedding", StaticShape(1, 16), StaticShape(4, 16), StaticShape(4, 48))
    with served({"embed": artifact}, api_key="s3cret", limits=LIMITS) as (url, site):
        yield url, site


@pytest.fixture
def client(server: tuple[str, Site]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[0], headers=KEY, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def model(server: tuple[str, Site]) -> Iterator[Served]:
    model = server[1].models["embed"]
    yield model
    wait_until(lambda: model.held == Limits(0, 0, 0))  # whatever a test did, nothing of it is left


class Gate:
    """Lets no batch run until it is opened, and remembers the texts of those that ran."""

    def __init__(self, model: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.texts: list[str] = []
        self._run = model.engine.run
        monkeypatch.setattr(model.engine, "run", self.run)

    def run(self, shape: StaticShape, pieces: Any) -> list[Any]:
        self.open.wait(PATIENCE)
        self.texts += [piece.row["text"] for piece in pieces]
        return self._run(shape, pieces)


@pytest.fixture
def gate(model: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(model, monkeypatch)
    yield gate
    gate.open.set()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def embed(client: httpx.Client, *texts: str) -> httpx.Response:
    return client.post("/embed", json={"inputs": list(texts)})


def failures(client: httpx.Client) -> dict[str, float]:
    """How many there were, by kind."""
    found = re.findall(r'^te_request_failure{err="(\w+)"} (\S+)$', client.get("/metrics").text, flags=re.MULTILINE)
    return {kind: float(number) for kind, number in found}


def test_answers_go_to_who_asked(client: httpx.Client) -> None:
    texts = [f"{'word ' * (number % 40)}number {number}" for number in range(60)]
    several_each = [
        texts[start : start + 5] for start in range(0, 60, 5)
    ]  # of one length for the most part: they share batches
    with ThreadPoolExecutor(2) as several:
        found = [row for rows in several.map(lambda some: embed(client, *some).json(), several_each) for row in rows]
    for text, vector in list(zip(texts, found, strict=True))[::7]:
        assert np.allclose(embed(client, text).json()[0], vector, atol=1e-5)
    assert len({tuple(np.round(vector, 4)) for vector in found}) == 60


def test_too_many_are_refused_at_once_and_the_others_answered(client: httpx.Client, model: Served, gate: Gate) -> None:
    with ThreadPoolExecutor(12) as several:
        accepted = [several.submit(embed, client, f"text {number}") for number in range(12)]
        wait_until(lambda: model.held.rows == 12)
        refused = embed(client, "one more")
        assert refused.status_code == 429
        assert refused.json() == {"error": "The server is overloaded. Try again in 1 s.", "error_type": "Overloaded"}
        assert refused.headers["retry-after"] == "1"
        gate.open.set()
        assert [answer.result().status_code for answer in accepted] == [200] * 12
    assert "one more" not in gate.texts
    assert sorted(gate.texts) == sorted(f"text {number}" for number in range(12))
    too_many = embed(client, *["a"] * 13)
    assert too_many.status_code == 413
    assert "12" in too_many.json()["error"]


def test_where_there_is_no_room_nothing_is_read(
    client: httpx.Client, model: Served, gate: Gate, server: tuple[str, Site]
) -> None:
    before = failures(client).get("overloaded", 0)
    host, port = server[0].removeprefix("http://").split(":")
    head = "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n{key}\r\n"
    key = f"Authorization: {KEY['authorization']}\r\n"
    with ThreadPoolExecutor(12) as several:
        accepted = [several.submit(embed, client, f"text {number}") for number in range(12)]
        wait_until(lambda: model.held.rows == 12)
        for path, said, status, message in (
            ("/embed", key, b" 429 ", b'"error_type":"Overloaded"'),
            ("/v1/embeddings", key, b" 429 ", b'"type":"Overloaded"'),
            ("/embed", "", b" 401 ", b'"error_type":"Validation"'),
        ):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as waiting:
                waiting.sendall(head.format(path=path, key=said).encode())
                answer = waiting.recv(1 << 16)  # long before the body
                assert status in answer.splitlines()[0]
                assert message in answer
                assert (b"retry-after: 1" in answer) is (b"429" in status)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as going_on:
            for _ in range(2):  # what nobody reads is passed over, so that the connection goes on
                going_on.sendall(head.format(path="/embed", key=key).replace("1000000", "4").encode())
                going_on.sendall(b"what")
                answer = going_on.recv(1 << 16)
                assert b" 429 " in answer.splitlines()[0]
                assert b"connection: close" not in answer
        assert client.get("/info").status_code == 200
        gate.open.set()
        assert [answer.result().status_code for answer in accepted] == [200] * 12
    assert failures(client)["overloaded"] == before + 4


def test_a_model_with_room_keeps_the_others_from_closing_the_server(server: tuple[str, Site]) -> None:
    full, behind = SimpleNamespace(full=True, seconds_behind=7), SimpleNamespace(full=True, seconds_behind=3)
    roomy = SimpleNamespace(full=False, seconds_behind=1)
    models: Any
    for models, is_full in (({"a": full, "b": roomy}, False), ({"a": full, "b": behind}, True)):
        assert replace(server[1], models=models).full is is_full
    assert replace(server[1], models=models).seconds_behind == 3


def test_more_requests_than_may_be_under_way_are_refused(
    client: httpx.Client, model: Served, gate: Gate, server: tuple[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(server[1].settings, requests=1, limits=Limits(rows=1))
    assert len(server[1].models) == 1
    monkeypatch.setattr(server[1], "settings", settings)
    with ThreadPoolExecutor(2) as several:
        accepted = [several.submit(embed, client, f"text {number}") for number in range(2)]
        wait_until(lambda: model.held.rows == 2)
        refused = embed(client, "one more")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert client.get("/livez").status_code == 200
        gate.open.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200]
    assert embed(client, "one more").status_code == 200


def test_what_a_client_has_left_does_not_run(
    client: httpx.Client, model: Served, gate: Gate, server: tuple[str, Site]
) -> None:
    before = failures(client)
    with ThreadPoolExecutor(2) as several:
        running = [several.submit(embed, client, f"runs {number}") for number in range(2)]
        wait_until(lambda: model.held.rows == 2)
        host, port = server[0].removeprefix("http://").split(":")
        body = b'{"inputs": ["left", "left", "left"]}'
        head = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY['authorization']}\r\n"
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(
                f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            wait_until(lambda: sum(model.waiting.values()) == 3)
        wait_until(lambda: model.held.rows == 2)
        gate.open.set()
        assert [answer.result().status_code for answer in running] == [200, 200]
    assert "left" not in gate.texts
    assert failures(client)["dropped"] == before.get("dropped", 0) + 1
    assert failures(client).get("overloaded") == before.get("overloaded")


def test_tokenizing_alone_has_the_same_limits(
    client: httpx.Client, model: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    tokens, decode = model.engine.texts.tokens, model.engine.texts.decode

    def wait(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **options: (hanging.wait(PATIENCE), function(*given, **options))[1]

    monkeypatch.setattr(model.engine.texts, "tokens", wait(tokens))
    monkeypatch.setattr(model.engine.texts, "decode", wait(decode))
    monkeypatch.setattr(model, "_settings", replace(model._settings, timeout=1.0))
    asked: list[tuple[str, dict[str, Any]]] = [("/tokenize", {"inputs": ["a"] * 6}), ("/decode", {"ids": [[7]] * 6})]
    with ThreadPoolExecutor(2) as several:
        late = [several.submit(client.post, path, json=body) for path, body in asked]
        wait_until(lambda: model.held.rows == 12)
        assert [client.post(path, json=body).status_code for path, body in asked] == [429, 429]
        assert [answer.result().status_code for answer in late] == [504, 504]
    hanging.set()
    monkeypatch.undo()
    assert client.post("/tokenize", json={"inputs": "a"}).status_code == 200


def test_what_is_late_does_not_run(
    client: httpx.Client, model: Served, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = failures(client)
    monkeypatch.setattr(model, "_settings", replace(model._settings, timeout=1.0))
    with ThreadPoolExecutor(3) as several:
        late = [several.submit(embed, client, f"late {number}") for number in range(3)]
        responses = [answer.result() for answer in late]
    assert [response.status_code for response in responses] == [504] * 3
    assert all(response.headers["retry-after"] for response in responses)
    assert failures(client)["timeout"] == before.get("timeout", 0) + 3
    assert failures(client).get("overloaded") == before.get("overloaded")
    assert sum(model.waiting.values()) == 0
    monkeypatch.undo()
    gate.open.set()
    assert embed(client, "in time").status_code == 200
    assert len([text for text in gate.texts if text.startswith("late")]) == 2  # which ran when their time was up


def test_a_row_that_fails_fails_alone(client: httpx.Client, model: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    run, first = model.engine.run, threading.Event()

    def fail(shape: StaticShape, pieces: Any) -> list[Any]:
        first.wait(PATIENCE)
        if any("poison" in piece.row["text"] for piece in pieces):
            raise DeviceRunError("/dev/neuron0 said no")
        return run(shape, pieces)

    monkeypatch.setattr(model.engine, "run", fail)
    with ThreadPoolExecutor(8) as several:
        answers = {text: several.submit(embed, client, text) for text in ("a", "b", "c", "d", "poison", "e", "f")}
        wait_until(lambda: model.held.rows == 7)
        first.set()
        statuses = {text: answer.result().status_code for text, answer in answers.items()}
    assert statuses == {"poison": 424, **dict.fromkeys("abcdef", 200)}
    failed = answers["poison"].result().json()
    assert failed["error_type"] == "Backend"
    assert "/dev" not in failed["error"]


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (DeviceRunError("no"), 5),
        (WorkerLostError("4x16", 2, "was ended by SIGKILL", late=False), 5),
        (WorkerLostError("4x16", 2, "gave no answer in 60 s", late=True), 1),
        (WorkerStartError(0, "was ended by SIGKILL"), 1),
    ],
)
def test_rows_run_alone_only_where_that_may_help(
    client: httpx.Client, model: Served, monkeypatch: pytest.MonkeyPatch, error: Exception, calls: int
) -> None:
    sizes: list[int] = []

    def fail(_shape: StaticShape, pieces: Any) -> list[Any]:
        sizes.append(len(pieces))
        raise error

    def run(batch: Any, slots: int) -> list[Any]:
        rows = [Row(Request("a", 1, 1), Slot(Asked(Future(), 1, Times()), [0]), 16, (0, n)) for n in range(slots)]  # type: ignore[arg-type]
        return model._run(replace(batch, rows=tuple(rows)))

    monkeypatch.setattr(model.engine, "run", fail)
    assert run(Batch(StaticShape(4, 16), (), 0.0), 4) == [error] * 4
    assert len(sizes) == calls


def test_rows_of_who_has_left_are_not_run_alone(
    client: httpx.Client, model: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def fail(_shape: StaticShape, pieces: Any) -> list[Any]:
        sizes.append(len(pieces))
        raise DeviceRunError("no")

    monkeypatch.setattr(model.engine, "run", fail)
    left, here = Asked(Future(), 3, Times()), Asked(Future(), 1, Times())  # type: ignore[arg-type]
    left.done.cancel()
    rows = [Row(Request("a", 1, 1), Slot(asked, [0]), 16, (0, 0)) for asked in (left, left, here, left)]  # type: ignore[arg-type]
    model._run(Batch(StaticShape(4, 16), tuple(rows), 0.0))
    assert sizes == [4, 1]


def test_what_nobody_expected_is_logged_and_not_told(
    client: httpx.Client, model: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("/home/secret")

    monkeypatch.setattr(model.engine.texts, "prepare", fail)
    with caplog.at_level(logging.INFO, "neuronbert.server"):
        response = client.post("/embed", json={"inputs": "a"}, headers={"x-request-id": "this-one"})
        wait_until(lambda: any(record.exc_info for record in caplog.records))
    assert response.status_code == 500
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.__dict__["fields"] == {"request": "this-one"}
    assert "secret" in str(record.exc_info)


def test_a_pool_without_workers_is_unhealthy(
    client: httpx.Client, model: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PoolClosedError

    monkeypatch.setattr(model.engine, "probe", fail)
    monkeypatch.setattr(model.engine, "run", fail)
    assert embed(client, "a").status_code == 503
    time.sleep(1.0)  # a batch that ran a moment ago would be proof enough
    assert client.get("/health").json() == {"error": "unhealthy", "error_type": "Unhealthy"}


def test_a_worker_that_hangs_is_unhealthy_in_time(
    client: httpx.Client, model: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(model, "_settings", replace(model._settings, health_timeout=0.3))
    monkeypatch.setattr(model.engine, "probe", lambda: hanging.wait(PATIENCE))
    time.sleep(1.0)
    try:
        assert client.get("/health").status_code == 503
        assert client.get("/readyz").status_code == 200
        assert client.get("/livez").status_code == 200
    finally:
        hanging.set()
        monkeypatch.undo()
    wait_until(lambda: client.get("/health").status_code == 200)


def test_a_long_call_after_an_answer_is_life_until_its_time_is_up(
    client: httpx.Client, model: Served, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_settings", replace(model._settings, health_timeout=0.1))
    hanging = threading.Event()
    monkeypatch.setattr(model.engine, "probe", lambda: hanging.wait(PATIENCE))  # it would wait behind the call
    gate.open.set()
    assert embed(client, "a").status_code == 200
    gate.open.clear()
    with ThreadPoolExecutor(1) as several:
        flying = several.submit(embed, client, "b")
        wait_until(lambda: bool(model._running))
        time.sleep(1.0)
        assert client.get("/health").status_code == 200
        monkeypatch.setattr(model, "_settings", replace(model._settings, call_timeout=0.5))
        assert client.get("/health").status_code == 503
        gate.open.set()
        assert flying.result().status_code == 200
    hanging.set()


def test_a_key_is_asked_for_but_of_probes(server: tuple[str, Site]) -> None:
    with httpx.Client(base_url=server[0]) as stranger:
        for given in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "s3cret"}, {"authorization": b"\xff"}):
            response = stranger.post("/embed", json={"inputs": "a"}, headers=given)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert response.json()["error"] == "Send the API key, as in `Authorization: Bearer KEY`."
        assert stranger.get("/info").status_code == 401
        assert stranger.get("/info", headers={"authorization": "bearer  s3cret"}).status_code == 200
        for path in ("/", "/health", "/livez", "/readyz", "/ping", "/metrics", "/openapi.json"):
            assert stranger.get(path).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(server: tuple[str, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server[1], "settings", replace(server[1].settings, body_timeout=0.3))
    host, port = server[0].removeprefix("http://").split(":")
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY['authorization']}\r\n"
    with socket.create_connection((host, int(port)), PATIENCE) as slow:
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_trickles_is_given_up(server: tuple[str, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(server[1].settings, body_timeout=PATIENCE, whole_body_timeout=0.5)
    monkeypatch.setattr(server[1], "settings", short)
    host, port = server[0].removeprefix("http://").split(":")
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY['authorization']}\r\n"
    with socket.create_connection((host, int(port)), PATIENCE) as slow:
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n{{".encode())
        slow.settimeout(0.1)
        for _ in range(100):
            try:
                answer = slow.recv(1000)
            except TimeoutError:
                slow.sendall(b" ")
            else:
                break
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_bodies_that_come_in_have_room_together(
    client: httpx.Client, server: tuple[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server[1], "settings", replace(server[1].settings, limits=Limits(rows=12, size=200)))
    host, port = server[0].removeprefix("http://").split(":")
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY['authorization']}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), PATIENCE)) for _ in range(2)]
        for connection in slow:
            connection.sendall(f"{head}{'word ' * 50}".encode())  # 250 bytes each, of 400
        (refused,) = select.select(slow, [], [], Settings().body_timeout / 2)[0]
        answer = refused.recv(1000)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in answer
        assert answer.endswith(b'"error_type":"Overloaded"}')
        assert embed(client, "short").status_code == 200
    wait_until(lambda: embed(client, "word " * 70).status_code == 200)


def test_a_length_may_have_any_number_of_zeros(server: tuple[str, Site]) -> None:
    host, port = server[0].removeprefix("http://").split(":")
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY['authorization']}\r\n"
    with socket.create_connection((host, int(port)), PATIENCE) as told:
        length = f"Content-Length: {'0' * 5000}15\r\n\r\n"
        told.sendall(f'{head}Content-Type: application/json\r\n{length}{{"inputs": "a"}}'.encode())
        assert told.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_while_it_ends_it_answers_but_is_not_ready(client: httpx.Client, server: tuple[str, Site]) -> None:
    server[1].ending = True
    try:
        response = embed(client, "a")
        assert (response.status_code, response.headers["connection"]) == (200, "close")
        for path in ("/readyz", "/ping", "/health"):
            assert client.get(path).status_code == 503
        assert client.get("/livez").status_code == 200
    finally:
        server[1].ending = False


def test_what_takes_longer_than_an_ending_server_waits_is_told_so(
    exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = exported("sentence-embedding", StaticShape(1, 16))
    with ThreadPoolExecutor(1) as asking:
        with served({"embed": artifact}) as (url, site):
            model = site.models["embed"]
            gate = Gate(model, monkeypatch)
            flying = asking.submit(httpx.post, f"{url}/embed", json={"inputs": "a"}, timeout=PATIENCE)
            wait_until(lambda: model.held.rows == 1)
        response = flying.result()
        gate.open.set()
    assert response.status_code == 503
    assert response.headers["x-request-id"]
