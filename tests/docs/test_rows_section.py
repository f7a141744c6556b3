"""What docs/shapes.md says of rows of any lengths."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from neuronbert import plan, predictor

PAGE = (Path(__file__).parents[2] / "docs" / "shapes.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Rows of any lengths") :].split("\n## ")[0]


def test_the_example_runs(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny("text-classification"), "my-bert")
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["answers"]) == 102
    assert sum(names["model"].session.served.values()) == 13  # of eight rows each, the last one padded


def test_the_figures_are_those_of_the_code() -> None:
    assert f"blocks of {predictor._BLOCK} rows" in SECTION
    assert f"its tokens and {plan.CALL_TOKENS} more" in SECTION
