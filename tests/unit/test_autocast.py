"""The roundings against others that share no code with them, and the mode against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from neuronbert.backends.autocast import ROUNDINGS, AutoCastMode, round_bf16, round_fp8_e4m3, round_tf32


def whole_numbers(*dims: int, seed: int = 0) -> Tensor:
    """Whole numbers of ten bits: bf16 can't hold most of them, and sums of their products are exact in fp32."""
    return torch.randint(-1023, 1024, dims, generator=torch.Generator().manual_seed(seed)).float()


def bf16(value: float) -> float:
    """A number of bf16 in exact arithmetic: eight bits, to nearest even."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 256), exponent - 8)


def multiply(left: list[list[float]], right: list[list[float]]) -> list[list[float]]:
    """A matrix product of operands rounded to bf16, written out."""
    columns = list(zip(*right, strict=True))
    return [
        [math.fsum(bf16(a) * bf16(b) for a, b in zip(row, column, strict=True)) for column in columns] for row in left
    ]


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]


MATRIX_PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": torch.matmul,
    "operator": lambda a, b: a @ b,
    "method": lambda a, b: a.matmul(b),
    "mm": torch.mm,
    "mm method": lambda a, b: a.mm(b),
    "bmm": lambda a, b: torch.bmm(a[None], b[None])[0],
    "bmm method": lambda a, b: a[None].bmm(b[None])[0],
    "mv": lambda a, b: torch.stack([torch.mv(a, column) for column in b.T], dim=1),
    "mv method": lambda a, b: torch.stack([a.mv(column) for column in b.T], dim=1),
    "dot": lambda a, b: torch.stack([torch.stack([torch.dot(row, column) for column in b.T]) for row in a]),
    "dot method": lambda a, b: torch.stack([torch.stack([row.dot(column) for column in b.T]) for row in a]),
    "linear": lambda a, b: F.linear(a, b.T),
    "linear keyword": lambda a, b: F.linear(input=a, weight=b.T),
    "einsum": lambda a, b: torch.einsum("ij,jk->ik", a, b),
    "einsum list": lambda a, b: torch.einsum("ij,jk->ik", [a, b]),
    "tensordot": lambda a, b: torch.tensordot(a, b, dims=1),
    "keyword": lambda a, b: torch.matmul(a, other=b),
    "keywords": lambda a, b: torch.mm(input=a, mat2=b),
}
# Those of an addend and two operands.
SUMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lambda c, a, b: F.linear(a, b.T, c),
    "linear keyword": lambda c, a, b: F.linear(a, b.T, bias=c),
    "addmm": torch.addmm,
    "addmm keyword": lambda c, a, b: torch.addmm(input=c, mat1=a, mat2=b),
    "addmm method": lambda c, a, b: c.addmm(a, b),
    "addmv": lambda c, a, b: torch.stack([torch.addmv(c[:1], a, column) for column in b.T], dim=1),
    "addbmm": lambda c, a, b: torch.addbmm(c, a[None], b[None]),
    "addbmm method": lambda c, a, b: c.expand(3, 4).addbmm(a[None], b[None]),
    "baddbmm": lambda c, a, b: torch.baddbmm(c, a[None], b[None])[0],
    "baddbmm method": lambda c, a, b: c.expand(1, 3, 4).baddbmm(a[None], b[None])[0],
}


@pytest.mark.parametrize("product", [pytest.param(product, id=name) for name, product in MATRIX_PRODUCTS.items()])
@pytest.mark.parametrize("mode", ["matmul", "all"])
def test_every_matrix_product_is_one_of_rounded_operands(mode: str, product: Callable[..., Tensor]) -> None:
    left, right = whole_numbers(3, 7), whole_numbers(7, 4, seed=1)
    expected = torch.tensor(multiply(left.tolist(), right.tolist()))
    with AutoCastMode(mode, "bf16"):
        result = product(left, right)
    assert torch.equal(result, round_bf16(expected) if mode == "all" else expected)
    assert not torch.equal(expected, left @ right)


@pytest.mark.parametrize("product", [pytest.param(product, id=name) for name, product in SUMS.items()])
def test_what_is_added_to_a_product_is_rounded_in_all_mode_only(product: Callable[..., Tensor]) -> None:
    left, right, addend = whole_numbers(3, 7), whole_numbers(7, 4, seed=1), torch.full((4,), 2.0**18 + 2**9 + 1)
    expected = torch.tensor(multiply(left.tolist(), right.tolist()))
    with AutoCastMode("matmul", "bf16"):
        result = product(addend, left, right)
    assert torch.equal(result, expected + addend)
    with AutoCastMode("all", "bf16"):
        result = product(addend, left, right)
    assert torch.equal(result, round_bf16(expected + 2**18))
    assert not torch.equal(result, round_bf16(expected + addend))


def attention(heads: tuple[Tensor, Tensor, Tensor], bias: list[list[float]]) -> Tensor:
    """Scaled dot product attention on operands rounded to bf16, written out; the bias is -inf where it is masked."""
    contexts = []
    for query, key, value in zip(*(tensor[0].tolist() for tensor in heads), strict=True):
        products = multiply(query, [list(column) for column in zip(*key, strict=True)])
        scale = len(query[0]) ** -0.5
        scores = [
            [p * scale + b for p, b in zip(row, line, strict=True)] for row, line in zip(products, bias, strict=True)
        ]
        contexts.append(multiply([softmax(row) for row in scores], value))
    return torch.tensor(contexts)[None]


@pytest.mark.parametrize("kind", ["none", "bool", "additive", "causal"])
def test_attention_is_two_products_of_rounded_operands(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, 2, 4, 8, generator=generator) for _ in range(3))
    visible = torch.tensor([[True, True, False, True]]).expand(4, 4)
    visible = {"none": torch.ones(4, 4).bool(), "causal": torch.ones(4, 4).bool().tril()}.get(kind, visible)
    bias = torch.zeros(4, 4).masked_fill(~visible, -math.inf)
    options = {"none": {}, "causal": {"is_causal": True}, "bool": {"attn_mask": visible}}.get(kind, {"attn_mask": bias})
    with AutoCastMode("matmul", "bf16"):
        result = F.scaled_dot_product_attention(query, key, value, **options)
    exact = F.scaled_dot_product_attention(query, key, value, **options)
    expected = attention((query, key, value), bias.tolist())
    assert torch.allclose(result, expected, rtol=0, atol=2e-6)
    assert not torch.allclose(exact, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("mode", ["matmul", "all"])
def test_attention_of_grouped_heads_is_that_of_repeated_ones(mode: str) -> None:
    query = whole_numbers(1, 6, 4, 8) / 1024
    key, value = (whole_numbers(1, 2, 5, 8, seed=seed) / 1024 for seed in (1, 2))
    repeated = [torch.cat([part[:, :1]] * 3 + [part[:, 1:]] * 3, dim=1) for part in (key, value)]
    with AutoCastMode(mode, "bf16"):
        result = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        expected = F.scaled_dot_product_attention(query, *repeated)
    assert torch.equal(result, expected)
    assert torch.allclose(result, F.scaled_dot_product_attention(query, key, value, enable_gqa=True), atol=0.02)


def test_attention_takes_the_scale_that_it_is_given() -> None:
    tensors = [whole_numbers(1, 1, 2, 4, seed=seed) / 1024 for seed in range(3)]
    with AutoCastMode("matmul", "fp16"):
        result = F.scaled_dot_product_attention(*tensors, scale=2.0)
    assert torch.allclose(result, F.scaled_dot_product_attention(*tensors, scale=2.0), atol=1e-3)


def test_matmul_mode_leaves_everything_else_in_fp32() -> None:
    values = whole_numbers(3, 8) + 0.123
    layer = nn.LayerNorm(8)
    for operation in (torch.exp, F.gelu, layer, lambda x: x + 1.001, lambda x: torch.softmax(x, -1)):
        with AutoCastMode("matmul", "bf16"):
            result = operation(values)
        assert torch.equal(result, operation(values))


def test_all_mode_rounds_the_result_of_every_operation() -> None:
    values = whole_numbers(3, 8) / 1000
    for operation in (torch.exp, F.gelu, torch.tanh, lambda x: x + 1.001, lambda x: torch.softmax(x, -1)):
        with AutoCastMode("all", "bf16"):
            result = operation(values)
        assert torch.equal(result, round_bf16(operation(values)))


def test_what_only_moves_values_is_not_rounded() -> None:
    values = whole_numbers(2, 6)
    with AutoCastMode("all", "bf16"):
        moved = values.view(3, 4).transpose(0, 1).contiguous().reshape(2, 6)[:, 1:]
    assert torch.equal(moved.sort().values, values.view(3, 4).T.reshape(2, 6)[:, 1:].sort().values)


def test_whole_numbers_and_truth_values_are_left_alone() -> None:
    ids = torch.tensor([30521, 257])
    with AutoCastMode("all", "bf16"):
        assert (ids + 0).tolist() == [30521, 257]
        assert (ids > 300).tolist() == [True, False]


def test_an_embedding_is_looked_up_in_a_rounded_table() -> None:
    table = nn.Embedding(5, 4)
    with torch.no_grad(), AutoCastMode("all", "bf16"):
        result = table(torch.tensor([3, 1]))
    assert torch.equal(result, round_bf16(table.weight[[3, 1]]))


def test_all_mode_rounds_the_bias_of_a_linear_layer() -> None:
    # 1 + 2**-8 is a tie, which goes to 1; the least bit more goes to 1 + 2**-7.
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, 2**-8 + 2**-18)
    with torch.no_grad(), AutoCastMode("all", "bf16"):
        result = layer(torch.ones(1, 1))
    assert result.item() == 1.0


def layer_norm(values: Tensor, layer: nn.LayerNorm) -> Tensor:
    return F.layer_norm(values, (8,), weight=layer.weight, bias=layer.bias)


@pytest.mark.parametrize("call", [lambda values, layer: layer(values), layer_norm], ids=["module", "keywords"])
def test_all_mode_rounds_the_weights_of_a_layer_norm(call: Callable[[Tensor, nn.LayerNorm], Tensor]) -> None:
    layer = nn.LayerNorm(8)
    nn.init.constant_(layer.weight, 1.0029)
    nn.init.constant_(layer.bias, 0.3333)
    values = whole_numbers(64, 8)
    with torch.no_grad(), AutoCastMode("all", "bf16"):
        result = call(values, layer)
    weights = [round_bf16(parameter.detach()) for parameter in (layer.weight, layer.bias)]
    assert torch.equal(result, round_bf16(F.layer_norm(values, (8,), *weights)))


@pytest.mark.parametrize("name", ROUNDINGS)
@pytest.mark.parametrize("lowest", [None, -math.inf, torch.finfo(torch.float32).min], ids=str)
def test_a_row_that_attends_to_nothing_is_the_mean_of_all(name: str, lowest: float | None) -> None:
    query, key, value = (whole_numbers(1, 1, 2, 4, seed=seed) / 1024 for seed in range(3))
    value = ROUNDINGS[name](value)
    visible = torch.tensor([[False, False], [False, True]])
    mask = visible if lowest is None else torch.zeros(2, 2).masked_fill(~visible, lowest)
    with AutoCastMode("all", name):
        result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert torch.equal(result[0, 0, 0], ROUNDINGS[name](value[0, 0].mean(dim=0)))
    assert torch.equal(result[0, 0, 1], value[0, 0, 1])


@pytest.mark.parametrize(("name", "rounding"), [("tf32", round_tf32), ("fp8_e4m3", round_fp8_e4m3)])
def test_the_mode_rounds_to_the_type_that_it_is_given(name: str, rounding: Callable[[Tensor], Tensor]) -> None:
    left, right = whole_numbers(3, 7) / 7, whole_numbers(7, 4, seed=1) / 7
    with AutoCastMode("matmul", name):
        result = left @ right
    assert torch.equal(result, rounding(left) @ rounding(right))
