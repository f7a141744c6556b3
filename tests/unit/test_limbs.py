"""Limbs against Python's own integers: the same numbers, whatever the width, and never one that fp32 rounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.integers import limbs
from neuronbert.integers.limbs import BITS, EXACT, Limbs, digits, quotient, root, table


def held(values: list[int], least: int | None = None, most: int | None = None) -> Limbs:
    """Numbers as limbs, of an interval."""
    least, most = min(values) if least is None else least, max(values) if most is None else most
    rows = table([*values, least, most])[:, : len(values)]
    return Limbs(tuple(rows.unbind(0)), least, most)


def told(number: Limbs) -> list[int]:
    """The numbers, each part of which has to be a whole one that fp32 holds, in its interval."""
    rows = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(part) for part in number.parts))).reshape(
        len(number.parts), -1
    )
    assert torch.equal(rows, rows.round())
    assert rows.abs().max() <= EXACT
    assert (rows[:-1] >= 0).all()
    assert (rows[:-1] < 2**BITS).all()
    found = [sum(int(part) << BITS * index for index, part in enumerate(row)) for row in rows.t().tolist()]
    assert number.least <= min(found) <= max(found) <= number.most
    return found


def whole(bits: int) -> Any:
    """Lists of three numbers, with those at the ends of the width."""
    most = 2**bits
    return st.lists(st.integers(-most, most - 1) | st.sampled_from([-most, most - 1, 0, -1]), min_size=3, max_size=3)


WIDTHS = st.sampled_from([5, 11, 12, 22, 23, 31, 44])


@given(data=st.data(), left=WIDTHS, right=WIDTHS, bits=st.integers(0, 80))
def test_sums_products_and_shifts_are_those_of_integers(data: Any, left: int, right: int, bits: int) -> None:
    ones, others = data.draw(whole(left)), data.draw(whole(right))
    one, other = held(ones, -(2**left), 2**left), held(others, -(2**right), 2**right)
    pairs = list(zip(ones, others, strict=True))
    assert told(one + other) == [a + b for a, b in pairs]
    assert told(one - other) == [a - b for a, b in pairs]
    assert told(one * other) == [a * b for a, b in pairs]
    assert told(one * other >> bits) == [a * b >> bits for a, b in pairs]
    assert told(one + Limbs.scalar(others[0])) == [a + others[0] for a in ones]
    sign = torch.tensor([1.0, -1.0, -1.0])
    assert told(one.signed(sign)) == [ones[0], -ones[1], -ones[2]]
    assert told(one.total()) == [sum(ones)]
    assert one.negative().tolist() == [a < 0 for a in ones]
    assert one.clamp(-128, 127).tolist() == [max(-128, min(127, a)) for a in ones]
    assert one.clamp(-EXACT, EXACT).tolist() == [max(-EXACT, min(EXACT, a)) for a in ones]


PLAIN = Limbs.rounded


@pytest.mark.parametrize("error", [0.0, 2.0**-16, -(2.0**-16)])
@given(data=st.data(), above=WIDTHS, below=st.sampled_from([5, 14, 24, 27]))
def test_quotients_and_roots_are_floored_even_if_a_division_is_not_exact(
    data: Any, above: int, below: int, error: float
) -> None:
    above = min(above, 54)
    numerators = data.draw(whole(above))
    divisors = [abs(value) + 1 for value in data.draw(whole(below))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Limbs, "rounded", _off(error))
        found = quotient(held(numerators, -(2**above), 2**above), held(divisors, 1, 2**below + 1))
        assert told(found) == [a // b for a, b in zip(numerators, divisors, strict=True)]
        squares = [abs(value) for value in numerators]
        assert told(root(held(squares, 0, 2**above))) == [max(1, math.isqrt(value)) for value in squares]
        edges = [max(0, math.isqrt(value) ** 2 - place) for place, value in enumerate(squares)]
        assert told(root(held(edges, 0, 2**above))) == [max(1, math.isqrt(value)) for value in edges]


def _off(error: float) -> Any:
    """What a processor sees whose divisions and roots are right to so much only."""
    return lambda number: PLAIN(number) * (1 + error)


@given(st.integers(-(2**70), 2**70))
def test_digits_make_the_number_up_again(value: int) -> None:
    found = digits(value)
    assert sum(digit << BITS * index for index, digit in enumerate(found)) == value
    assert all(0 <= digit < 2**BITS for digit in found[:-1])
    assert -(2**BITS) <= found[-1] < 2**BITS


def test_what_fp32_would_round_is_refused() -> None:
    with pytest.raises(OverflowError):
        Limbs.of(torch.zeros(1), -1, EXACT + 1)
    with pytest.raises(OverflowError):
        held([0], 0, 1).clamp(0, EXACT + 1)
    row = Limbs((torch.ones(1, 9000), torch.ones(1, 9000)), 0, 2**22 - 1)
    with pytest.raises(OverflowError):
        row.total()


def test_more_products_than_fp32_adds_up_are_carried_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    carries = []
    plain = limbs._overflow

    def counted(*given: Any) -> Any:
        carries.append(given)
        return plain(*given)

    monkeypatch.setattr(limbs, "_overflow", counted)
    wide = held([2**88 - 1])
    assert told(wide * wide) == [(2**88 - 1) ** 2]
    assert len(carries) > 15
