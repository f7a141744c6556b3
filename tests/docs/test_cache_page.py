"""The commands and the code on docs/cache.md run, and what it says of the variables is so."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from cli.app import main
from neuronbert import Artifact, Cache
from neuronbert.cache.store import DEFAULT_LIMIT

PAGE = (Path(__file__).parent.parent.parent / "docs" / "cache.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def workplace(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(minilm)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NEURONBERT_CACHE_LIMIT")
    return tmp_path


def test_the_commands_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = signal.getsignal(signal.SIGTERM)
    for line in block("bash").splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, line
    signal.signal(signal.SIGTERM, held)
    programs = {(workplace / name / "model.neuron").read_bytes() for name in ("minilm", "copied")}
    assert len(programs) == 1
    assert Artifact.open(workplace / "compiled").manifest.shapes
    assert list((workplace / "cache").iterdir()) == []


def test_the_code_runs(workplace: Path) -> None:
    exec(compile(block("python"), "cache.md", "exec"), {})
    assert not (workplace / "cache").exists()
    assert len(Cache(workplace / "my-cache").entries()) == 1


def test_the_defaults_are_those_of_the_table() -> None:
    variables = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, flags=re.MULTILINE))
    assert set(variables) == {"NEURONBERT_CACHE_DIR", "NEURONBERT_CACHE_LIMIT"}
    assert variables["NEURONBERT_CACHE_LIMIT"] == f"`{DEFAULT_LIMIT >> 30}GiB`"
