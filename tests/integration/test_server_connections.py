"""Connections whose clients are slow, silent or too talkative, over real sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuronbert.server.connection import Connection
from neuronbert.shapes import StaticShape
from tests.support.serving import served

PATIENCE = 30.0
INFO = b"GET /info HTTP/1.1\r\nHost: x\r\n"
EMBED = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"inputs": "a"}'


@pytest.fixture(scope="module")
def address(exported: Callable[..., Path]) -> Iterator[tuple[str, int]]:
    with served({"embed": exported("sentence-embedding", StaticShape(1, 16))}) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of the next answer."""
    held = b""
    while b"\r\n\r\n" not in held:
        held += connection.recv(1)
    size = next(int(line.split(b":")[1]) for line in held.splitlines() if line.startswith(b"content-length"))
    body = b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return int(held.split()[1]), body


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_head_has_a_largest_size(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.sendall(INFO + b"X-A: " + b"a" * (Connection.head_size - 100) + b"\r\n\r\n")
        assert answer(client)[0] == 200
        client.sendall(INFO + b"X-A: ")
        with pytest.raises(OSError, match=r"reset|pipe"):  # what is refused isn't listened to
            client.sendall(b"a" * (1 << 27))
    with connected(address) as client:
        client.sendall(INFO + b"X-A: " + b"a" * Connection.head_size)
        status, body = answer(client)
        assert (status, json.loads(body)["error_type"]) == (431, "Validation")
        assert is_closed(client)


def test_many_requests_of_one_connection_have_a_head_each(address: tuple[str, int]) -> None:
    with connected(address) as client:
        for _ in range(4):
            client.sendall(INFO + b"X-A: " + b"a" * (Connection.head_size // 3) + b"\r\n\r\n")
            assert answer(client)[0] == 200
            client.sendall(EMBED + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            assert answer(client)[0] == 200


@pytest.mark.parametrize("begun", [b"", INFO, EMBED[:3]])
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


def trickle(client: socket.socket) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        client.sendall(b"a")
        time.sleep(0.02)


def test_the_rest_of_a_body_that_is_not_read_must_come_in_time(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(address) as client:  # what is refused by its head; all of the body comes
        client.sendall(EMBED + b"Content-Length: 3000000\r\n\r\n")
        assert answer(client)[0] == 413
        client.sendall(b"a" * 3_000_000 + INFO + b"\r\n")
        assert answer(client)[0] == 200
    monkeypatch.setattr(Connection, "rest_seconds", 0.3)
    with connected(address) as client:
        client.sendall(EMBED + b"Content-Length: 3000000\r\n\r\n")
        assert answer(client)[0] == 413
        assert is_closed(client)
    with connected(address) as client:
        client.sendall(INFO + b"Content-Length: 100\r\n\r\n")
        assert answer(client)[0] == 200
        assert is_closed(client)
