"""A cell of a matrix on a host that compiles for a Neuron target, with its device and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuronbert import matrix
from neuronbert.backends.neuronx import NeuronxCompiler
from neuronbert.matrix import worker
from neuronbert.matrix.messages import Probe
from neuronbert.matrix.schema import Cell, Options

CONFIG = {"model_type": "bert", "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CELL = Cell(model="a", config=CONFIG, task="fill-mask", shape="1x16+2x16", target="inf2", auto_cast="matmul-bf16")


STARTUP = """
from neuronbert import sdk

sdk.find_device = lambda *_: sdk.Device("inf2", 1)
"""


@pytest.fixture
def workers(host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the processes of a matrix run on a machine with an Inf2 device; runs a matrix there."""

    def run(models: list[str], before: Callable[[], object] = lambda: None, **machine: Any) -> matrix.MatrixReport:
        host("inf2", **machine)
        before()
        (tmp_path / "site" / "sitecustomize.py").write_text(STARTUP)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        file = tmp_path / "matrix.yaml"
        config = json.dumps(CONFIG)
        rows = [f"  - {{ name: {name}, config: {config}, tasks: fill-mask }}" for name in models]
        file.write_text("\n".join(["shapes: 1x16", "targets: inf2", "models:", *rows]))
        return matrix.run(file, tmp_path / "out", matrix.Settings(jobs=2, max_memory=64 << 30))

    return run


def test_cells_that_run_on_the_device_do_not_take_each_others_cores(workers, tmp_path: Path) -> None:
    report = workers(["one", "two"], lock=str(tmp_path / "cores"))
    assert report.failures == ()
    assert report.counts == {"passed": 2}


def test_a_failed_compilation_names_a_log_that_is_still_there(workers, tmp_path: Path) -> None:
    report = workers(["one"], fail="exit")
    (result,) = report.results
    log = Path(result.outcome.log)
    assert (result.status, result.outcome.stage) == ("failed", "export")
    assert f"Its log {log} ends with: " in result.outcome.reason
    assert "[NCC_EVRF001] an operator is not supported" in log.read_text()
    assert log.parent.parent == tmp_path / "out" / "cells"
    assert not (tmp_path / "out" / "work").exists()


def test_a_library_that_is_there_and_cannot_be_imported_is_a_failure(workers, edit) -> None:
    def spoil() -> None:
        edit(lambda text: f"{text}\nraise ImportError('libnrt.so.1: no such file')\n")

    report = workers(["one"], before=spoil)
    assert report.counts == {"failed": 1}
    assert "torch_neuronx can't be imported (libnrt.so.1: no such file)" in report.failures[0]


def test_with_a_device_it_is_compiled_run_and_compared(host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[int, str, Any]] = []
    compile_ = NeuronxCompiler.compile

    def noted(self: NeuronxCompiler, head: Any, examples: Any, spec: Any, folder: Path) -> Any:
        compiled.append((len(examples), spec.optlevel, spec.compiler_args))
        return compile_(self, head, examples, spec, folder)

    monkeypatch.setattr(NeuronxCompiler, "compile", noted)
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NEURONBERT_CACHE_LIMIT", "1G")
    host("inf2")
    assert worker.probe("inf2") == Probe()
    options = Options(optlevel="3", compiler_args=("--enable-saturate-infinity",))
    for name in ("one", "two"):
        outcome = worker.run(CELL.model_copy(update={"options": options}), None, tmp_path / name)
        assert outcome.status == "passed", outcome.reason
        assert outcome.report is not None
        assert {check.shape for check in outcome.report.checks} == {"1x16", "2x16"}
    assert compiled == [(2, "3", ("--enable-saturate-infinity",))] * 2, "never from the cache"


def test_without_a_device_it_is_compiled_and_not_run(host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host("inf2")
    export = worker.export

    def then_lose_the_device(*arguments: Any, **options: Any) -> Any:
        artifact = export(*arguments, **options)
        host.set_machine(device=None)
        return artifact

    monkeypatch.setattr(worker, "export", then_lose_the_device)
    outcome = worker.run(CELL, None, tmp_path)
    assert (outcome.status, outcome.stage, outcome.report) == ("compiled", "validate", None), outcome.reason
    assert "this machine has no" in outcome.reason
    probe = worker.probe("inf2")
    assert (probe.compiler, probe.runtime) == ("", outcome.reason)


def test_without_a_compiler_it_is_skipped(tmp_path: Path) -> None:
    assert "torch-neuronx is not installed" in worker.probe("inf2").compiler
    outcome = worker.run(CELL, None, tmp_path)
    assert (outcome.status, outcome.stage) == ("skipped", "export")


def test_a_target_without_such_an_option_has_failed(tmp_path: Path) -> None:
    cell = CELL.model_copy(update={"target": "cpu", "options": Options(lnc=1)})
    outcome = worker.run(cell, None, tmp_path)
    assert (outcome.status, outcome.stage) == ("failed", "export")
    assert "the cpu target has no such setting" in outcome.reason
