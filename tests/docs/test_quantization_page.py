"""What docs/quantization.md says runs, on a small checkpoint and with rows of 32 tokens."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from neuronbert_cli.app import app
from typer.testing import CliRunner

PAGE = (Path(__file__).parents[2] / "docs" / "quantization.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```", PAGE[: PAGE.index("# Figures")], flags=re.DOTALL | re.MULTILINE)
COMMANDS = [text.splitlines() for language, text in FENCES if not language]
LEFT_OUT = "neuronbert kernels"
"""tests/unit/test_integer_kernels.py compiles them."""


@pytest.fixture
def workplace(tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my-bert").symlink_to(tiny("text-classification"))
    texts = [f"Passage {number} tells of the word {'again ' * (number % 20)}and ends." for number in range(64)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(texts[:8])]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("lines", "kind"), [*zip(COMMANDS, ("qdq", None, None, "ibert", None), strict=True)])
def test_the_commands_run(lines: list[str], kind: str | None, workplace: Path) -> None:
    for line in lines:
        if line != LEFT_OUT:
            program, *arguments = shlex.split(line.replace("--sequence-length 128", "--sequence-length 32"))
            done = CliRunner().invoke(app, arguments)
            assert (program, done.exit_code) == ("neuronbert", 0), f"{line}\n{done.output}"
    if kind:
        assert json.loads((workplace / "out" / "neuronbert.json").read_text())["quantization"] == kind


def test_the_examples_run(workplace: Path) -> None:
    first, *examples = [text for language, text in FENCES if language == "python"]
    names: dict[str, object] = {}
    for example in examples[:2]:
        exec(example.replace("128", "32"), names)
    exec(first.replace("\n...\n", "\n"), names)
    assert (workplace / "my-bert-trained" / "model.safetensors").is_file()
