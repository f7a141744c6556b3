"""Connections whose clients are slow, silent or too talkative, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from neuronbert.server.connection import Connection
from neuronbert.server.exchange import Site
from neuronbert.server.settings import Settings
from neuronbert.shapes import StaticShape
from tests.support.serving import served

PATIENCE = 30.0
INFO = b"GET /info HTTP/1.1\r\nHost: x\r\n"
EMBED = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"inputs": "a"}'


@pytest.fixture(scope="module")
def server(exported: Callable[..., Path]) -> Iterator[tuple[str, Site]]:
    with served({"embed": exported("sentence-embedding", StaticShape(1, 16))}) as server:
        yield server


@pytest.fixture(scope="module")
def address(server: tuple[str, Site]) -> tuple[str, int]:
    host, port = server[0].removeprefix("http://").split(":")
    return host, int(port)


@pytest.fixture
def gate(server: tuple[str, Site], monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No answer is computed until it is set."""
    gate = threading.Event()
    engine = server[1].models["embed"].engine
    run = engine.run

    def wait(shape: StaticShape, pieces: Any) -> list[Any]:
        gate.wait(PATIENCE)
        return run(shape, pieces)

    monkeypatch.setattr(engine, "run", wait)
    yield gate
    gate.set()


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of the next answer."""
    held = received(connection, b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in held.splitlines() if line.startswith(b"content-length"))
    body = b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return int(held.split()[1]), body


def received(connection: socket.socket, end: bytes) -> bytes:
    held = b""
    while not held.endswith(end):
        held += connection.recv(1) or pytest.fail(f"closed after {held!r}")
    return held


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_head_has_a_largest_size(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    most = Connection.head_size - len("/infoHostxX-A")
    with connected(address) as client:
        client.sendall(INFO + b"X-A: " + b"a" * most + b"\r\n\r\n")
        assert answer(client)[0] == 200
        client.sendall(INFO + b"X-A: " + b"a" * (most + 1) + b"\r\n\r\n")
        status, body = answer(client)
        assert (status, json.loads(body)["error_type"]) == (431, "Validation")
        assert is_closed(client)
    monkeypatch.setattr(Connection, "rest_seconds", 0.3)
    with connected(address) as client:
        client.sendall(INFO + b"X-A: " + b"a" * (1 << 20))  # without an end
        assert answer(client)[0] == 431
        assert is_closed(client)
        with pytest.raises(OSError, match=r"reset|pipe"):  # after a while it isn't listened to
            trickle(client)


def test_so_have_the_trailers_of_a_body_and_they_are_no_headers(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "rest_seconds", 0.3)
    chunked = EMBED + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n"
    with connected(address) as client:
        client.sendall(chunked + b"X-Request-Id: theirs\r\nContent-Type: text/plain\r\n\r\n")
        head = received(client, b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0]
        assert b"theirs" not in head
    with connected(address) as client:
        begun = time.monotonic()
        client.sendall(chunked + b"X-A: ")
        with pytest.raises(OSError, match=r"reset|pipe"):
            trickle(client, b"a" * Connection.head_size)
        assert time.monotonic() < begun + Settings().body_timeout  # it isn't that which ends it


def test_many_requests_of_one_connection_have_a_head_each(address: tuple[str, int]) -> None:
    with connected(address) as client:
        for _ in range(4):
            client.sendall(INFO + b"X-A: " + b"a" * (Connection.head_size // 3) + b"\r\n\r\n")
            assert answer(client)[0] == 200
            client.sendall(EMBED + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            assert answer(client)[0] == 200


@pytest.mark.parametrize("begun", [b"", INFO])
def test_a_head_that_does_not_come_closes_the_connection(
    address: tuple[str, int], begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.3)
    with connected(address) as client:
        client.sendall(begun)
        assert is_closed(client)


def test_a_head_that_trickles_closes_the_connection(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.3)
    with connected(address) as client:
        client.sendall(INFO + b"\r\n")
        assert answer(client)[0] == 200
        time.sleep(0.6)  # between requests it may be silent
        client.sendall(INFO + b"X-A: ")
        with pytest.raises(OSError, match=r"reset|pipe"):
            trickle(client)


def trickle(client: socket.socket, part: bytes = b"a") -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        client.sendall(part)
        time.sleep(0.02)


def test_a_head_that_does_not_come_costs_no_answer(
    address: tuple[str, int], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.3)
    with connected(address) as client:
        client.sendall(EMBED + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + b"GET")
        time.sleep(0.6)
        gate.set()
        assert answer(client)[0] == 200
        assert is_closed(client)


def test_the_rest_of_a_body_that_is_not_read_must_come_in_time(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = EMBED + b"Content-Length: 3000000\r\n\r\n"
    with connected(address) as client:  # what is refused by its head; all of the body comes
        client.sendall(large)
        assert answer(client)[0] == 413
        client.sendall(b"a" * 3_000_000 + INFO + b"\r\n")
        assert answer(client)[0] == 200
    monkeypatch.setattr(Connection, "rest_seconds", 0.3)
    for refused, status in ((large, 413), (INFO + b"Content-Length: 100000\r\n\r\n", 200)):
        with connected(address) as client:
            client.sendall(refused)
            assert answer(client)[0] == status
            with pytest.raises(OSError, match=r"reset|pipe"):
                trickle(client)


def test_who_is_refused_while_sending_hears_of_it(address: tuple[str, int]) -> None:
    for more in (b"Connection: close\r\n", b""):
        version = EMBED if more else EMBED.replace(b"HTTP/1.1", b"HTTP/1.0")
        with connected(address) as client:
            client.sendall(version + more + b"Content-Length: 3000000\r\n\r\n")
            time.sleep(0.2)  # it is answered by now, and its connection isn't reset
            for _ in range(3):
                client.sendall(b"a" * 1_000_000)
                time.sleep(0.05)
            assert answer(client)[0] == 413
            assert is_closed(client)


@pytest.mark.parametrize("rest", [b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff what\r\n\r\n"])
def test_after_a_body_that_is_none_nothing_is_heard(
    address: tuple[str, int], rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    broken = EMBED + b"Transfer-Encoding: chunked\r\n\r\n" + b"no number\r\n" + rest
    with connected(address) as client:
        client.sendall(broken)
        assert received(client, b"\r\n").startswith(b"HTTP/1.1 400 ")
        client.sendall(rest * 3)
        while client.recv(1000):
            pass
    with connected(address) as client:
        client.sendall(INFO + b"\r\n" + rest[:3] + b"\x00\r\n\r\n")  # what was asked before is answered
        assert answer(client)[0] == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_answer_that_is_not_taken_is_dropped(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "taking_seconds", 0.3)
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        client.connect(address)
        with pytest.raises(OSError, match=r"reset|pipe"):
            trickle(client, ask * 20)
    with connected(address) as client:  # who takes it slowly gets all of it
        client.sendall(ask * 60)
        for _ in range(60):
            time.sleep(0.02)
            assert answer(client)[0] == 200


def test_a_second_request_has_its_own_time(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "rest_seconds", 0.3)
    with connected(address) as client:
        client.sendall(INFO + b"\r\n" + EMBED + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:3])
        assert answer(client)[0] == 200
        time.sleep(0.8)
        client.sendall(BODY[3:])
        assert answer(client)[0] == 200


def test_who_leaves_is_missed_though_another_request_waits(
    server: tuple[str, Site], address: tuple[str, int], gate: threading.Event
) -> None:
    dropped = server[1].meters.failures.labels("dropped")._value
    before = dropped.get()
    with connected(address) as client:
        client.sendall(EMBED + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + INFO + b"\r\n")
        until(lambda: server[1].models["embed"].held.rows == 1)
    until(lambda: dropped.get() == before + 1)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
