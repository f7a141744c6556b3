"""docs/optimum-neuron.md: its lines run, and what it says is opened or refused is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neuronbert import Artifact
from neuronbert.foreign import SECTION

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "optimum-neuron.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(tmp_path: Path, tiny, exported, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my-bert").symlink_to(tiny("fill-mask"))
    # Without its manifest, an artifact of ours is what optimum-neuron would have left: make interop shows that.
    shutil.copytree(exported("fill-mask"), tmp_path / "their-export", ignore=shutil.ignore_patterns("neuronbert.json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(workplace: Path) -> None:
    for block in blocks("bash"):
        for line in block.splitlines():
            # Under optimum-cli it is the same command (tests/integration/test_optimum_cli.py).
            program, *arguments = shlex.split(line.replace("optimum-cli export neuronbert", "neuronbert export"))
            assert program == "neuronbert"
            command = [Path(sys.executable).with_name(program), *arguments]
            done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert done.stdout
    assert Artifact.open(workplace / "their-export").foreign


def test_the_example_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [block for block in blocks("python") if "from neuronbert" in block]
    assert len(ours) == 1
    exec(compile(ours[0], "optimum-neuron.md", "exec"), {})
    assert "fill-mask" in capsys.readouterr().out


def test_the_classes_of_the_other_example_are_those_that_interop_opens(workplace: Path) -> None:
    peer = (ROOT / "scripts" / "interop_peer.py").read_text(encoding="utf-8")
    (theirs,) = (block for block in blocks("python") if "from optimum.neuron" in block)
    (name,) = re.findall(r"import (\w+)", theirs)
    assert f'"{name}"' in peer
    for task in re.findall(r'^    "([a-z-]+)": "NeuronModelFor', peer, flags=re.MULTILINE):
        assert task in PAGE


def test_our_artifacts_have_the_section(exported) -> None:
    config = json.loads((exported("fill-mask") / "config.json").read_text(encoding="utf-8"))
    assert config[SECTION]["task"] == "fill-mask"


def test_links_and_files_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:scripts|tests|docs)/[\w./-]+)`", PAGE):
        assert (ROOT / name).is_file(), name
