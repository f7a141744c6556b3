"""The compiled attention gives what its definition gives, and is put where nothing else reads what it leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuronbert.backends import attention, integer_kernels

LOWEST = torch.finfo(torch.float32).min
SIZES = [(1, 1, 1, 1), (2, 3, 7, 8), (1, 2, 12, 32), (3, 2, 65, 48), (1, 4, 130, 64), (2, 1, 13, 100)]
"""Rows, heads, tokens and depths: fewer and more than a block, a panel and a vector, and just as many."""


def heads(rows, count, tokens, depth, seed=0):
    """Query, key and value as a program has them: parts of one product, by head."""
    joint = torch.randn(rows, tokens, 3 * count * depth, generator=torch.Generator().manual_seed(seed))
    return [part.view(rows, tokens, count, depth).transpose(1, 2) for part in joint.split(count * depth, dim=-1)]


def masked(kind, rows, tokens):
    mask = torch.zeros(rows, 1, tokens if kind == "by query" else 1, tokens)
    if kind == "padding":
        for row in range(rows):
            mask[row, ..., tokens - row * tokens // 4 :] = LOWEST
    elif kind == "everything":
        mask[0] = LOWEST
    elif kind == "by query":
        mask.masked_fill_(torch.ones(tokens, tokens).triu(1).bool(), LOWEST)
    return mask


def attend(*given, inverse=0.0, most=0.0):
    context, received = torch.ops.neuronbert.attend(*given, inverse, most)
    return context.transpose(1, 2).flatten(2), received


def defined(query, key, value, mask, scaling):
    query, key, value = query.double(), key.double(), value.double()
    probabilities = torch.softmax(query @ key.transpose(2, 3) * scaling + mask.double(), dim=-1)
    if (
        (mask == LOWEST).all(-1).any()
    ):  # what hides all hides nothing: in fp32 no score is seen beside the lowest number
        probabilities = torch.where((mask == LOWEST).all(-1, keepdim=True), 1 / mask.shape[-1], probabilities)
    context = (probabilities @ value).transpose(1, 2).flatten(2)
    return context.float(), probabilities.sum((1, 2)).float()


@pytest.mark.parametrize("kind", ["nothing", "padding", "everything", "by query"])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_kernel_gives_what_attention_is_defined_as(kernels, sizes, kind):
    rows, _, tokens, depth = sizes
    given, mask = heads(*sizes), masked(kind, rows, tokens)
    context, received = attend(*given, mask, depth**-0.5)
    expected = defined(*given, mask, depth**-0.5)
    torch.testing.assert_close(context, expected[0], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(received, expected[1], rtol=1e-5, atol=2e-6)
    hidden = (mask == LOWEST).all(2)[:, 0] & ~(mask == LOWEST).all(-1).all(2)
    assert (received[hidden] == 0).all(), "a token that nobody may see receives nothing at all"


def test_scores_that_are_far_apart_leave_no_nan(kernels):
    query, key, value = heads(1, 2, 40, 16)
    context, received = attend(100 * query, 100 * key, value, torch.zeros(1, 1, 1, 40), 1.0)
    expected = defined(100 * query, 100 * key, value, torch.zeros(1, 1, 1, 40), 1.0)
    torch.testing.assert_close(context, expected[0], rtol=1e-2, atol=1e-2)
    assert received.isfinite().all()
    assert float(received.sum()) == pytest.approx(80, rel=1e-5)


def test_no_number_of_threads_changes_a_bit(kernels):
    given, mask = heads(2, 5, 70, 24), masked("padding", 2, 70)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(attend(*given, mask, 0.2))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("wrong", ["type", "size", "dimensions", "device", "nothing"])
def test_the_kernel_refuses_other_tensors_than_it_takes(kernels, place, wrong):
    given = [*heads(2, 3, 9, 8), masked("padding", 2, 9)]
    change = {"type": lambda x: x.double(), "size": lambda x: x[..., 1:], "dimensions": lambda x: x[0]}
    change |= {"device": lambda x: x.to("meta"), "nothing": lambda x: x[:, :, :0]}
    given[place] = change[wrong](given[place])
    with pytest.raises(RuntimeError, match=r"attention|mask"):
        attend(*given, 1.0)


@pytest.mark.parametrize("sizes", [(0, 3, 9, 8), (2, 0, 9, 8), (2, 3, 0, 8), (2, 3, 9, 0)])
def test_the_kernel_refuses_nothing_at_all(kernels, sizes):
    rows, _, tokens, _ = sizes
    given = [torch.zeros(sizes)] * 3
    with pytest.raises(RuntimeError, match="not a query of"):
        attend(*given, torch.zeros(rows, 1, 1, tokens), 1.0)


def test_probabilities_are_counted_before_they_weigh_bytes(kernels):
    given = [torch.round(20 * tensor) for tensor in heads(2, 3, 30, 16)]
    mask, scale = masked("padding", 2, 30), 1 / 40
    context, received = attend(*given, mask, 0.01, inverse=1 / scale, most=25.0)
    probabilities = torch.softmax(given[0] @ given[1].transpose(2, 3) * 0.01 + mask, dim=-1)
    counts = torch.round(probabilities / scale).clamp(max=25)
    assert (counts == 25).any()
    assert (counts == 1).any()
    assert torch.equal(context, (counts @ given[2]).transpose(1, 2).flatten(2)), "whole numbers, to the last one"
    torch.testing.assert_close(received, probabilities.sum((1, 2)), rtol=1e-5, atol=1e-5)


STEPS = {"softmax": -1, "swapped": False, "across": (1, 2), "flat": (1, 2), "sum": 1, "dtype": torch.float32, "beta": 1}


class Attention(nn.Module):
    """The steps as a trace holds them; what else is given of them is a function of the probabilities and the scores."""

    def __init__(self, beside=lambda probabilities, scores: (), **steps):
        super().__init__()
        self._beside = beside
        self._steps = STEPS | steps

    def forward(self, query, key, value, mask):
        rows, count, tokens, _ = query.shape
        step = self._steps
        added = mask.expand(rows, count, -1, -1).flatten(0, 1)
        across = key.flatten(0, 1).transpose(*step["across"])
        scores = torch.baddbmm(added, query.flatten(0, 1), across, alpha=0.25, beta=step["beta"])
        probabilities = torch.softmax(scores, dim=step["softmax"]).view(rows, count, tokens, tokens)
        product = value @ probabilities if step["swapped"] else probabilities @ value
        context = product.transpose(1, 2).contiguous().reshape(rows, tokens, -1)
        received = torch.sum(probabilities.flatten(*step["flat"]), dim=step["sum"], dtype=step["dtype"])
        return context, received, *self._beside(probabilities, scores)


def frozen(module, given):
    traced = torch.jit.trace(module.eval(), given)
    made = torch.jit.freeze(traced)
    attention.substitute(made, ["forward"])
    return made


def test_the_kernel_is_put_in_the_place_of_the_steps(kernels):
    given = (*heads(2, 3, 20, 16), masked("padding", 2, 20))
    module = frozen(Attention(), given)
    kinds = {node.kind() for node in module.graph.nodes()}
    assert "neuronbert::attend" in kinds
    assert not kinds & {"aten::baddbmm", "aten::softmax", "aten::matmul", "aten::sum"}
    for ours, expected in zip(module(*given), Attention()(*given), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_probabilities_that_nobody_sums_up_stay_as_they_are(kernels):
    class Context(Attention):
        def forward(self, *given):
            return super().forward(*given)[0]

    module = frozen(Context(), (*heads(2, 3, 20, 16), masked("padding", 2, 20)))
    assert "neuronbert::attend" not in str(module.graph)


@pytest.mark.parametrize(
    "beside",
    [
        lambda probabilities, scores: (probabilities * 1,),
        lambda probabilities, scores: (scores * 1,),
        lambda probabilities, scores: (probabilities.flatten(2, 3) * 1,),
    ],
)
def test_steps_whose_probabilities_are_wanted_stay_as_they_are(kernels, beside):
    given = (*heads(2, 3, 20, 16), masked("padding", 2, 20))
    module = frozen(Attention(beside), given)
    assert "neuronbert::attend" not in str(module.graph)
    for ours, expected in zip(module(*given), Attention(beside)(*given), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    "steps",
    [
        {"softmax": 1},
        {"softmax": 0},
        {"across": (0, 1)},
        {"flat": (2, 3)},
        {"flat": (0, 1)},
        {"sum": 0},
        {"sum": (0, 1)},
        {"dtype": torch.float64},
        {"beta": 0.5},
        {"swapped": True},
    ],
    ids=str,
)
def test_steps_along_other_dimensions_stay_as_they_are(kernels, steps):
    given = (*heads(6, 6, 6, 6), masked("padding", 6, 6))  # of one size, so that any of them is computed
    given = tuple(tensor[:1, :6].contiguous() if "across" in steps else tensor for tensor in given)
    module = frozen(Attention(**steps), given)
    assert "neuronbert::attend" not in str(module.graph)
    for ours, expected in zip(module(*given), Attention(**steps)(*given), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_machine_without_the_kernels_runs_the_steps(monkeypatch):
    monkeypatch.setattr(integer_kernels, "available", lambda: False)
    given = (*heads(2, 3, 20, 16), masked("padding", 2, 20))
    assert "aten::baddbmm" in str(frozen(Attention(), given).graph)
