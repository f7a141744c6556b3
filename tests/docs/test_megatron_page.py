"""The commands and the example on docs/megatron.md run, on a small checkpoint in place of the published one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from neuronbert.megatron import settings
from tests.support.megatron import Layout, make_model, write_folder, write_zip

PAGE = (Path(__file__).parent.parent.parent / "docs" / "megatron.md").read_text(encoding="utf-8")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(112))]
    (tmp_path / "bert-large-cased-vocab.txt").write_text("\n".join(words) + "\n")
    write_zip(tmp_path / "megatron_bert_345m_v0_1_cased.zip", write_folder(tmp_path / "in", make_model(), Layout()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_commands_run(workplace: Path) -> None:
    for line in blocks("bash")[0].splitlines():
        program, *arguments = shlex.split(line)
        command = [Path(sys.executable).with_name(program), *arguments]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout
    assert (workplace / "megatron-bert" / "tokenizer.json").is_file()


def test_the_example_runs(workplace: Path) -> None:
    exec(compile(blocks("python")[0], "megatron.md", "exec"), {})


def test_the_sizes_that_are_named_are_the_codes() -> None:
    assert "28996 or 30522" in PAGE
    assert list(settings.PUBLISHED_VOCABULARIES.values()) == [28996, 30522]
