"""What docs/shapes.md says of several processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from neuronbert import StaticShape
from neuronbert.workers import crew

PAGE = (Path(__file__).parents[2] / "docs" / "shapes.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Several processes") :].split("\n## ")[0]


def test_the_example_runs(
    exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = exported("text-classification", StaticShape(1, 8), StaticShape(8, 16))
    Path("my-bert-neuron").symlink_to(artifact)
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["answers"]) == 200
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["idle", "idle"]
    assert sum(int(line.split()[2]) for line in lines) >= 25


def test_every_state_is_named() -> None:
    assert f"({', '.join(get_args(crew.State))})" in SECTION
    assert "two calls for each worker" in SECTION
    assert crew._DEATHS == 2
