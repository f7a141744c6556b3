"""What docs/shapes.md says of measuring."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronbert import BenchSpec, StaticShape
from neuronbert.benchmark import report

SECTION = (
    (Path(__file__).parents[2] / "docs" / "shapes.md").read_text(encoding="utf-8").partition("\n## Measuring\n")[2]
)


def test_the_code_runs(exported: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"^```python\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)[0]
    artifact = exported("fill-mask", StaticShape(8, 16))
    exec(code.replace("my-bert-neuron/", str(artifact)).replace("seconds=0.2", "seconds=0.001"), {})
    assert [line.split(",")[:2] for line in capsys.readouterr().out.splitlines()[:2]] == [
        ["8x16", " 1 row"],
        ["8x16", " 8 rows"],
    ]


def test_the_numbers_are_those_of_the_code() -> None:
    spec = BenchSpec()
    for said in (
        f"`--warm-up`, {spec.warm_up} calls",
        f"`--rounds` ({spec.rounds})",
        f"`--seconds` ({spec.seconds:g})",
    ):
        assert said in SECTION
    assert f"more than {report.UNSTEADY:.0%}".replace("%", " %") in SECTION
    assert report.BUSY == 0.5
    assert "above half of the processors" in SECTION
