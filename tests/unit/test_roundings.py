"""The roundings against others that share no code with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuronbert.backends.autocast import ROUNDINGS

Floats = NDArray[np.float32]

# Every sign, exponent and upper mantissa of fp32, each with lower halves at, just under and just over every tie.
UPPER = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
LOWER = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
EVERY = (UPPER[:, None] | LOWER).ravel().view(np.float32)
FINITE = EVERY[np.isfinite(EVERY)]
NORMAL = FINITE[np.abs(FINITE) >= np.finfo(np.float32).tiny]


def rounded(name: str, values: Floats) -> Floats:
    result: Floats = ROUNDINGS[name](torch.from_numpy(values.copy())).numpy()
    return result


def cut_bits(values: Floats, count: int) -> Floats:
    """To nearest even by arithmetic on the bits, dropping so many of them."""
    bits = values.view(np.uint32).astype(np.int64)
    half = (1 << (count - 1)) - 1
    return ((bits + half + ((bits >> count) & 1)) & -(1 << count)).astype(np.uint32).view(np.float32)


def same(one: Floats, other: Floats) -> bool:
    """Equal bit for bit, so -0 is not 0."""
    return np.array_equal(one.view(np.uint32), other.view(np.uint32))


def test_bf16_is_torchs_cast_and_the_arithmetic_on_the_bits() -> None:
    assert same(rounded("bf16", FINITE), torch.from_numpy(FINITE.copy()).bfloat16().float().numpy())
    assert same(rounded("bf16", FINITE), cut_bits(FINITE, 16))


def test_fp16_is_torchs_cast_and_numpys() -> None:
    assert same(rounded("fp16", FINITE), torch.from_numpy(FINITE.copy()).half().float().numpy())
    with np.errstate(over="ignore"):
        assert same(rounded("fp16", FINITE), FINITE.astype(np.float16).astype(np.float32))


def test_tf32_is_the_arithmetic_on_the_bits_of_normal_numbers() -> None:
    assert same(rounded("tf32", NORMAL), cut_bits(NORMAL, 13))


def test_fp8_is_the_nearest_of_the_values_that_there_are_and_of_two_the_even_one() -> None:
    # Sign aside: 4 bits of exponent but for the top one, 3 of mantissa, and 256 as the first that overflows.
    grid = [m / 8 * 2.0**-6 for m in range(8)]
    grid += [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 15) for m in range(8)]
    table = np.array([*grid, 256.0])
    assert max(grid) == 240.0
    sizes = np.abs(FINITE).astype(np.float64)
    above = np.searchsorted(table, sizes).clip(1, len(table) - 1)
    down, up = sizes - table[above - 1], table[above] - sizes
    nearest = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)
    nearest = np.where(sizes >= 256.0, len(table) - 1, nearest)
    expected = np.where(nearest == len(table) - 1, np.inf, table[nearest]).astype(np.float32)
    assert same(rounded("fp8_e4m3", FINITE), np.copysign(expected, FINITE))


@pytest.mark.parametrize("name", ROUNDINGS)
def test_rounding_twice_is_rounding_once(name: str) -> None:
    once = rounded(name, FINITE)
    assert same(rounded(name, once), once)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_infinity_stays_and_what_is_no_number_stays_none(name: str) -> None:
    special = torch.tensor([math.inf, -math.inf, math.nan])
    result = ROUNDINGS[name](special)
    assert result[:2].tolist() == [math.inf, -math.inf]
    assert math.isnan(result[2])


@pytest.mark.parametrize("name", ROUNDINGS)
def test_rounding_keeps_the_sign_and_the_order(name: str) -> None:
    ascending = np.sort(FINITE)
    result = rounded(name, ascending)
    assert (np.diff(result[np.isfinite(result)]) >= 0).all()
    assert np.array_equal(np.signbit(result), np.signbit(ascending))
