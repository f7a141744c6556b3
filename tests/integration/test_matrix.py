"""A matrix run for real: real processes, real exports, and what goes wrong with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
import yaml

from neuronbert import matrix
from neuronbert.errors import NothingRanError, ValidationFailedError
from neuronbert.matrix import worker
from neuronbert.matrix.schema import Cell
from neuronbert.report import from_json
from tests.support.terminals import on_a_terminal

ROOT = Path(__file__).parents[2]
VICTIM = '<img src=x onerror=alert(1)> & "victim\'s" | `x`'
CONFIG = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def write(path: Path, **body: Any) -> Path:
    path.write_text(yaml.safe_dump({"shapes": ["1x16"], **body}))
    return path


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli", "validate", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def workers(output: Path) -> dict[int, Path]:
    """The processes that work for a run, and their folders."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "neuronbert.matrix.worker" in words and words[-2].startswith(str(output)):
            found[int(place.parent.name)] = Path(words[-2])
    return found


def kill_worker_of(model: str, output: Path, run: subprocess.Popen[str]) -> None:
    while run.poll() is None:
        for pid, folder in workers(output).items():
            cell = json.loads((folder / "job.json").read_text())["cell"]
            if cell and cell["model"] == model:
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str
    folder: Path
    report: dict[str, Any]

    def of(self, model: str) -> dict[str, Any]:
        (row,) = [row for row in self.report["results"] if row["cell"]["model"] == model]
        return dict(row["outcome"])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path]) -> Run:
    """One run of good and bad models, of which one is killed."""
    from safetensors.torch import load_file, save_file

    place = tmp_path_factory.mktemp("mixed")
    broken = Path(shutil.copytree(tiny("fill-mask"), place / "broken"))
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    nan = Path(shutil.copytree(tiny("text-classification"), place / "nan"))
    tensors = load_file(nan / "model.safetensors")
    tensors["classifier.bias"][:] = float("nan")
    save_file(tensors, nan / "model.safetensors", metadata={"format": "pt"})
    models = [
        {"name": "good", "model": str(tiny("text-classification"))},
        {"name": "broken", "model": str(broken)},
        {"name": "absent", "model": str(place / "nowhere")},
        {"name": "wrong head", "model": str(tiny("text-classification")), "tasks": "question-answering"},
        {"name": "nan", "model": str(nan)},
        {"name": "senseless", "config": {**CONFIG, "num_attention_heads": 3}, "tasks": "fill-mask"},
        {"name": VICTIM, "config": CONFIG, "tasks": "fill-mask"},
    ]
    file = write(place / "matrix.yaml", models=models, include=[{"model": "good", "target": "inf2"}])
    output = (place / "out").resolve()
    run = start("--matrix", file, "--output", output, "--json", "--jobs", 2, "--max-memory", "2G")
    try:
        kill_worker_of(VICTIM, output, run)
    finally:
        out, err = run.communicate()
    report = json.loads(out)
    report["results"] = [row for row in report["results"] if row["cell"]["target"] == "cpu"]
    return Run(run.returncode, out, err, output, report)


def test_the_others_go_on_and_the_run_fails(mixed: Run) -> None:
    assert mixed.code == 1
    assert json.loads(mixed.out)["counts"] == {"passed": 1, "failed": 6, "skipped": 1}
    assert mixed.of("good")["status"] == "passed"
    assert mixed.err.splitlines()[-1].startswith("Error: Validation failed: broken/auto/1x16/cpu/matmul-bf16: ")
    assert mixed.err.splitlines()[-1].endswith("(and 5 more).")
    assert "Traceback" not in mixed.err


@pytest.mark.parametrize(
    ("model", "stage", "said"),
    [
        ("broken", "checkpoint", "its weights can't be read"),
        ("absent", "checkpoint", "there is no such folder"),
        ("wrong head", "export", "has no question-answering head"),
        ("nan", "validate", "not finite"),
        ("senseless", "checkpoint", "The config of 'senseless' makes no model"),
        (VICTIM, "process", "killed (SIGKILL)"),
    ],
    ids=lambda value: value if value.isalpha() else "",
)
def test_every_failure_says_where_and_why(mixed: Run, model: str, stage: str, said: str) -> None:
    outcome = mixed.of(model)
    assert (outcome["status"], outcome["stage"]) == ("failed", stage)
    assert said in outcome["reason"]


def test_each_cell_is_told_of_as_it_ends(mixed: Run) -> None:
    lines = [line for line in mixed.err.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == [f"[{number}/8" for number in range(1, 9)]
    assert sum(" failed " in line for line in lines) == 6


def test_the_four_reports_agree(mixed: Run) -> None:
    assert json.loads((mixed.folder / "report.json").read_text()) == json.loads(mixed.out)
    suites = Xml.parse(mixed.folder / "report.xml").getroot()
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("16", "1", "5")
    page = (mixed.folder / "report.html").read_text()
    summary = (mixed.folder / "report.md").read_text()
    assert "<img" not in page + summary
    for row in mixed.report["results"]:
        assert row["cell"]["model"].split("<")[-1].split(">")[0][:9] in page
    assert page.count('role="img"') == 1, "only what was measured is drawn"
    assert "6 failed" in summary


def test_nothing_is_left_but_reports_and_results(mixed: Run) -> None:
    reports = ["report.html", "report.json", "report.md", "report.xml"]
    assert sorted(path.name for path in mixed.folder.iterdir()) == ["cells", *reports]
    assert workers(mixed.folder) == {}
    (good,) = (mixed.folder / "cells").glob("good-*.json")
    result = json.loads(good.read_text())
    assert from_json(json.dumps(result["outcome"]["report"]).encode()).passed
    assert 200 << 20 < result["peak_bytes"] < 2 << 30
    assert not list((mixed.folder / "cells").glob("*.tmp"))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    output = tmp_path / "out"
    checkpoint = Path(shutil.copytree(tiny("text-classification"), tmp_path / "checkpoint"))
    models = [{"name": "first", "model": str(checkpoint)}, {"name": "second", "config": CONFIG, "tasks": "fill-mask"}]
    file = write(tmp_path / "matrix.yaml", models=models)
    line = ["--matrix", file, "--output", output, "--jobs", 1]
    run = start(*line)
    assert run.stderr is not None
    assert run.stderr.readline().startswith("[1/2] passed   first/")
    while not workers(output):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate()
    assert (run.returncode, out, err) == (130, "", "Interrupted.\n")
    assert workers(output) == {}
    assert [path.name.split("-")[0] for path in output.rglob("*") if path.is_file()] == ["first"]

    done = start(*line)
    out, err = done.communicate()
    assert done.returncode == 0, err
    first, second = err.splitlines()
    assert first.startswith("[1/2] passed   first/")
    assert first.endswith("(kept)")
    assert second.startswith("[2/2] passed   second/")
    assert "(kept)" not in second

    # Another tokenizer makes other texts: what was found with the old one says nothing any more.
    (checkpoint / "vocab.txt").write_text((checkpoint / "vocab.txt").read_text() + "more\n")
    done = start(*line, "--timeout", "0.05")
    out, err = done.communicate()
    assert done.returncode == 1
    kept, late = err.splitlines()[:2]
    assert kept.startswith("[1/2] passed   second/")
    assert kept.endswith("(kept)")
    assert "it was ended after 0 s (--timeout)" in late
    assert "1 failed" in out


def test_a_target_that_cannot_be_compiled_for_is_skipped_unless_it_is_required(tmp_path: Path) -> None:
    model = {"name": "a", "config": CONFIG, "tasks": "fill-mask", "targets": "inf2"}
    file = write(tmp_path / "matrix.yaml", models=[model])
    report = matrix.run(file, tmp_path / "out")
    assert report.counts == {"skipped": 1}
    with pytest.raises(NothingRanError, match="torch-neuronx"):
        report.raise_if_failed()
    report = matrix.run(file, tmp_path / "out", matrix.Settings(require=("inf2",)))
    with pytest.raises(ValidationFailedError, match="inf2 is required here, but torch-neuronx"):
        report.raise_if_failed()
    assert not list((tmp_path / "out" / "cells").iterdir()), "a machine may have it tomorrow"


def test_a_target_whose_backend_cannot_even_be_asked_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "transformers.py").write_text("import os; os.abort()")
    monkeypatch.setattr("neuronbert.matrix.process._ROOT", f"{tmp_path / 'lib'}{os.pathsep}{ROOT}")
    model = {"name": "a", "config": CONFIG, "tasks": "fill-mask", "targets": "inf2"}
    report = matrix.run(write(tmp_path / "matrix.yaml", models=[model]), tmp_path / "out")
    (failure,) = report.failures
    assert "whether inf2 can be used couldn't be told: its process was ended by SIGABRT" in failure


def test_a_config_makes_the_same_checkpoint_each_time(tmp_path: Path) -> None:
    cell = Cell(model="a", config=CONFIG, task="fill-mask", shape="1x16", target="cpu", auto_cast="none")
    one, two = (worker.make_checkpoint(cell, tmp_path / name) / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "ARTIFACT is missing"),
        (("out", "--matrix", "m.yaml"), "ARTIFACT is 'out'; it must be without --matrix"),
        (("--matrix", "m.yaml", "--model", "x"), "--model is 'x'"),
        (("--matrix", "m.yaml", "--no-record"), "--record is 'False'"),
        (("out", "--fresh"), "--fresh is 'True'; it must be used with --matrix"),
        (("out", "--jobs", "2"), "--jobs is '2'"),
        (("--matrix", "m.yaml", "--max-memory", "lots"), "--max-memory is 'lots'"),
        (("--matrix", "m.yaml", "--jobs", "0"), "--jobs is 0"),
        (("--matrix", "m.yaml", "--only", "nobody"), "--only is 'nobody'"),
        (("--matrix", "m.yaml", "--require", "tpu"), "require is 'tpu'"),
        (("--matrix", "bad.yaml"), "The matrix bad.yaml can't be used: models: field required; x: extra inputs"),
        (("--matrix", "m.yaml", "--output", "."), "output is '.'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_use_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: Any, said: str
) -> None:
    from cli.app import main

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.yaml", models=[{"name": "a", "config": CONFIG, "tasks": "fill-mask"}])
    (tmp_path / "bad.yaml").write_text("x: 1\n")
    monkeypatch.setattr(sys, "argv", ["neuronbert", "validate", *arguments])
    held = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    signal.signal(signal.SIGTERM, held)
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "m.yaml"]


def test_on_a_terminal_what_runs_is_shown_and_what_ended_stays(tmp_path: Path) -> None:
    file = write(tmp_path / "m.yaml", models=[{"name": "a", "config": CONFIG, "tasks": "fill-mask"}])
    done = on_a_terminal(sys.executable, "-m", "cli", "validate", "--matrix", file, "--output", tmp_path / "out")
    assert done.code == 0
    assert "0 of 1 cells; a/fill-mask/1x16/cpu/matmul-bf16" in done.terminal
    assert "[1/1] passed   a/fill-mask/1x16/cpu/matmul-bf16" in done.terminal
    assert done.out.startswith("passed: 1 passed of 1 cells; see ")


def test_the_parent_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; import neuronbert.matrix; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
