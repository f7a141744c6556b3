"""Plans of rows over shapes: whole, fitting, and as cheap as any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.errors import SequenceTooLongError
from neuronbert.plan import Planner, Step, call_costs
from neuronbert.shapes import StaticShape

Costs = dict[StaticShape, float]

shapes = st.builds(StaticShape, st.integers(1, 5), st.sampled_from([4, 8, 16]))
tables = st.dictionaries(shapes, st.integers(1, 60).map(float), min_size=1, max_size=4)


@st.composite
def jobs(draw: st.DrawFn, most: int = 9) -> tuple[Costs, list[int]]:
    """Shapes with any costs at all (a longer one may be the cheaper), or with our own, and rows that fit."""
    costs = draw(st.one_of(tables, tables.map(call_costs)))
    longest = max(shape.sequence_length for shape in costs)
    return costs, draw(st.lists(st.integers(1, longest), max_size=most))


def cost_of(steps: list[Step], costs: Costs) -> float:
    return sum(costs[step.shape] for step in steps)


def least_cost(costs: Costs, lengths: list[int]) -> float:
    """By trying every set of calls that can hold the rows: the longest rows go into the longest calls."""
    least = float("inf")

    def holds(calls: list[StaticShape]) -> bool:
        bounds = {0, *(shape.sequence_length for shape in costs)}
        room = {at: sum(call.batch_size for call in calls if call.sequence_length > at) for at in bounds}
        return all(sum(length > at for length in lengths) <= room[at] for at in bounds)

    def extend(calls: list[StaticShape], others: list[StaticShape]) -> None:
        nonlocal least
        total = sum(costs[call] for call in calls)
        if total >= least or len(calls) > len(lengths):
            return
        if holds(calls):
            least = total
            return
        for place, shape in enumerate(others):
            extend([*calls, shape], others[place:])

    extend([], list(costs))
    return least


@given(jobs(most=60))
def test_every_row_is_in_one_call_that_it_fits_in(job: tuple[Costs, list[int]]) -> None:
    costs, lengths = job
    steps = Planner(costs).plan(lengths)
    assert sorted(row for step in steps for row in step.rows) == list(range(len(lengths)))
    for step in steps:
        assert 1 <= len(step.rows) <= step.shape.batch_size
        assert max(lengths[row] for row in step.rows) <= step.shape.sequence_length


@given(jobs())
def test_no_other_calls_cost_less(job: tuple[Costs, list[int]]) -> None:
    costs, lengths = job
    assert cost_of(Planner(costs).plan(lengths), costs) == pytest.approx(least_cost(costs, lengths))


def path_cost(costs: Costs, lengths: list[int]) -> float:
    """The same as a plain recurrence over all rows, without the bulk that a planner deals out first."""
    ordered = sorted(lengths, reverse=True)
    best = [0.0] * (len(ordered) + 1)
    for place in reversed(range(len(ordered))):
        enough = [shape for shape in costs if shape.sequence_length >= ordered[place]]
        best[place] = min(costs[shape] + best[min(place + shape.batch_size, len(ordered))] for shape in enough)
    return best[0]


@given(tables, st.lists(st.sampled_from([1, 4, 5, 8, 16]), min_size=100, max_size=400))
def test_dealing_out_the_bulk_first_costs_nothing(costs: Costs, lengths: list[int]) -> None:
    longest = max(shape.sequence_length for shape in costs)
    held = [min(length, longest) for length in lengths]
    assert cost_of(Planner(costs).plan(held), costs) == pytest.approx(path_cost(costs, held))


@given(jobs(most=40).flatmap(lambda job: st.tuples(st.just(job[0]), st.just(job[1]), st.permutations(job[1]))))
def test_the_cost_does_not_depend_on_the_order_of_the_rows(job: tuple[Costs, list[int], list[int]]) -> None:
    costs, lengths, shuffled = job
    planner = Planner(costs)
    assert cost_of(planner.plan(lengths), costs) == pytest.approx(cost_of(planner.plan(shuffled), costs))


def plan_of(lengths: list[int], *sizes: tuple[int, int]) -> list[tuple[str, int]]:
    steps = Planner(call_costs(StaticShape(*size) for size in sizes)).plan(lengths)
    return [(step.shape.name, len(step.rows)) for step in steps]


def test_small_calls_take_what_large_ones_would_pad() -> None:
    sizes = (1, 128), (8, 128)
    assert plan_of([100] * 9, *sizes) == [("8x128", 8), ("1x128", 1)]
    assert plan_of([100] * 6, *sizes) == [("1x128", 1)] * 6
    assert plan_of([100] * 7, *sizes) == [("8x128", 7)]  # seven calls cost as much besides as one row of padding


def test_room_in_a_long_call_is_filled_with_short_rows() -> None:
    assert plan_of([100, 10, 10, 10], (4, 16), (4, 128)) == [("4x128", 4)]
    assert plan_of([100, *[10] * 7], (4, 16), (4, 128)) == [("4x128", 4), ("4x16", 4)]


def test_the_longest_rows_come_first() -> None:
    assert plan_of([5, 60, 20], (1, 16), (1, 32), (1, 64)) == [("1x64", 1), ("1x32", 1), ("1x16", 1)]


def test_no_rows_need_no_calls() -> None:
    assert plan_of([], (1, 8)) == []


def test_rows_that_fit_nowhere_are_told_first() -> None:
    with pytest.raises(
        SequenceTooLongError, match=r"Row 2, the longest, has 19 tokens, .* up to 8 \(2 more are too lo"
    ):
        plan_of([3, 9, 19, 8, 10], (2, 8), (4, 4))
