"""What docs/serving.md and the README say of the server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from neuronbert import StaticShape
from neuronbert.engine import TASKS
from neuronbert.pieces import MOST_IDS
from neuronbert.server.connection import Connection
from neuronbert.server.guard import OPEN
from neuronbert.server.routes.huggingface import MOST_CHARACTERS
from neuronbert.server.settings import Settings
from tests.support.serving import Process, served

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROUTES = PAGE[PAGE.index("## Routes") : PAGE.index("## Limits")]


@pytest.fixture(scope="module")
def url(exported: Callable[..., Path]) -> Iterator[str]:
    with served({"one": exported("sentence-embedding", StaticShape(4, 16))}) as (url, _):
        yield url


def commands(text: str) -> list[str]:
    (block,) = [
        block for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) if "neuronbert serve" in block
    ]
    return list(block.splitlines())


def test_the_commands_run(exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands(README) == commands(PAGE)
    start, ask = map(shlex.split, commands(README))
    monkeypatch.chdir(tmp_path)
    Path("minilm").symlink_to(exported("feature-extraction", StaticShape(1, 32)))
    assert start[:2] == ["neuronbert", "serve"]
    with Process(*start[2:]) as server:
        place = ask[1]
        assert place.startswith(f"{Settings().host}:{Settings().port}/")
        ask[1] = f"{server.url}/{place.partition('/')[2]}"
        (vector,) = json.loads(subprocess.run([*ask, "-sS"], capture_output=True, check=True).stdout)
        assert len(vector) == 32


def test_every_route_is_listed(url: str) -> None:
    listed: set[tuple[str, str]] = set()
    for cell in re.findall(r"^\| ((?:POST|GET) .*?) \|", ROUTES, flags=re.MULTILINE):
        method = ""
        for found, path in re.findall(r"(POST|GET)|`(/.*?)`", cell):
            method = found or method
            if path:
                listed.add((method, path))
    paths: dict[str, Any] = httpx.get(f"{url}/openapi.json", timeout=60).json()["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods if "version}" not in path}
    assert listed == there | {("GET", "/openapi.json")}
    assert {path for _, path in listed} >= OPEN


def test_tasks_are_named() -> None:
    (named,) = re.findall(r"^Tasks are (.*?)\.", ROUTES, flags=re.MULTILINE)
    assert re.split(r", | and ", named) == list(TASKS)


def test_limits_are_the_defaults() -> None:
    settings = Settings()
    rows = re.findall(r"^\| (.*?) \| ([\d,]+) \|", PAGE, flags=re.MULTILINE)
    assert {what: float(value.replace(",", "")) for what, value in rows} == {
        "texts in a request": settings.max_client_batch_size,
        "bytes of a request's head": Connection.head_size,
        "bytes of its body": settings.max_body,
        "texts that wait or run, for each model": settings.limits.rows,
        "their tokens, padded": settings.limits.tokens,
        "bytes of their requests": settings.limits.size,
        "seconds until an answer": settings.timeout,
        "seconds between parts of a body": settings.body_timeout,
        "seconds until a head is whole": Connection.head_seconds,
        "seconds until a body is whole": settings.whole_body_timeout,
        "seconds in which the rest of a body comes that was answered before": Connection.rest_seconds,
        "seconds in which 64 KiB of an answer are taken, or all of it": Connection.taking_seconds,
        "requests under way beyond the texts of all models; further POSTs are refused": settings.requests,
        "token ids that a request has told or decoded": MOST_IDS,
        "characters of a label, or of the template for it": MOST_CHARACTERS,
        "seconds of a call in a worker": settings.call_timeout,
    }
    assert f"does within {settings.health_timeout:g} seconds" in PAGE
    assert f"`--grace` seconds ({settings.grace:g})" in PAGE
    assert f"flight get {settings.drain:g} seconds" in PAGE


def test_meters_are_named(url: str) -> None:
    httpx.post(f"{url}/embed", json={"inputs": "a"}, timeout=60)
    text = httpx.get(f"{url}/metrics", timeout=60).text
    there = {name for name in re.findall(r"^# TYPE (\S+) ", text, flags=re.MULTILINE) if not name.endswith("_created")}
    assert set(re.findall(r"`((?:te|neuronbert)_\w+)`", PAGE)) == there
