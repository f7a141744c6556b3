from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import BenchSpec
from neuronbert.benchmark.report import Case, Timing, percentile, to_json
from neuronbert.errors import InvalidOptionError
from tests.unit.builders import make_bench_report, make_case

seconds = st.floats(1e-6, 1e3)
rounds = st.lists(st.lists(seconds, min_size=1, max_size=9), min_size=1, max_size=5)


@given(st.lists(seconds, min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_call_that_enough_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100
    assert sum(value < found for value in values) < len(values) * percent / 100


@given(rounds)
def test_percentiles_are_in_order_and_no_call_is_lost(taken: list[list[float]]) -> None:
    timing = Timing.of(taken, rows=2, tokens=10)
    assert timing.min_ms <= timing.p50_ms <= timing.p95_ms <= timing.p99_ms
    assert timing.calls == sum(map(len, taken))
    assert len(timing.rounds_ms) == len(taken)
    assert math.isclose(timing.tokens_per_second, 5 * timing.rows_per_second)


def test_figures_of_calls_whose_times_are_known() -> None:
    timing = Timing.of([[0.010, 0.030], [0.020, 0.020, 0.020]], rows=8, tokens=800)
    assert (timing.calls, timing.min_ms, timing.p50_ms, timing.p99_ms) == (5, 10, 20, 30)
    assert timing.rounds_ms == (20, 20)
    assert timing.rows_per_second == pytest.approx(8 * 5 / 0.1)
    assert timing.tokens_per_second == pytest.approx(800 * 5 / 0.1)


def test_the_ratio_is_taken_within_each_round() -> None:
    # The machine is twice as slow in the second round: for both, so that the ratio stays.
    case = make_case(program=[[0.1], [0.2], [0.1]], reference=[[0.3], [0.6], [0.2]])
    assert case.speedup is not None
    assert case.speedup.model_dump() == pytest.approx({"min": 2, "median": 3, "max": 3})
    assert make_case(program=[[0.1]], reference=None).speedup is None


@pytest.mark.parametrize(
    ("program", "reference", "unsteady"),
    [
        ([[0.1], [0.2]], [[0.2], [0.4]], False),
        ([[0.1], [0.1]], [[0.2], [0.3]], True),
        ([[0.1], [0.2]], None, True),
        ([[0.1], [0.105]], None, False),
        ([[0.1]], None, False),
    ],
)
def test_rounds_that_disagree_are_warned_of(program: Any, reference: Any, unsteady: bool) -> None:
    case = make_case(program=program, reference=reference)
    assert bool(case.unsteady) == unsteady
    assert make_bench_report(case).warnings == ((case.unsteady,) if unsteady else ())


@pytest.mark.parametrize(("load", "warned"), [(None, False), (0.2, False), (1.0, False), (1.01, True)])
def test_a_busy_machine_is_warned_of(load: float | None, warned: bool) -> None:
    report = make_bench_report(make_case(), load_before=load, processors=2)
    assert any("busy" in warning for warning in report.warnings) == warned


def test_json_spells_out_ratios_and_warnings() -> None:
    report = make_bench_report(
        make_case(program=[[0.1], [0.1]], reference=[[0.2], [0.3]]), make_case(program=[[0.1]], reference=None)
    )
    body = json.loads(to_json(report))
    assert body["cases"][0]["speedup"] == {
        "min": pytest.approx(2),
        "median": pytest.approx(2.5),
        "max": pytest.approx(3),
    }
    assert body["cases"][1]["speedup"] is None
    assert body["warnings"] == list(report.warnings)
    assert Case.model_validate_json(report.cases[0].model_dump_json()) == report.cases[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"rounds": 10**9},
        {"warm_up": 0},
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"seconds": math.inf},
        {"batch_sizes": (1, 0)},
        {"cores": (-1,)},
    ],
    ids=str,
)
def test_a_spec_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
        BenchSpec(**wrong)
