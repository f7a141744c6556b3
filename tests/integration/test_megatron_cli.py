"""neuronbert convert-megatron: what it prints, its exit codes, and how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.megatron import Layout, make_model, write_folder, write_zip
from tests.support.terminals import on_a_terminal

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cli", "convert-megatron"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("megatron")
    return write_zip(folder / "in.zip", write_folder(folder / "in", make_model(), Layout(version=2.0, tensor=2)))


def test_the_result_is_data_and_the_rest_is_not(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, tmp_path / "out", "--json")
    assert done.returncode == 0
    body = json.loads(done.stdout)
    assert body["class_name"] == "MegatronBertForPreTraining"
    assert body["path"] == str(tmp_path / "out")
    assert body["config"] == json.loads((tmp_path / "out" / "config.json").read_text())
    assert body["notes"][0] in done.stderr
    assert f"Next: neuronbert export --model {tmp_path / 'out'}" in done.stderr


def test_a_bar_is_drawn_on_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    done = on_a_terminal(*COMMAND, checkpoint, tmp_path / "out", COLUMNS="100")
    assert done.code == 0
    assert "2 x 1 shards of version 2" in done.out
    assert "converting" in done.terminal
    assert "167.8/167.8 kB" in done.terminal


@pytest.mark.parametrize(
    ("name", "arguments", "code", "text"),
    [
        ("in.zip", ["--num-attention-heads", "8"], 2, "it must be 4"),
        ("nothing.zip", [], 3, "There is no file"),
        ("in", ["--vocab", "nothing.txt"], 3, "There is no file nothing.txt"),
    ],
)
def test_what_goes_wrong_is_one_line(
    checkpoint: Path, tmp_path: Path, name: str, arguments: list[str], code: int, text: str
) -> None:
    done = run(checkpoint.parent / name, tmp_path / "out", *arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


PEAK = """
import re, sys, torch
from neuronbert import convert_megatron
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
import neuronbert.megatron.conversion
before = peak()
convert_megatron(sys.argv[1], sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("form", ["folder", "zip", "legacy"])
def test_memory_stays_below_1_3_times_the_checkpoint(tmp_path: Path, form: str) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 5000}
    model = make_model(**sizes, num_attention_heads=8)
    layout = Layout(version=0, tensor=2, dtype=torch.float16)
    folder = write_folder(tmp_path / "in", model, layout, legacy=form == "legacy")
    size = sum(path.stat().st_size for path in folder.rglob("*.pt"))
    source = write_zip(tmp_path / "in.zip", folder) if form == "zip" else folder
    command = [sys.executable, "-c", PEAK, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert size > 50_000_000
    assert int(done.stdout) < 1.3 * size
