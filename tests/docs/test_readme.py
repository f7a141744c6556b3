"""The README's blocks run, line by line, and what it lists is what there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import neuronbert
from neuronbert.architectures import ARCHITECTURES, TASKS
from scripts import tables
from tests.support.hub_server import HubServer

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(minilm)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_the_python_examples_run(block: str, workplace: Path) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_the_commands_run(workplace: Path) -> None:
    with HubServer() as hub:
        place = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0"}
        for line in blocks("bash")[0].splitlines():
            program, *arguments = shlex.split(line)
            assert program == "neuronbert"
            command = [Path(sys.executable).with_name(program), *arguments]
            done = subprocess.run(command, env={**os.environ, **place}, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert done.stdout
        assert hub.repos["my-org/minilm-neuron"].private
        assert (
            "## Validation: passed"
            in hub.repos["my-org/minilm-neuron"].branches["main"][-1].files["README.md"].decode()
        )


def test_the_tables_are_those_of_the_code() -> None:
    assert tables.updated(README) == README, "make tables"
    assert re.findall(r"^<!-- table: (\w+) -->$", README, flags=re.MULTILINE) == ["tasks", "families"]


def test_the_tables_list_every_head_under_a_class_that_there_is() -> None:
    rows = re.findall(r"^\| ([a-z-]+) \| (\w*) \| (Neuron\w+) \| (.*) \|$", README, flags=re.MULTILINE)
    assert [row[0] for row in rows] == list(TASKS)
    for task, own, neutral, outputs in rows:
        assert getattr(neuronbert, neutral).task == task
        assert bool(own) == (task in ARCHITECTURES["bert"].heads)
        assert not own or getattr(neuronbert, own).task == task
        assert outputs.split(", ") == [output.name for output in TASKS[task].outputs]
    _, *columns = next(re.findall(r"[\w-]+", line) for line in README.splitlines() if line.startswith("| model_type |"))
    for name, row in ARCHITECTURES.items():
        (line,) = re.findall(rf"^\| {name} \|(.*)\|$", README, flags=re.MULTILINE)
        marked = [task for task, cell in zip(columns, line.split("|"), strict=True) if cell.strip() == "yes"]
        assert set(marked) == set(row.heads)


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("task", TASKS)
def test_the_example_on_a_model_card_runs(exported, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    artifact = exported(task)
    monkeypatch.chdir(artifact.parent)
    card = (artifact / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", card, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
