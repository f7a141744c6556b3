"""What docs/length-adaptive.md says runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronbert.adaptive.configuration import parse, scale
from neuronbert.compare import tolerance

PAGE = (Path(__file__).parents[2] / "docs" / "length-adaptive.md").read_text(encoding="utf-8")


def test_the_code_runs(tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids = torch.randint(5, 100, (2, 32))
    names: dict[str, Any] = {"ids": ids, "labels": torch.tensor([0, 1])}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE):
        exec(code.replace("my-bert/", str(tiny("text-classification"))), names)
    assert not torch.equal(names["answer"].logits, names["full"].logits)
    assert (tmp_path / "trained" / "model.safetensors").is_file()


def test_the_numbers_are_those_of_the_code() -> None:
    assert scale((20, 9), 32, 16) == (10, 5)
    assert "`(20, 9)` of 32 tokens is `(10, 5)` of 16" in PAGE
    assert tolerance("none", "bf16").overlap == 0.99
    assert tolerance("matmul", "bf16").overlap == pytest.approx(0.94, abs=0.005)
    for literal in re.findall(r"\((?:\d+, )+\d+\)", PAGE):
        assert parse("length_config", literal)
