"""optimum's own command line finds our export in what `pip install` puts down, and runs it as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronbert import Artifact
from tests.unit.builders import ROOT

PLUGIN = "optimum/commands/register/register_neuronbert.py"
# What the script optimum-cli does; where it lies depends on how the environment was made.
OPTIMUM_CLI = "import sys; from optimum.commands.optimum_cli import main; sys.argv[0] = 'optimum-cli'; main()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves folders in the tree."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("neuronbert", "cli"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def optimum_cli(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs optimum-cli where the wheel is installed."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    # Without site's .pth files: by one of them this tree is installed as well, and a command can't be there twice.
    paths = [str(site), *(path for path in sys.path if Path(path).is_dir() and Path(path) != ROOT)]

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-c", OPTIMUM_CLI, *map(str, arguments)]
        place = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "100"}
        return subprocess.run(command, env=place, capture_output=True, text=True, check=False)

    return run


def test_the_wheel_adds_one_file_to_optimum_and_says_so(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = archive.read(next(name for name in names if name.endswith("/RECORD"))).decode()
    # Not an __init__.py: it would hide what other packages register there.
    assert [name for name in names if name.startswith("optimum/")] == [PLUGIN]
    assert f"{PLUGIN},sha256=" in record  # which is what an uninstall removes


def test_it_is_listed_and_helps(optimum_cli) -> None:
    listed = optimum_cli("export", "--help")
    assert listed.returncode == 0
    assert "neuronbert" in listed.stdout
    helped = optimum_cli("export", "neuronbert", "--help")
    assert helped.returncode == 0
    assert "Usage: optimum-cli export neuronbert" in helped.stdout
    assert "--sequence-length" in helped.stdout


def test_a_line_for_export_neuron_exports(optimum_cli, tiny, tmp_path: Path) -> None:
    out = tmp_path / "an output"  # optimum-neuron's own command breaks at the space
    given = "--task fill-mask --batch_size 2 --sequence_length 16 --auto_cast matmul --auto_cast_type bf16"
    more = (
        "-O2 --instance_type cpu --disable-validation --disable-neuron-cache --inline-weights-neff --dynamic-batch-size"
    )
    done = optimum_cli("export", "neuronbert", "--model", tiny("fill-mask"), *given.split(), *more.split(), out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: BertForMaskedLM for cpu, 2x16\n"
    assert Artifact.open(out).manifest.dynamic_batch


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "nowhere", "out"], 3, "neither a local folder"),
        (["--model", ".", "--task", "fill-mask", "--batch_size", "two", "out"], 2, "--batch-size is 'two'"),
        (["--no-such-option", "out"], 2, "No such option"),
        (["--cache_dir", "x", "out"], 2, "HF_HUB_CACHE"),
        ([], 2, "OUTPUT"),
    ],
    ids=["missing", "wrong", "unknown", "elsewhere", "nothing"],
)
def test_the_exit_codes_are_ours(
    optimum_cli, arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = optimum_cli("export", "neuronbert", *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
