"""A cell of a matrix on a host that compiles for a Neuron target, with its device and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuronbert.backends.neuronx import NeuronxCompiler
from neuronbert.matrix import worker
from neuronbert.matrix.messages import Probe
from neuronbert.matrix.schema import Cell, Options

CONFIG = {"model_type": "bert", "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CELL = Cell(model="a", config=CONFIG, task="fill-mask", shape="1x16+2x16", target="inf2", auto_cast="matmul-bf16")


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
