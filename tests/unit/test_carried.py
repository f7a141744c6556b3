"""Functions on integers that fp32 carries, against those on integers: the same, over what a layer can give them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neuronbert.integers import carried, nonlinear, steps
from neuronbert.integers.carried import Constants, Ratio
from neuronbert.integers.limbs import BITS, EXACT, Limbs
from neuronbert.integers.scales import dyadic, requantize, scale_of

WIDE = 1 << 40


def told(number: Limbs) -> Tensor:
    """The numbers as integers of 64 bits."""
    parts = torch.broadcast_tensors(*(torch.as_tensor(part) for part in number.parts))
    return sum((part.to(torch.int64) << BITS * index for index, part in enumerate(parts)), torch.tensor(0))


def whole(*shape: int, most: int) -> Tensor:
    """Integers with those at the ends among them."""
    values = torch.randint(-most, most, shape, generator=torch.Generator().manual_seed(0))
    values.view(-1)[::7], values.view(-1)[1::7] = most - 1, -most
    return values


@pytest.mark.parametrize("typical", [2.0**-30, 1e-4, 0.3, 200.0])
def test_a_ratio_for_each_column_is_requantization(typical: float) -> None:
    spread = torch.logspace(-4, 4, 40, dtype=torch.float64) * typical
    spread[::3] *= -1
    spread[5] = 0.0
    by = dyadic(spread, 23)
    values = whole(30, 40, most=2**23)
    expected = requantize(values, by, -(1 << 60), 1 << 60)
    ratio = Ratio(by)
    assert torch.equal(told(ratio(Limbs.of(values.float(), -(2**23), 2**23))), expected)
    assert {tensor.dtype for tensor in ratio.buffers()} == {torch.float32}


@pytest.mark.parametrize("width", [40, 768, 3072])
def test_sums_that_fp32_would_round_are_split(width: int) -> None:
    hidden, weight = whole(2, 5, width, most=128), whole(6, width, most=127)
    weight[0], hidden[0, 0] = -127, -128  # the largest sum that there is
    bias = whole(6, most=2**30)
    parts = carried.pieces(weight.to(torch.int8))
    assert (len(parts) > 1) == (width == 3072)
    found = carried.products(hidden.float(), weight.to(torch.int8), Constants(bias.tolist())(), parts)
    assert torch.equal(told(found), hidden @ weight.t() + bias)


@pytest.mark.parametrize("scale", [1.0, 0.97, 0.3, 1e-3, 2.0**-14, 1e-5, 2.0**-20])
@pytest.mark.parametrize("tokens", [1, 7, 512])
def test_softmax(scale: float, tokens: int) -> None:
    constants = nonlinear.softmax_constants(scale, scale_of(1.0, 16))
    near = (torch.randn(3, 2, 4, tokens, generator=torch.Generator().manual_seed(1)) * 4 / scale).clamp(-(2**20), 2**20)
    lengths = torch.arange(tokens) < torch.tensor([tokens, tokens // 2, 0]).view(3, 1, 1, 1)
    for scores in (near.to(torch.int64), whole(3, 2, 4, tokens, most=2**20)):
        expected = nonlinear.softmax(scores.to(torch.int32), lengths, constants)
        assert torch.equal(carried.softmax(scores.float(), lengths, constants), expected.float())


def test_softmax_of_more_than_fp32_adds_up_is_refused() -> None:
    constants = nonlinear.softmax_constants(0.1, scale_of(1.0, 16))
    with pytest.raises(OverflowError):
        carried.softmax(torch.zeros(1, 1, 1, carried.TOKENS + 1), torch.ones(1, dtype=torch.bool), constants)
    assert carried.TOKENS * constants[-1] <= EXACT < (carried.TOKENS + 1) * (constants[-1] + 1)


@pytest.mark.parametrize("scale", [2.0**-18, 3e-5, 3e-3, 0.4])
def test_gelu(scale: float) -> None:
    scales = torch.linspace(scale, 3 * scale, 30, dtype=torch.float64)
    most = torch.linspace(200, 2**22, 30).to(torch.int64)
    constants, _, _ = nonlinear.gelu_constants(scales, most)
    values = (whole(50, 30, most=2**20) * most) >> 20
    values[:3] = torch.tensor([[-1], [0], [1]])
    given = Limbs.of(values.float(), -(2**22), 2**22)
    found = carried.gelu(given, *(Constants(row)() for row in constants.tolist()))
    assert torch.equal(told(found), nonlinear.gelu(values, constants))


@pytest.mark.parametrize("width", [3, 32, 768])
@pytest.mark.parametrize("shift", [0, 3, 9])
@pytest.mark.parametrize("most", [1, 100, 2**15, 2**21])
def test_layer_norm(width: int, shift: int, most: int) -> None:
    values = whole(20, width, most=most)
    values[0] = most - 1
    bias = whole(width, most=2**34)
    found = carried.layer_norm(values.float(), Constants(bias.tolist())(), shift)
    assert torch.equal(told(found), nonlinear.layer_norm(values.to(torch.int32), bias, shift))


def test_scores_and_context_are_those_of_the_steps() -> None:
    query, key = whole(2, 3, 9, 64, most=128), whole(2, 3, 9, 64, most=127)
    found = torch.matmul(query.float(), key.float().transpose(2, 3))
    assert torch.equal(found.to(torch.int32), steps.scores(query.to(torch.int8), key.to(torch.int8)))
