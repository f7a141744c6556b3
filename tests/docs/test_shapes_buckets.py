"""The section on buckets in docs/shapes.md: its commands and its code run, and its figures are what is printed."""

from __future__ import annotations

import io
import json
import random
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import _buckets
from cli.app import app
from neuronbert import Artifact, ExportSpec, StaticShape
from neuronbert.preflight.footprint import CODE_BYTES
from neuronbert.targets import GIB, TARGETS

PAGE = (Path(__file__).parents[2] / "docs" / "shapes.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## Buckets\n")[1].split("\n## ")[0]


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def texts() -> list[str]:
    source = random.Random(0)
    words = (min(254, max(1, int(source.lognormvariate(3.9, 0.6)))) for _ in range(500))
    return [json.dumps({"text": "word " * count}) for count in words]


@pytest.fixture
def workplace(tmp_path: Path, tiny: Callable[..., Path], texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the page has it, but for the model, which is a small one."""
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(tiny("feature-extraction", max_position_embeddings=512))
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(workplace: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for line in block("bash").splitlines():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(texts).encode())))
        with pytest.raises(SystemExit) as ended:
            app(shlex.split(line.split("neuronbert ", 1)[1]))
        assert not ended.value.code, line
    named = {name: [s.name for s in Artifact.open(workplace / name).manifest.shapes] for name in ("products", "shapes")}
    assert named == {"products": ["1x32", "1x64", "1x128", "8x32", "8x64", "8x128"], "shapes": ["1x32", "8x128"]}
    assert len(Artifact.open(workplace / "chosen").manifest.shapes) == 5
    assert Artifact.open(workplace / "limited").manifest.shapes[-1] == StaticShape(1, 256)


def test_the_code_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "shapes.md", "exec"), {})
    assert capsys.readouterr().out == "(60, 200) 43% 0.483\n"
    assert len(Artifact.open(workplace / "from-python").manifest.shapes) == 5


def test_the_table_is_what_is_printed(
    minilm: Path, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(texts))
    spec = ExportSpec(str(minilm), (StaticShape(8, 1),), "feature-extraction")
    _buckets.choose(_buckets.Sample(str(file), 5, None), spec, None, lambda _text: None).show()
    assert capsys.readouterr().out == block("text")


def test_the_memory_of_the_targets_is_that_of_the_table() -> None:
    said = re.search(r"at most: (.*?)\. A core", SECTION)
    assert said is not None
    found = re.findall(r"(\d+) GiB \(([a-z0-9, ]+)\)", said[1])
    named = {name: int(size) * GIB for size, names in found for name in names.split(", ")}
    assert named == {name: target.hbm_bytes for name, target in TARGETS.items()}
    assert f"| {CODE_BYTES >> 20} MiB |" in SECTION
