"""Lowering to HLO with the real torch_xla (`make check-hlo`), which the suite does without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuronbert import ExportSpec, StaticShape, check
from neuronbert.architectures import TASKS
from neuronbert.preflight import hlo
from neuronbert.preflight.patterns import Case
from neuronbert.preflight.rules import findings
from neuronbert.targets import TARGETS

PYTHON = os.environ.get("NEURONBERT_HLO_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="lowering takes an environment of its own: make check-hlo")

FLOATS = torch.linspace(-1, 1, 12).view(3, 4)
INTS = torch.arange(12, dtype=torch.int32).view(3, 4)


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self._function(*inputs),)


@pytest.mark.parametrize("task", TASKS)
def test_every_head_lowers_to_as_many_flops_as_were_counted(tiny, task: str) -> None:
    shape = StaticShape(2, 32, 3 if task == "multiple-choice" else None)
    report = check(ExportSpec(str(tiny(task)), (shape,), task, target="inf2"), hlo_python=PYTHON)
    assert report.findings == ()
    assert report.verdict == "lowers, no known-bad pattern"
    (program,) = report.programs
    # The mean over a row's tokens is a product with a single row, which lowering makes a multiplication and a sum.
    pooled = 2 * shape.tokens * 32 if task == "sentence-embedding" else 0
    assert program.hlo_flops == program.flops - pooled > 0


def test_the_real_checkpoint_lowers(minilm: Path) -> None:
    spec = ExportSpec(str(minilm), (StaticShape(1, 128),), "feature-extraction", target="trn2", lnc=2)
    report = check(spec, hlo_python=PYTHON)
    assert report.verdict == "lowers, no known-bad pattern"
    assert report.lowered_by["torch_xla"].startswith("2.9")
    assert report.programs[0].hlo_flops == report.programs[0].flops


BROKEN: tuple[tuple[str, Callable[..., Tensor], tuple[Tensor, ...]], ...] = (
    ("NCC_ESPP004", lambda x: x.double() * 2, (FLOATS,)),
    ("NCC_EVRF001", lambda a, b: torch.triangular_solve(b, a)[0], (torch.eye(3), FLOATS)),
    ("NCC_EVRF004", lambda x: (x.to(torch.complex64) * 2).real, (FLOATS,)),
    ("NCC_EVRF010", lambda x: nn.functional.conv_transpose2d(x, torch.ones(1, 1, 3, 3), stride=2, dilation=2), ()),
    ("NCC_EVRF035", torch.matmul, (INTS, torch.eye(4, dtype=torch.int32))),
    ("NCC_EVRF060", lambda x: x.scatter_add(0, torch.zeros(1, 4, dtype=torch.int64), x[:1]), (INTS,)),
    ("NCC_EVRF062", lambda x: torch.pow(x, x), (INTS.long(),)),
    ("sort", lambda x: torch.sort(x)[0], (FLOATS,)),
    ("NCC_EVRF022", lambda x: torch.bitwise_right_shift(x, x), (INTS.short(),)),
)


@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated:UserWarning")
@pytest.mark.parametrize(("code", "function", "inputs"), BROKEN)
def test_what_the_rules_know_is_seen_in_real_hlo(
    code: str, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    lowered = hlo.lower(Calls(function), inputs or (torch.ones(1, 1, 8, 8),), PYTHON)
    assert lowered.graph.problem == ""
    found = findings(Case(TARGETS["trn2"], lowered.graph), "module", "hlo")
    assert code in {finding.code for finding in found}


@pytest.mark.parametrize(
    ("function", "operator"),
    [(torch.nonzero, "aten::nonzero"), (torch.fft.fft, "aten::_fft_r2c")],
)
def test_what_isnt_lowered_is_no_program(function: Callable[..., Tensor], operator: str) -> None:
    # torch_xla itself says nothing: it computes them on the CPU and goes on.
    lowered = hlo.lower(Calls(function), (FLOATS,), PYTHON)
    assert operator in lowered.graph.problem
