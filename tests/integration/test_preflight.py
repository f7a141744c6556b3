"""neuronbert check: the verdicts, the way to another interpreter and back, and what goes wrong on it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from neuronbert import ExportSpec, StaticShape, check
from neuronbert.errors import (
    InvalidOptionError,
    InvalidShapeError,
    LoweringUnavailableError,
    NotExportableError,
    PreflightFailedError,
    StorageError,
)
from neuronbert.preflight import hlo
from neuronbert.preflight.report import to_json
from neuronbert.preflight.rules import RULES
from tests.conftest import Done

DOUBLE = Path(__file__).parents[1] / "support" / "xla"
SHORT = StaticShape(2, 32)


@pytest.fixture
def lowering(monkeypatch: pytest.MonkeyPatch) -> str:
    """An interpreter whose torch_xla is the double."""
    monkeypatch.setenv("PYTHONPATH", str(DOUBLE))
    return sys.executable


@pytest.fixture
def run(run: Callable[..., Done]) -> Callable[..., Done]:
    return partial(run, "check")


def test_the_most_that_is_said_is_that_nothing_was_found(tiny) -> None:
    report = check(ExportSpec(str(tiny("fill-mask")), (SHORT,), target="inf2"))
    assert (report.passed, report.verdict) == (True, "no known-bad pattern found")
    assert report.task == "fill-mask"
    assert "--hlo-python" in report.not_lowered
    assert set(report.rules) >= {rule.code for rule in RULES}
    report.raise_if_failed()


def test_a_lowered_program_says_so_and_by_what(tiny, lowering: str) -> None:
    report = check(ExportSpec(str(tiny("text-classification")), (SHORT,), target="inf2"), hlo_python=lowering)
    assert report.verdict == "lowers, no known-bad pattern"
    assert report.lowered_by == {"torch": torch.__version__, "torch_xla": "2.9.0+double"}
    (program,) = report.programs
    # The double sees the linear layers only; those of two encoder layers, the pooler and the classifier are 14.
    assert program.hlo_operations == 14
    assert program.hlo_flops is not None
    assert 0 < program.hlo_flops < program.flops


def test_one_program_that_isnt_lowered_leaves_the_verdict_without_it(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(DOUBLE))
    monkeypatch.setenv("DOUBLE_DIES_OF", "1x16")
    monkeypatch.setattr(hlo, "find_interpreter", lambda: sys.executable)
    report = check(ExportSpec(str(tiny("fill-mask")), (SHORT, StaticShape(1, 16)), target="inf2"))
    assert [program.hlo_operations is None for program in report.programs] == [False, True]
    assert "torch_xla died" in report.not_lowered
    assert (report.passed, report.lowered, report.verdict) == (True, False, "no known-bad pattern found")


def test_what_stops_the_lowering_is_found(tiny, lowering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUBLE_FAILS", "aten::nonsense has no lowering\nand more")
    report = check(ExportSpec(str(tiny("fill-mask")), (SHORT,), target="inf2"), hlo_python=lowering)
    (finding,) = report.findings
    assert (finding.code, finding.graph, finding.program) == ("trace", "hlo", "2x32")
    assert "aten::nonsense has no lowering" in finding.problem
    assert report.programs[0].hlo_operations is None
    assert report.verdict == "1 problem found"


def test_what_is_computed_on_the_cpu_in_place_of_lowering_is_found(lowering: str, monkeypatch) -> None:
    monkeypatch.setenv("DOUBLE_COMPUTES", "aten::nonzero")
    lowered = hlo.lower(nn.Linear(2, 2), (torch.ones(1, 2),), lowering)
    assert lowered.graph.problem == "torch_xla has no lowering for aten::nonzero"


def test_an_interpreter_is_found_where_the_user_is(lowering: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "python").write_text(f'#!/bin/sh\nPYTHONPATH={DOUBLE} exec {lowering} "$@"\n')
    (tmp_path / "venv" / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    lowered = hlo.lower(nn.Linear(2, 2), (torch.ones(1, 2),), "venv/python")
    assert lowered.versions["torch_xla"] == "2.9.0+double"


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_module_that_torch_cant_export_is_not_handed_over() -> None:
    with pytest.raises(NotExportableError, match="can't take the model"):
        hlo.lower(Branches(), (torch.ones(2),), "/never/started")


def refuse_export(*_arguments: object) -> None:
    raise RuntimeError("no such thing as numpy()")  # as torch says of a module that reads .numpy()


def test_what_torch_cant_export_is_no_finding(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hlo, "find_interpreter", lambda: sys.executable)
    monkeypatch.setattr(torch.export, "export", refuse_export)
    report = check(ExportSpec(str(tiny("fill-mask")), (SHORT,), target="inf2"))
    assert (report.findings, report.verdict) == ((), "no known-bad pattern found")
    assert "numpy()" in report.not_lowered
    assert report.lowered_by == {}


def test_hlo_that_was_asked_for_is_missed_only_where_something_else_is_found(tiny, monkeypatch) -> None:
    monkeypatch.setattr(torch.export, "export", refuse_export)
    spec = ExportSpec(str(tiny("fill-mask")), (SHORT,), target="inf2")
    with pytest.raises(NotExportableError, match="without --hlo-python"):
        check(spec, hlo_python=sys.executable)
    found = check(replace(spec, shapes=(SHORT, StaticShape(1, 65))), hlo_python=sys.executable)
    assert [finding.code for finding in found.findings] == ["NCC_EVRF056"]
    assert "numpy()" in found.not_lowered


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (sys.executable, "No module named 'torch_xla'"),
        ("/no/such/python", "No such file"),
        (shutil.which("true") or "true", "no answer"),
        (shutil.which("false") or "false", "ended with 1"),
    ],
)
def test_an_interpreter_that_cant_lower_is_an_error(python: str, said: str) -> None:
    with pytest.raises(LoweringUnavailableError, match=said):
        hlo.lower(nn.Linear(2, 2), (torch.ones(1, 2),), python)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """A program to name as an interpreter."""

    def write(line: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return str(path)

    return write


def test_another_interpreter_is_kept_from_this_ones_packages(lowering: str, script: Callable[[str], str]) -> None:
    own = script(f'PYTHONPATH="{DOUBLE}" exec {lowering} "$@"')
    assert hlo.lower(nn.Linear(2, 2), (torch.ones(1, 2),), own).graph.ops
    other = script(f'exec {lowering} "$@"')
    with pytest.raises(LoweringUnavailableError, match="No module named 'torch_xla'"):
        hlo.lower(nn.Linear(2, 2), (torch.ones(1, 2),), other)


def test_an_interpreter_that_hangs_is_given_up(script: Callable[[str], str], monkeypatch) -> None:
    monkeypatch.setattr(hlo, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(LoweringUnavailableError, match=r"wasn't done in 0\.2 seconds"):
        hlo.lower(nn.Linear(2, 2), (torch.ones(1, 2),), script("exec sleep 60"))


def test_this_interpreters_own_torch_xla_may_be_broken(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hlo, "find_interpreter", lambda: sys.executable)
    report = check(ExportSpec(str(tiny("fill-mask")), (SHORT, StaticShape(1, 16)), target="inf2"))
    assert report.verdict == "no known-bad pattern found"
    assert "torch_xla" in report.not_lowered


def test_a_full_disk_is_found_out_before_the_program_is_written(tiny, lowering: str, monkeypatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(hlo.shutil, "disk_usage", lambda _path: usage._replace(free=10))
    with pytest.raises(StorageError, match="10 are free"):
        hlo.lower(nn.Linear(2, 2), (torch.ones(1, 2),), lowering)


def test_rows_longer_than_the_positions_are_found(tiny) -> None:
    report = check(ExportSpec(str(tiny("fill-mask")), (SHORT, StaticShape(1, 65)), target="trn1"))
    (finding,) = report.findings
    assert (finding.code, finding.program) == ("NCC_EVRF056", "1x65")
    assert finding.page.endswith("compiler/error-codes/EVRF056.html")
    assert [program.name for program in report.programs] == ["2x32"]
    assert report.verdict == "the compiler is documented to refuse this (1 found)"
    with pytest.raises(PreflightFailedError, match="65 tokens"):
        report.raise_if_failed()


def test_the_verdict_says_refused_only_of_what_is_documented(tiny, lowering: str, monkeypatch) -> None:
    monkeypatch.setenv("DOUBLE_FAILS", "no lowering")
    spec = ExportSpec(str(tiny("fill-mask")), (SHORT,), target="inf2", lnc=2)
    report = check(spec, hlo_python=lowering)
    assert {finding.code: finding.refused for finding in report.findings} == {"NCC_EARG001": True, "trace": False}
    assert report.verdict == "the compiler is documented to refuse this (1 found and 1 more)"
    others = replace(report, findings=(report.findings[-1],) * 2)
    assert others.verdict == "2 problems found"


def test_weights_are_counted_once_for_each_program(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuronbert.preflight import flight
    from neuronbert.targets import TARGETS

    model = str(tiny("fill-mask"))
    (program,) = check(ExportSpec(model, (SHORT,), target="inf2")).programs
    room = int(1.5 * program.weights_bytes) + program.io_bytes + program.peak_bytes
    monkeypatch.setattr(flight, "TARGETS", {"inf2": replace(TARGETS["inf2"], hbm_bytes=room)})
    shapes = (SHORT, StaticShape(1, 32))
    report = check(ExportSpec(model, shapes, target="inf2"))
    assert {finding.code for finding in report.findings} == {"NCC_EOOM001"}
    # TorchNeuron loads one set of weights for all its programs.
    monkeypatch.setattr(flight, "TARGETS", {"trn3": replace(TARGETS["trn3"], hbm_bytes=room)})
    assert check(ExportSpec(model, shapes, target="trn3")).passed


def test_what_makes_no_program_is_refused(tiny) -> None:
    with pytest.raises(InvalidOptionError, match="Neuron target"):
        check(ExportSpec(str(tiny("fill-mask")), (SHORT,), target="cpu"))
    with pytest.raises(InvalidShapeError, match="num-choices"):
        check(ExportSpec(str(tiny("multiple-choice")), (SHORT,), target="inf2"))


def test_the_report_is_json(tiny) -> None:
    report = check(ExportSpec(str(tiny("fill-mask")), (SHORT,), target="trn2", lnc=2))
    body = json.loads(to_json(report))
    assert body["passed"] is True
    assert (body["target"], body["lnc"]) == ("trn2", 2)
    assert body["programs"][0]["flops_per_byte"] > 0
    assert body["programs"][0]["hlo_operations"] is None


def test_the_command_prints_counts_and_the_verdict(run, tiny) -> None:
    code, out, err = run(tiny("fill-mask"), "--target", "inf2", "--sequence_length", "16,32")
    assert code == 0
    assert "1x16" in out
    assert out.splitlines()[-1] == "inf2: no known-bad pattern found"
    assert "will compile" not in out + err


def test_the_command_exits_1_where_a_rule_is_broken(run, tiny) -> None:
    code, out, err = run(tiny("fill-mask"), "--target", "inf2", "--sequence-length", "32", "--lnc", "2", "--json")
    assert code == 1
    assert [finding["code"] for finding in json.loads(out)["findings"]] == ["NCC_EARG001"]
    assert "NCC_EARG001" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--target", "inf3"), 2),
        (("--target", "inf2", "--lnc", "3"), 2),
        (("--target", "inf2", "--task", "nonsense"), 2),
        (("--target", "inf2", "--sequence-length", "32", "--hlo-python", "/no/such/python"), 3),
    ],
)
def test_wrong_use_and_missing_things_are_one_line(run, tiny, arguments: tuple[str, ...], code: int) -> None:
    found, out, err = run(tiny("fill-mask"), *arguments)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


def test_the_target_has_to_be_named(run, tiny) -> None:
    code, out, err = run(tiny("fill-mask"))
    assert (code, out) == (2, "")
    assert "Missing option '--target'" in err


def test_a_checkpoint_that_isnt_there_is_missing(run) -> None:
    code, _, err = run("/no/such/checkpoint", "--target", "inf2")
    assert code == 3
    assert len(err.splitlines()) == 1
