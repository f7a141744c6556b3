"""What the pages name exists: files, options, errors, commands, tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.app import app
from neuronbert import errors
from neuronbert.reference import FLAGS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
ELSEWHERE = {"--force-reinstall", "--rm", "--device", "--build-arg", "--extra-index-url", "--ckpt-format"}
"""Options of pip, docker and Megatron-LM."""


def commands() -> dict[str, Any]:
    return dict(typer.main.get_group(app).commands)


def options() -> set[str]:
    todo, found = list(commands().values()), set()
    while todo:
        command = todo.pop()
        todo.extend(getattr(command, "commands", {}).values())
        found.update(name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts))
    return found


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target


def test_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line, script in re.findall(r"^(python (scripts/\w+\.py) .*)$", text, flags=re.MULTILINE):
        source = (ROOT / script).read_text(encoding="utf-8")
        assert all(f'"{name}"' in source for name in named(line)), line
        text = text.replace(line, "")
    known = options() | {"--help", "--version"} | ELSEWHERE | set(FLAGS)
    assert {name.replace("_", "-") for name in named(text)} <= known


def named(text: str) -> set[str]:
    """The options in a text: lower case throughout, so that the rule under a table's head is none."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", text))


def test_errors_exist(page: Path) -> None:
    for name in re.findall(r"`([A-Z]\w+Error)`", page.read_text(encoding="utf-8")):
        assert hasattr(errors, name) or name in {"ValueError", "RuntimeError", "TypeError"}, name


def test_commands_exist(page: Path) -> None:
    for name in re.findall(r"(?:^|`)neuronbert ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert name in commands(), name


def test_tests_that_are_named_exist(page: Path) -> None:
    for target, name in re.findall(r"\]\(([^)#]+\.py)\) `(test_\w+)`", page.read_text(encoding="utf-8")):
        assert f"def {name}(" in (page.parent / target).read_text(encoding="utf-8"), name
