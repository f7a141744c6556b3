"""Packed programs against the same ones frozen only, and what a rewritten graph is made of."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuronbert import StaticShape
from neuronbert.backends import packing, torchscript

pytestmark = pytest.mark.skipif(not packing.supported(), reason="oneDNN's kernels are for x86-64")

SHAPES = (StaticShape(1, 8), StaticShape(2, 16))
METHODS = ["forward", "forward_1x8"]
# The same products in another order of summation, over at most a few hundred terms of the order of one.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


class Mixed(nn.Module):
    """Every kind of product that is looked at: three of one input, one before a GELU, one alone, one without a bias."""

    def __init__(self, width: int, approximate: str) -> None:
        super().__init__()
        self.three = nn.ModuleList(nn.Linear(width, out) for out in (width, 2 * width, 1))
        self.before = nn.Linear(width, 3 * width)
        self.bare = nn.Linear(3 * width, width, bias=False)
        self.approximate = approximate

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        one, two, three = (part(given) for part in self.three)
        hidden = F.gelu(self.before(one * three), approximate=self.approximate)
        return self.bare(hidden) + given, two


def frozen(module: nn.Module, *inputs: Tensor) -> Any:
    return torch.jit.freeze(torch.jit.trace(module.eval(), inputs, check_trace=False))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 50), st.sampled_from(["none", "tanh"]))
def test_a_packed_program_answers_as_before(batch: int, rows: int, width: int, approximate: str) -> None:
    torch.manual_seed(width)
    module, given = Mixed(width, approximate), torch.randn(batch, rows, width)
    with torch.no_grad():
        packed = frozen(module, given)
        packing.pack(packed, ["forward"], 64)
        for expected, found in zip(module(given), packed(given), strict=True):
            torch.testing.assert_close(found, expected, **TOLERANCE)


def test_products_are_joined_and_gelu_goes_into_one() -> None:
    packed = frozen(Mixed(4, "none"), torch.randn(2, 3, 4))
    packing.pack(packed, ["forward"], 6)
    kinds = [node.kind() for node in packed.graph.nodes()]
    assert kinds.count("mkldnn::_linear_pointwise") == 3
    assert not {"aten::linear", "aten::gelu"} & set(kinds)


def test_a_result_that_is_needed_before_its_gelu_is_kept() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, given: Tensor) -> Tensor:
            product = self.inner(given)
            return F.gelu(product) + product

    module, given = Both(), torch.randn(3, 4)
    packed = frozen(module, given)
    packing.pack(packed, ["forward"], 3)
    with torch.no_grad():
        torch.testing.assert_close(packed(given), module(given), **TOLERANCE)


@pytest.mark.parametrize("cast", [("none", "bf16"), ("matmul", "bf16"), ("matmul", "fp16")], ids="-".join)
def test_two_shapes_share_every_weight(exported: Callable[..., Path], cast: tuple[str, str]) -> None:
    artifact = exported("fill-mask", *SHAPES, auto_cast=cast[0], auto_cast_type=cast[1])
    module = torchscript.load(artifact / "model.neuron", METHODS)
    packing.round_weights(module, METHODS)
    loaded = torch.jit.freeze(module, preserved_attrs=METHODS[1:])
    packing.pack(loaded, METHODS, 32)
    used = [set(re.findall(r'GetAttr\[name="(\w+)"\]', str(getattr(loaded, method).graph))) for method in METHODS]
    assert used[0] == used[1]
    # Two layers of four products, the transform of the head, and its vocabulary.
    assert len(used[0]) == 10


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_are_rounded_as_in_the_program(exported: Callable[..., Path], dtype: str) -> None:
    artifact = exported("fill-mask", *SHAPES, auto_cast="matmul", auto_cast_type=dtype)
    plain, rounded = (torchscript.load(artifact / "model.neuron", METHODS) for _ in range(2))
    packing.round_weights(rounded, METHODS)
    casts = [str(module.forward.graph).count("aten::to(") for module in (plain, rounded)]
    assert casts[0] - casts[1] >= 2 * 13  # two casts of each of the matrices
    inputs = torch.arange(32).view(2, 16), torch.ones(2, 16, dtype=torch.int64), torch.zeros(2, 16, dtype=torch.int64)
    with torch.no_grad():
        for expected, found in zip(plain(*inputs), rounded(*inputs), strict=True):
            assert torch.equal(found, expected)


def test_a_weight_that_is_also_used_as_it_is_stays_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(7, 4))

        def forward(self, ids: Tensor) -> Tensor:
            rows = F.embedding(ids, self.table)
            return rows + F.linear(rows, self.table.to(torch.bfloat16).to(torch.float32)[:4])

    ids = torch.tensor([[1, 2, 6]])
    module = torch.jit.trace(Tied().eval(), ids)
    expected = module(ids)
    again = copy.deepcopy(module)
    packing.round_weights(again, ["forward"])
    assert torch.equal(again(ids), expected)
