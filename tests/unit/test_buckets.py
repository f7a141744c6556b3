"""The choice of buckets is exact: no other choice of as many costs less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.buckets import Operations, choose_buckets, measure, powers_of_two, tokens
from neuronbert.errors import InvalidOptionError

histograms = st.dictionaries(st.integers(1, 60), st.integers(1, 30), min_size=1, max_size=9)
costs = st.one_of(
    st.just(tokens),
    st.builds(Operations, st.integers(0, 9), st.integers(0, 50), st.integers(0, 5)),
    st.builds(lambda start: lambda length: start + length // 8, st.integers(0, 9)),  # steps: many choices cost the same
)
batches = st.integers(1, 9)


def total(lengths: Sequence[int], buckets: Iterable[int], batch_size: int, cost: Callable[[int], float]) -> float:
    """What rows cost, counted one by one."""
    served = Counter(min(end for end in buckets if end >= length) for length in lengths)
    return sum(len(range(0, rows, batch_size)) * batch_size * cost(end) for end, rows in served.items())


def each(histogram: dict[int, int]) -> list[int]:
    return [length for length, rows in histogram.items() for _ in range(rows)]


@given(histograms, st.integers(1, 10), batches, costs)
def test_no_other_choice_costs_less(
    histogram: dict[int, int], most: int, batch_size: int, cost: Callable[[int], float]
) -> None:
    chosen = choose_buckets(histogram, most, batch_size=batch_size, cost=cost)
    rows, longest = each(histogram), max(histogram)
    shorter = sorted(set(histogram) - {longest})
    ways = [[*way, longest] for count in range(most) for way in combinations(shorter, count)]
    assert chosen.cost == min(total(rows, way, batch_size, cost) for way in ways)
    assert chosen.cost == total(rows, chosen.lengths, batch_size, cost)
    cheaper = [way for way in ways if len(way) < len(chosen.lengths)]
    assert all(total(rows, way, batch_size, cost) > chosen.cost for way in cheaper), "as few programs as will do"


@given(st.dictionaries(st.integers(1, 12), st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3), batches)
def test_no_length_in_between_would_do_better(histogram: dict[int, int], most: int, batch_size: int) -> None:
    chosen = choose_buckets(histogram, most, batch_size=batch_size)
    rows, longest = each(histogram), max(histogram)
    for count in range(most):
        for way in combinations(range(1, longest), count):
            assert chosen.cost <= total(rows, [*way, longest], batch_size, tokens)


@given(histograms, st.integers(1, 6), batches)
def test_the_figures_are_those_of_the_rows(histogram: dict[int, int], most: int, batch_size: int) -> None:
    chosen = choose_buckets(histogram, most, batch_size=batch_size)
    rows = each(histogram)
    assert chosen.lengths == tuple(sorted(chosen.lengths))
    for shorter, bucket in zip((0, *chosen.lengths), chosen.buckets, strict=False):
        served = [length for length in rows if shorter < length <= bucket.sequence_length]
        assert (bucket.rows, bucket.tokens) == (len(served), sum(served))
        assert bucket.calls == len(range(0, len(served), batch_size))
        assert bucket.padding == pytest.approx(1 - sum(served) / (bucket.calls * batch_size * bucket.sequence_length))
    assert chosen.program_tokens == total(rows, chosen.lengths, batch_size, tokens)
    assert chosen.padding == pytest.approx(1 - sum(rows) / chosen.program_tokens)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 4))
def test_rows_may_be_given_one_by_one(rows: list[int], most: int) -> None:
    assert choose_buckets(iter(rows), most) == choose_buckets(Counter(rows), most)


@given(histograms, st.integers(2, 4), batches)
def test_costs_beyond_64_bits_are_exact(histogram: dict[int, int], most: int, batch_size: int) -> None:
    plain = choose_buckets(histogram, most, batch_size=batch_size)
    huge = choose_buckets(histogram, most, batch_size=batch_size, cost=lambda length: length * 2**70)
    assert huge.lengths == plain.lengths
    assert huge.cost == plain.cost * 2**70


def test_a_cost_may_be_a_fraction() -> None:
    rows = {10: 30, 20: 10, 40: 1}
    assert choose_buckets(rows, 2, cost=lambda length: length / 7).lengths == choose_buckets(rows, 2).lengths


def test_partial_calls_count_as_whole_ones() -> None:
    rows = {10: 8, 11: 8, 40: 1}
    assert choose_buckets(rows, 3).lengths == (10, 11, 40)
    assert choose_buckets(rows, 3, batch_size=8).lengths == (10, 11, 40)
    assert choose_buckets({10: 1, 11: 1, 40: 6}, 3, batch_size=8).lengths == (40,), "one call serves all"


def test_of_choices_that_cost_the_same_the_one_with_fewer_programs_is_taken() -> None:
    rows = {1: 1, 2: 4, 7: 3, 9: 6}
    chosen = choose_buckets(rows, 3, batch_size=4, cost=lambda length: length // 2 + 1)
    assert chosen.lengths == (7, 9)
    assert measure(rows, [1, 2, 9], batch_size=4, cost=lambda length: length // 2 + 1).cost == chosen.cost


def test_what_the_longest_text_may_be_gets_a_bucket_without_rows() -> None:
    chosen = choose_buckets({5: 3, 9: 1, 64: 0}, 2)
    assert chosen.lengths == (9, 64)
    assert chosen.buckets[-1].rows == chosen.buckets[-1].calls == 0
    assert chosen.buckets[-1].padding == 0


def test_the_rows_of_a_length_that_no_row_has_play_no_part() -> None:
    assert choose_buckets({5: 3, 7: 0, 9: 1}, 5).lengths == (5, 9)


def test_the_cost_of_attention_moves_buckets_towards_long_rows() -> None:
    rows = dict.fromkeys(range(1, 101), 1)
    linear = choose_buckets(rows, 3).lengths
    quadratic = choose_buckets(rows, 3, cost=Operations(0, 0, 1)).lengths
    assert quadratic[0] > linear[0]


def test_the_largest_histogram_of_a_bert_is_as_exact() -> None:
    rows = {length: 1 + (length * 7919) % 40 for length in range(1, 513)}
    chosen = choose_buckets(rows, 8, batch_size=8, cost=Operations(10**7, 10**8, 10**5))
    for place in range(7):  # moving any one of them, to either side, costs more or as much
        for step in (-1, 1):
            moved = list(chosen.lengths)
            moved[place] += step
            other = measure(rows, moved, batch_size=8, cost=Operations(10**7, 10**8, 10**5))
            assert other.cost >= chosen.cost


@given(st.builds(Operations, *[st.integers(0, 10**12)] * 3), st.sets(st.integers(1, 600), min_size=3, max_size=3))
def test_three_counts_make_a_cost(cost: Operations, lengths: set[int]) -> None:
    assert Operations.through({length: cost(length) for length in lengths}) == cost


def test_fewer_counts_make_a_simpler_cost() -> None:
    assert Operations.through({4: 12, 8: 24}) == Operations(0, 3, 0)
    assert Operations.through({1: 12}) == Operations(12, 0, 0)


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([1, 2, 3, 5, 100], 512, (1, 2, 4, 8, 128)),
        ([64, 65], 512, (64, 128)),
        ([400, 510], 510, (510,)),
        ([200], 256, (256,)),
    ],
)
def test_powers_of_two_are_those_that_rows_need(lengths: list[int], limit: int, expected: tuple[int, ...]) -> None:
    assert powers_of_two(lengths, limit) == expected


@pytest.mark.parametrize("lengths", [[], {}, {5: 0}], ids=repr)
def test_no_rows_are_refused(lengths: object) -> None:
    with pytest.raises(InvalidOptionError, match="lengths is 'empty'"):
        choose_buckets(lengths, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "4", None], ids=repr)
@pytest.mark.parametrize("name", ["max_buckets", "batch_size", "a length", "the rows of length 5"])
def test_what_is_no_whole_number_in_range_is_refused_by_name(name: str, value: object) -> None:
    if name == "the rows of length 5" and value == 0 and value is not False:
        value = -2
    lengths = {value: 1} if name == "a length" else {5: value if name.startswith("the rows") else 1}
    most, rows = (value if name == other else 1 for other in ("max_buckets", "batch_size"))
    with pytest.raises(InvalidOptionError, match=name):
        choose_buckets(lengths, most, batch_size=rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, Fraction(1, 2)], ids=repr)
def test_a_cost_that_is_none_or_that_falls_is_refused(value: float) -> None:
    with pytest.raises(InvalidOptionError, match=r"cost\(9\)"):
        choose_buckets([5, 9], 1, cost=lambda length: 1 if length == 5 else value)


def test_rows_longer_than_every_bucket_can_not_be_measured() -> None:
    for buckets in ([], [4]):
        with pytest.raises(InvalidOptionError, match="takes 5 tokens"):
            measure([5], buckets)
