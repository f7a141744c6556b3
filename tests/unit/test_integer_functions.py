"""I-BERT's functions against real arithmetic: their published errors over the whole grid, and no number too wide."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronbert.integers import nonlinear, steps
from neuronbert.integers.scales import dyadic, limit, quantize, requantize, scale_of

WIDE = 2**62


@pytest.mark.parametrize("bits", [8, 16, 22, 32])
def test_quantizing_leaves_half_a_step_at_most_and_never_the_highest(bits: int) -> None:
    scale = scale_of(3.0, bits)
    values = torch.linspace(-3.5, 3.5, 100_001, dtype=torch.float64)
    whole = quantize(values, scale, bits)
    assert whole.dtype is (torch.int8 if bits == 8 else torch.int32)
    assert (whole.min(), whole.max()) == (-limit(bits), limit(bits) - 1)
    inside = values.abs() <= 3 - 2 * scale
    assert ((whole.double() * scale - values).abs()[inside] <= scale / 2 * (1 + 1e-9)).all()


def test_what_is_zero_everywhere_has_a_scale() -> None:
    assert quantize(torch.zeros(3), scale_of(0.0, 8), 8).tolist() == [0, 0, 0]


@settings(max_examples=300)
@given(
    ratio=st.floats(2.0**-40, 2.0**6) | st.floats(-(2.0**6), -(2.0**-40)),
    bits=st.integers(8, 53),
    share=st.floats(-1, 1),
)
def test_a_dyadic_number_is_the_ratio_and_overflows_nowhere(ratio: float, bits: int, share: float) -> None:
    value = round(share * 2**bits)
    multiplier, half, shift = dyadic(torch.tensor([ratio], dtype=torch.float64), bits)[:, 0].tolist()
    assert 2**bits * abs(multiplier) + half < WIDE
    assert abs(value * multiplier + half) < WIDE
    exact = Fraction(value) * Fraction(ratio)
    given = int(requantize(torch.tensor([value]), torch.tensor([[multiplier], [half], [shift]]), -(2**62), 2**62))
    room = min(31, 61 - bits)
    assert abs(given - exact) <= Fraction(1, 2) + abs(exact) * Fraction(1, 2 ** (room - 1))


def test_numbers_too_wide_for_a_product_are_refused() -> None:
    with pytest.raises(OverflowError):
        dyadic(torch.tensor([0.5]), 54)
    with pytest.raises(OverflowError):
        dyadic(torch.tensor([float("inf")]), 8)


@pytest.mark.parametrize("power", [20, 14, 13, 11, 9, 7])
def test_exp_is_off_by_its_polynomial_and_its_rounded_constants(power: int) -> None:
    scale = 2.0**-power
    constants = nonlinear.exp_constants(scale)
    values = -torch.arange(0, min(2**19, 22 * 2**power))
    polynomial, halvings = nonlinear.exp(values, list(constants[:5]))
    assert int(polynomial.min()) > 0
    assert int(polynomial.max()) < 2**30
    assert (int(halvings.min()), int(halvings.max()) <= 30) == (0, True)
    got = polynomial.double() * constants.scale * 2.0 ** -halvings.double()
    # The paper: 1.9e-3 for the polynomial itself. Its constants are rounded to integers of the scale.
    error = (got - torch.exp(values.double() * scale)).abs().max()
    assert error <= 1.9e-3 + 2 * max(scale, 2.0**-14)


def test_the_product_and_shift_divide_by_ln_2_over_the_whole_grid() -> None:
    for scale in (2.0**-14, 3e-4, 1e-3, 0.0101, 0.05, 0.3, 1.0):
        constants = nonlinear.exp_constants(scale)
        below = torch.arange(0, 30 * constants.ln2 + 1)
        assert torch.equal((below * constants.reciprocal) >> 34, below // constants.ln2)


def test_scores_that_exp_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(OverflowError):
        nonlinear.exp_constants(1.5)


def _softmax(scores: torch.Tensor, scale: float, attended: torch.Tensor) -> torch.Tensor:
    return steps.softmax(scores, attended, nonlinear.softmax_constants(scale, scale_of(1.0, 16)))


def _softmax_of_the_paper(row: list[int], scale: float) -> list[int]:
    """I-BERT's algorithms 1 and 2 on Python's own integers, with the 16 bits that its authors put in between."""
    ln2, b, c = (
        math.ceil(0.6931 / scale),
        math.floor(0.96963238 / 0.35815147 / scale),
        math.floor(1 / 0.35815147 / scale**2),
    )
    ratio = Fraction(0.35815147 * scale**2 / scale_of(1.0, 16))
    rounded = []
    for score in row:
        below = min(max(row) - score, 30 * ln2)
        halvings, rest = below // ln2, below // ln2 * ln2 - below
        exponential = Fraction((rest + b) * rest + c, 2**halvings) * ratio
        rounded.append(min(math.floor(exponential + Fraction(1, 2)), 2**15 - 1))
    factor = 2**32 // sum(rounded)
    return [min(item * factor // 2**24, 255) for item in rounded]


@settings(max_examples=60)
@given(st.lists(st.floats(-7, 0), min_size=1, max_size=40), st.sampled_from([2.0**-13, 3e-4, 1e-3, 0.02]))
def test_softmax_is_that_of_the_paper(row: list[float], scale: float) -> None:
    scores = [round(score / scale) for score in row]
    found = _softmax(torch.tensor([scores], dtype=torch.int32), scale, torch.ones(1, dtype=torch.bool))
    assert found.tolist()[0] == _softmax_of_the_paper(scores, scale)


def test_exp_is_the_polynomial_of_the_paper_digit_for_digit() -> None:
    constants = nonlinear.exp_constants(1e-3)
    polynomial, halvings = nonlinear.exp(torch.arange(-21_000, 1), list(constants[:5]))
    for score, value, halving in zip(range(-21_000, 1), polynomial.tolist(), halvings.tolist(), strict=True):
        rest = max(score, -30 * 694)
        assert halving == -rest // 694
        rest += halving * 694
        assert value == (rest + 2707) * rest + 2792114


@settings(max_examples=60)
@given(st.lists(st.integers(-(2**21), 2**21 - 1), min_size=2, max_size=24), st.integers(0, 12))
def test_layer_norm_is_that_of_the_paper(row: list[int], shift: int) -> None:
    mean = math.floor(Fraction(sum(row), len(row)) + Fraction(1, 2))
    squares = sum(((value - mean) >> shift) ** 2 for value in row)
    factor = 2**31 // (max(math.isqrt(squares), 1) << shift)
    bias = list(range(len(row)))
    want = [(((value - mean) * factor) >> 1) + beside for value, beside in zip(row, bias, strict=True)]
    assert nonlinear.layer_norm(torch.tensor([row], dtype=torch.int32), torch.tensor(bias), shift).tolist() == [want]


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-12, 2.0**-8])
def test_softmax_is_within_a_step_and_a_half_of_the_real_one(scale: float) -> None:
    torch.manual_seed(0)
    scores = (torch.randn(64, 48) * 4 / scale).round().to(torch.int32)
    got = _softmax(scores, scale, torch.ones(64, 48, dtype=torch.bool)).double() / 256
    want = torch.softmax(scores.double() * scale, -1)
    assert (got - want).abs().max() <= 1.5 / 256 + 2 * scale + 2e-3
    assert (got.sum(-1) <= 1).all()


def test_what_is_masked_has_no_probability_and_a_row_without_tokens_is_even() -> None:
    scores = torch.tensor([[2**30, 5, -(2**30), 7]], dtype=torch.int32)
    mask = torch.tensor([[False, True, False, True]])
    assert _softmax(scores, 0.01, mask).tolist()[0][::2] == [0, 0]
    assert _softmax(scores, 0.01, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[63, 63, 63, 63]]


def test_a_certain_token_saturates_where_256_would_wrap_to_0() -> None:
    scores = torch.tensor([[0, -(2**28)]], dtype=torch.int32)
    assert _softmax(scores, 0.01, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[255, 0]]


def _gelu(values: torch.Tensor, scale: float) -> tuple[torch.Tensor, int]:
    scales = torch.tensor([scale], dtype=torch.float64)
    constants, result, bits = nonlinear.gelu_constants(scales, values.abs().max().reshape(1))
    whole = nonlinear.gelu(values.unsqueeze(-1), constants).squeeze(-1)
    assert int(whole.abs().max()) < 2**bits
    return whole.double() * result, bits


def test_gelu_has_the_published_errors() -> None:
    scale = 2.0**-13
    values = torch.arange(-4 * 2**13, 4 * 2**13 + 1)
    error = _gelu(values, scale)[0] - torch.nn.functional.gelu(values.double() * scale)
    assert float(error.abs().max()) == pytest.approx(0.0182, abs=4e-4)
    assert float(error.square().mean().sqrt()) == pytest.approx(0.0082, abs=2e-4)


@pytest.mark.parametrize("power", [8, 12, 16, 18])
def test_gelu_is_sound_at_every_scale_that_a_layer_can_have(power: int) -> None:
    top = min(2**24, 20 * 2**power)
    values = torch.linspace(-top, top, 200_001, dtype=torch.float64).round().to(torch.int64)
    got, _ = _gelu(values, 2.0**-power)
    real = values.double() * 2.0**-power
    # 14 bits are dropped from erf: a step of it, times x, on top of the published error.
    step = 0.2888 * (2.0**-power / 1.4142) ** 2 * 2**14
    assert ((got - torch.nn.functional.gelu(real)).abs() <= 0.0184 + real.abs() * (step + 2.0 ** (4 - power))).all()


def test_gelu_of_a_column_that_could_overflow_is_refused() -> None:
    with pytest.raises(OverflowError):
        nonlinear.gelu_constants(torch.tensor([2.0**-30], dtype=torch.float64), torch.tensor([2**25]))


def test_the_square_root_is_floored_around_every_square() -> None:
    roots = torch.arange(1, 2**16 + 2)
    for below in (-1, 0, 1):
        numbers = (roots * roots + below).clamp(min=1)
        want = torch.tensor([math.isqrt(number) for number in numbers.tolist()])
        assert torch.equal(nonlinear.sqrt(numbers), want)
    assert nonlinear.sqrt(torch.tensor([0])).item() == 1


@given(
    st.integers(1, 2**62 - 1) | st.builds(lambda r, d: max(1, r * r + d), st.integers(1, 2**31 - 1), st.integers(-1, 1))
)
def test_the_square_root_is_floored_up_to_62_bits(number: int) -> None:
    assert nonlinear.sqrt(torch.tensor([number])).item() == math.isqrt(number)


@pytest.mark.parametrize("width", [32, 384, 1024])
@pytest.mark.parametrize("shift", [0, 5])
def test_layer_norm_is_the_real_one(width: int, shift: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(width) + 1, torch.randn(width)
    values = (torch.randn(8, width) * 2**15).round().to(torch.int32)
    added, scales, bits = nonlinear.norm_constants(weight, bias)
    whole = nonlinear.layer_norm(values, added, shift)
    assert int(whole.abs().max()) < 2**bits
    real = torch.nn.functional.layer_norm(values.double(), (width,), weight.double(), bias.double(), eps=0)
    # 2 ** 31 over the deviation keeps as many bits as are left of 31.
    coarse = 2.0 ** (15 - 31) * math.sqrt(width) * 2 + 2.0 ** (shift - 14)
    assert (whole * scales - real).abs().max() <= coarse * real.abs().max()


@settings(max_examples=100)
@given(st.lists(st.integers(-(2**21), 2**21 - 1), min_size=2, max_size=24), st.integers(0, 16))
def test_no_row_makes_layer_norm_too_wide(row: list[int], shift: int) -> None:
    centred = nonlinear.layer_norm(
        torch.tensor([row], dtype=torch.int32), torch.zeros(len(row), dtype=torch.int64), shift
    )
    assert int(centred.abs().max()) <= 2**31


def test_a_weight_of_zero_leaves_the_bias() -> None:
    weight, bias = torch.tensor([0.0, 1.0, -2.0, 0.0]), torch.tensor([3.0, 0.5, 0.25, 0.0])
    added, scales, _ = nonlinear.norm_constants(weight, bias)
    got = nonlinear.layer_norm(torch.tensor([[100, -5, 900, 20]]), added, 0) * scales
    assert got[0, 0].item() == pytest.approx(3.0, rel=1e-4)
    assert abs(got[0, 3].item()) < 1e-12
