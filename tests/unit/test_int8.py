"""The kernels of an 8-bit program are put only where they fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neuronbert.backends import int8
from neuronbert.quantization import kernels

VALUES = torch.randint(-128, 128, (3, 16), dtype=torch.int8)


class Product(torch.nn.Module):
    def forward(self, values: Tensor, weight: Tensor) -> Tensor:
        return kernels.int8_linear_float(values, weight, torch.ones(4), torch.zeros(4))


@torch.jit.script
def int8_dequantize(values: Tensor) -> Tensor:
    return values.to(torch.float32)


class Misnamed(torch.nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return int8_dequantize(values)


@pytest.mark.skipif(not int8.supported(), reason="the kernels need VNNI")
def test_a_weight_that_is_computed_in_the_call_is_refused():
    traced = torch.jit.trace(Product().eval(), (VALUES, VALUES[:1].expand(4, 16).contiguous()), check_trace=False)
    int8.substitute(traced)
    with pytest.raises(RuntimeError, match="weight"):
        int8.pack(torch.jit.freeze(traced), ["forward"])


def test_a_call_with_other_arguments_than_its_name_says_is_refused():
    traced = torch.jit.trace(Misnamed().eval(), VALUES, check_trace=False)
    with pytest.raises(RuntimeError, match="arguments"):
        int8.substitute(traced)


def test_the_portable_product_is_exact():
    torch.manual_seed(0)
    weight = torch.randint(-128, 128, (5, 16), dtype=torch.int8)
    found = kernels.int8_linear_float(VALUES, weight, torch.ones(5), torch.zeros(5))
    assert torch.equal(found.long(), VALUES.long() @ weight.long().t())
