"""docs/pipelines.md: its commands and examples run, and its table is the code's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuronbert.pipelines import PIPELINES

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "all-MiniLM-L6-v2").symlink_to(minilm)
    for line in blocks("bash")[0].splitlines():
        program, *arguments = shlex.split(line)
        command = [Path(sys.executable).with_name(program), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    return folder


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_the_examples_run(block: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    names: dict[str, Any] = {}
    exec(compile(block, "pipelines.md", "exec"), names)
    sizes = [np.shape(names[name])[-1] for name in ("vectors", "states") if isinstance(names.get(name), np.ndarray)]
    assert set(sizes) <= {384}
    assert "columns" not in names or np.shape(names["columns"]["embedding"]) == (2, 384)


def test_the_table_is_the_codes() -> None:
    rows = re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| ([a-z-]+) \|$", PAGE, flags=re.MULTILINE)
    assert {name: head for names, head in rows for name in re.findall(r"[a-z-]+", names)} == PIPELINES
