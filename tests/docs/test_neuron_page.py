"""docs/neuron.md: its blocks run, against the double of torch_neuronx, and its tables are those of the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cli.app import app
from neuronbert import Artifact, ExportSpec, StaticShape, errors, export, sdk
from neuronbert.backends import flags
from neuronbert.backends.registry import TARGETS
from neuronbert.releases import RELEASES
from tests.contract import conftest

host = conftest.host
"""The fixture of the conformance suite."""

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "neuron.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def table(head: str) -> list[list[str]]:
    """The rows under a line that begins like this."""
    _, _, rest = PAGE.partition(f"\n| {head}")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture
def workplace(tmp_path: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, settings in {"my-bert": {}, "my-bert-trained-further": {"initializer_range": 0.3}}.items():
        (tmp_path / name).symlink_to(tiny("text-classification", max_position_embeddings=128, **settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> Any:
    """A command of the page."""
    program, *arguments = shlex.split(line)
    assert program == "neuronbert"
    return CliRunner().invoke(app, arguments)


class TestBlocks:
    def test_the_commands_run_without_a_device(self, host: Callable[..., Any], workplace: Path) -> None:
        host()
        for line in (line for block in blocks("bash") for line in block.splitlines()):
            done = run(line)
            # With the library for torch 2.9 beside another torch, doctor has something to say.
            doctor = line.startswith("neuronbert doctor") and not torch.__version__.startswith("2.9.")
            assert done.exit_code == (1 if doctor else 0), f"{line}\n{done.output}"
        done = run("neuronbert predict my-bert-inf2 Hello.")
        assert done.exit_code == 3
        assert done.stderr == blocks("text")[0]
        assert Artifact.open(workplace / "my-bert-trn3").manifest.backend == "torchneuron"

    def test_the_python_examples_run(self, host: Callable[..., Any], workplace: Path) -> None:
        host("inf2", cores=2)
        spec = ExportSpec("my-bert", (StaticShape(1, 128),), target="inf2")
        export(spec, "my-bert-inf2")
        for block in blocks("python"):
            exec(compile(block, "neuron.md", "exec"), {})

    def test_what_is_installed_is_what_the_errors_say(self) -> None:
        lines = [line for block in blocks("sh") for line in block.splitlines() if "torch-neuronx" in line]
        assert lines == [sdk.install("trace"), sdk.install("native")]


class TestTables:
    def test_the_releases(self) -> None:
        rows = [
            [
                release.sdk,
                ", ".join(release.libraries),
                release.compiler,
                release.runtime,
                release.driver,
                release.tools,
                " to ".join(release.python),
            ]
            for release in RELEASES
        ]
        assert table("SDK | torch-neuronx") == rows

    def test_the_targets_of_the_libraries(self) -> None:
        rows = {name: cells for name, *cells in table("| torch-neuronx 2.9")}
        for column, backend in enumerate(cell.strip("`") for cell in rows["backend in the manifest"]):
            named = re.findall(r"`(\w+)`", rows["targets"][column])
            assert named == [target for target, backends in TARGETS.items() if backend in backends]

    @pytest.mark.parametrize("target", [target for target in TARGETS if target != "cpu"])
    def test_every_flag_is_explained(self, target: str) -> None:
        spec = ExportSpec("somewhere", (StaticShape(1, 8),), target=target)
        explained = " ".join(row[0] for row in table("flag | value"))
        for flag in flags.command_line(spec, RELEASES[-1].compiler):
            if flag.startswith("--"):
                assert flag in explained

    def test_the_exit_codes(self) -> None:
        from cli._errors import exit_code

        for _, names, codes in table("what | error"):
            found = [getattr(errors, name) for name in re.findall(r"`(\w+)`", names)]
            # An exception's class decides; its message needn't be made for that.
            assert [str(exit_code(kind.__new__(kind))) for kind in found] == codes.split(", ")
