from __future__ import annotations

import pytest

from neuronbert import BenchSpec
from neuronbert.benchmark import turns


class Clock:
    """Time that passes only in calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = ""

    def perf_counter(self) -> float:
        return self.now

    def candidate(self, name: str, seconds: float) -> turns.Call:
        def call() -> None:
            self.now += seconds
            self.log += name

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    held = Clock()
    monkeypatch.setattr(turns, "time", held)
    return held


def test_candidates_take_turns_forwards_and_backwards_after_warming_up(clock: Clock) -> None:
    calls = [clock.candidate("a", 1.0), clock.candidate("b", 2.0)]
    taken = turns.take_turns(calls, BenchSpec(rounds=2, seconds=4.0, warm_up=3))
    assert clock.log == "aaabbb" + 2 * "aabbaa"
    assert taken == [[[1.0] * 4, [1.0] * 4], [[2.0] * 2, [2.0] * 2]]


def test_a_call_longer_than_its_time_is_made_once_in_each_turn(clock: Clock) -> None:
    taken = turns.take_turns([clock.candidate("a", 60.0)], BenchSpec(rounds=3, seconds=0.1, warm_up=1))
    assert taken == [[[60.0, 60.0]] * 3]


def test_a_round_is_bounded_for_calls_that_take_no_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MOST_CALLS", 7)
    taken = turns.take_turns([clock.candidate("a", 0.0)], BenchSpec(rounds=1, seconds=1.0, warm_up=1))
    assert [len(calls) for calls in taken[0]] == [14]
