"""docs/ci.md: its file, its commands and its example run; the workflows are YAML and name what there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuronbert import matrix
from neuronbert.architectures import TASKS
from neuronbert.matrix.schema import Cell, Definition, ModelEntry, Options, Selection

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
WORKFLOWS = [ROOT / ".github" / "workflows" / "compile-validation.yml", ROOT / "docs" / "inf2-runner.yml"]


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_page_runs(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(minilm)
    (tmp_path / "matrix.yaml").write_text(block("yaml matrix.yaml"))
    monkeypatch.chdir(tmp_path)
    kept = []
    for line in block("bash").splitlines():
        program, *arguments = shlex.split(line)
        command = [Path(sys.executable).with_name(program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout
        kept.append(done.stderr.count("(kept)"))
    assert kept == [0, 4, 1]
    exec(compile(block("python"), "ci.md", "exec"), {})
    files = re.findall(r"^\| `(report\.\w+|cells/)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(files) == sorted([*(path.name for path in tmp_path.glob("out/matrix/report.*")), "cells/"])
    assert (tmp_path / "out" / "matrix" / "cells").is_dir()


@pytest.mark.parametrize("part", [Definition, ModelEntry, Selection, Options])
def test_every_key_is_described(part: type[Any]) -> None:
    for name in part.model_fields:
        assert f"`{name}`" in PAGE, name


def test_the_matrix_of_this_repository_covers_every_task_on_two_shapes_and_two_targets() -> None:
    cells = matrix.load(ROOT / "configs" / "ci.yaml").cells
    for task in (task for task, row in TASKS.items() if not row.trunk):  # those that a config alone makes
        for target in ("cpu", "inf2"):
            assert len({cell.shape for cell in cells if (cell.task, cell.target) == (task, target)}) >= 2
    assert {cell.auto_cast for cell in cells} == {"matmul-bf16", "all-bf16", "none"}
    assert all(isinstance(cell, Cell) and cell.config for cell in cells), "nothing is downloaded"


def commands(workflow: Path) -> list[str]:
    body = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    steps = [step for job in body["jobs"].values() for step in job["steps"]]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    return [line for step in steps for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_targets_options_and_files_that_there_are(workflow: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = 0
    for line in commands(workflow):
        program, *arguments = shlex.split(line)
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, flags=re.MULTILINE), line
            known += 1
        if program == "neuronbert":
            place = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
            command = [Path(sys.executable).with_name(program), arguments[0], "--help"]
            said = subprocess.run(
                command, env={**os.environ, **place}, capture_output=True, text=True, check=True
            ).stdout
            assert all(option in said for option in arguments if option.startswith("--")), line
            assert (ROOT / arguments[arguments.index("--matrix") + 1]).is_file()
            known += 1
    assert known == 1


def test_what_make_runs_is_what_the_workflow_uploads() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\t\$\(BIN\)/neuronbert (.*--matrix.*)$", makefile, flags=re.MULTILINE)
    assert "validate --matrix configs/ci.yaml --require cpu:run" in line
    for workflow in WORKFLOWS:
        body = yaml.safe_load(workflow.read_text(encoding="utf-8"))
        (upload,) = [
            step for job in body["jobs"].values() for step in job["steps"] if "upload-artifact" in step.get("uses", "")
        ]
        assert upload["with"]["path"] == "out/ci", "out/ and the name of the file"
        assert upload["if"] == "always()"


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target
