"""The labelled rows on docs/validation.md are what each task takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuronbert import validate
from neuronbert.architectures import TASKS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "validation.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^```jsonl ([a-z-]+):.*?\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))


def test_every_task_has_rows() -> None:
    assert set(ROWS) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_the_rows_are_scored(exported, tmp_path: Path, task: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(ROWS[task])
    report = validate(exported(task), data=file, record=False)
    assert report.metrics
    assert {metric.rows for metric in report.metrics} == {len(ROWS[task].splitlines())}
