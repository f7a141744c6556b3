from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronbert.adaptive.configuration import Lengths, check
from neuronbert.adaptive.cost import EncoderSize
from neuronbert.adaptive.genes import Space, cross, mutate
from neuronbert.adaptive.search import Front, Plan, Search, Trial, pareto, read_front, read_search
from neuronbert.errors import DataFileError, InvalidOptionError, MissingFileError
from tests.support.lengths import plan

PLAN = plan()
spaces = st.builds(
    Space,
    st.builds(EncoderSize, st.integers(1, 12), st.sampled_from([32, 384]), st.sampled_from([64, 1536])),
    st.integers(2, 512),
    st.floats(0.05, 0.8),
)
trials = st.lists(
    st.builds(Trial, lengths=st.just((4, 2)), cost=st.integers(1, 9).map(float), score=st.integers(0, 5).map(float)),
    min_size=1,
    max_size=30,
)


def score(lengths: Lengths) -> float:
    """Later layers need fewer tokens: what a search is to find out."""
    return sum(min(length, 96 // (layer + 2)) / (layer + 1) for layer, length in enumerate(lengths))


def tried(plan: Plan, proposals: tuple[Lengths, ...]) -> list[Trial]:
    return [Trial(lengths=one, cost=float(plan.space.macs(one)), score=score(one)) for one in proposals]


def run(search: Search, generations: int) -> Search:
    for _ in range(generations):
        search = search.advanced(tried(search.plan, search.proposals()))
    return search


@given(spaces)
def test_the_first_population_spans_the_space(space: Space) -> None:
    population = space.spread(12)
    assert population[0] == space.least
    assert population[-1] == space.full
    assert len(set(population)) == len(population)
    for lengths in population:
        check(lengths, space.size.layers, space.sequence_length)
    sums = [sum(lengths) for lengths in population]
    assert sums == sorted(sums)


def test_the_first_population_lies_evenly() -> None:
    space = Space(EncoderSize(6, 384, 1536), 384, 0.5)
    sums = [sum(lengths) for lengths in space.spread(20)]
    steps = [after - before for before, after in pairwise(sums)]
    assert len(sums) == 20
    assert max(steps) - min(steps) <= 12  # rounding up adds less than a token a layer


def test_the_cheapest_configuration_is_the_published_one() -> None:
    assert Space(EncoderSize(6, 384, 1536), 384, 0.2).least == (308, 247, 198, 159, 128, 103)


@given(spaces, st.integers(0, 1000), st.floats(0, 1))
def test_a_mutation_is_a_configuration(space: Space, seed: int, probability: float) -> None:
    rng = Random(seed)
    lengths = space.full
    for _ in range(5):
        lengths = mutate(lengths, space, rng, probability)
        check(lengths, space.size.layers, space.sequence_length)


def test_a_mutation_reaches_every_length_between_its_neighbours() -> None:
    space = Space(EncoderSize(3, 32, 64), 12, 0.5)
    found = {mutate((9, 6, 4), space, Random(seed), 0.5) for seed in range(3000)}
    assert {lengths[0] for lengths in found} == set(range(6, 13))
    assert {lengths[2] for lengths in found if lengths[:2] == (9, 6)} == set(range(2, 7))
    assert (9, 6, 4) in found
    assert any(lengths[1] > 9 for lengths in found), "the first may grow, and the second then may go beyond it"
    assert mutate((9, 6, 4), space, Random(0), 0) == (9, 6, 4)


@given(spaces, st.integers(0, 1000))
def test_a_cross_lies_between_its_parents(space: Space, seed: int) -> None:
    rng = Random(seed)
    one, other = (mutate(space.full, space, rng, 0.7) for _ in range(2))
    child = cross(one, other)
    check(child, space.size.layers, space.sequence_length)
    assert all(min(pair) <= kept <= max(pair) for kept, *pair in zip(child, one, other, strict=True))
    assert cross((5, 3), (4, 2)) == (5, 3), "rounded up"


@given(trials)
def test_a_front_holds_what_nothing_beats_and_nothing_else(given_trials: list[Trial]) -> None:
    front = pareto(given_trials)
    for before, after in pairwise(front):
        assert before.cost < after.cost
        assert before.score < after.score
    for trial in given_trials:
        assert any(point.cost <= trial.cost and point.score >= trial.score for point in front)
    assert pareto(reversed(given_trials)) == front


def test_every_child_is_new_and_in_bounds_and_there_are_as_many_as_asked() -> None:
    search = run(Search(plan=PLAN), 1)
    for _ in range(6):
        proposals = search.proposals()
        known = {trial.lengths for trial in search.trials}
        assert len(proposals) == len(set(proposals)) == 12
        assert not known & set(proposals)
        assert all(PLAN.space.holds(lengths) for lengths in proposals)
        search = run(search, 1)


def test_a_search_finds_better_than_its_first_population() -> None:
    first, last = run(Search(plan=PLAN), 1), run(Search(plan=PLAN), 16)
    for point in first.front:
        assert any(found.cost <= point.cost and found.score >= point.score for found in last.front)
    bought = [min(point.cost for point in search.front if point.score == 76.75) for search in (first, last)]
    assert bought[1] < 0.8 * bought[0]


@settings(max_examples=20)
@given(st.integers(0, 2**40), st.integers(1, 5))
def test_a_search_that_was_broken_off_goes_on_as_it_would_have(seed: int, stop: int) -> None:
    plan = PLAN.model_copy(update={"seed": seed})
    whole = run(Search(plan=plan), 6)
    stored = run(Search(plan=plan), stop).model_dump_json()
    assert run(Search.model_validate_json(stored), 6 - stop) == whole
    assert run(Search(plan=PLAN.model_copy(update={"seed": seed + 1})), 6) != whole


def test_a_space_that_is_used_up_proposes_nothing() -> None:
    plan = PLAN.model_copy(update={"sequence_length": 3, "layers": 2})
    search = run(Search(plan=plan), 6)
    assert search.proposals() == ()
    assert {trial.lengths for trial in search.trials} == {(2, 2), (3, 2), (3, 3)}


def test_what_a_small_front_has_no_pairs_for_is_made_by_mutation() -> None:
    search = Search(plan=PLAN).advanced([Trial(lengths=PLAN.space.full, cost=1.0, score=1.0)])
    assert len(search.front) == 1
    assert len(search.proposals()) == PLAN.mutations + PLAN.crossovers


@pytest.fixture
def found() -> Front:
    search = run(Search(plan=PLAN), 5)
    full = next(trial for trial in search.trials if trial.lengths == PLAN.space.full)
    return Front.of(search, 50, {*search.front, full})


def test_what_was_found_says_what_each_point_is_worth(found: Front, tmp_path: Path) -> None:
    assert found.full.speedup == 1.0
    assert found.full.length_config == PLAN.space.full
    assert found.generations == 4
    assert found.tried == 8 + 4 * 12
    for before, after in pairwise(found.front):
        assert before.speedup > after.speedup
        assert before.score < after.score
    (tmp_path / "front.json").write_text(found.model_dump_json())
    assert read_front(tmp_path / "front.json") == found


def test_the_point_for_a_speedup_is_the_best_that_reaches_it(found: Front) -> None:
    point = found.at_least(1.5)
    assert point.speedup >= 1.5
    assert all(other.score <= point.score for other in found.front if other.speedup >= 1.5)
    most = max(other.speedup for other in found.front)
    assert found.at_least(most).speedup == most
    for speedup in (most + 0.01, float("nan")):
        with pytest.raises(InvalidOptionError, match=f"at most {most:.2f}"):
            found.at_least(speedup)


@pytest.mark.parametrize(
    "change",
    [
        {"trials": [{"lengths": [4, 8, 2, 2], "cost": 1.0, "score": 1.0}]},
        {"trials": [{"lengths": [8, 4, 2], "cost": 1.0, "score": 1.0}]},
        {"trials": [{"lengths": [8, 4, 2, 2], "cost": 0.0, "score": 1.0}]},
        {"trials": [{"lengths": [8, 4, 2, 2], "cost": 1.0, "score": None}]},
        {"trials": [{"lengths": [8, 4, 2, 2], "cost": 1.0, "score": 1.0}]},
        {"generation": -1},
        {"more": 1},
        {"plan": {}},
        [],
    ],
    ids=str,
)
def test_a_state_that_was_altered_is_refused_in_one_line(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    body = json.loads(run(Search(plan=PLAN), 1).model_dump_json())
    path.write_text(json.dumps({**body, **change} if change else change))
    with pytest.raises(DataFileError, match="the state of a search: ") as caught:
        read_search(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"\xff", b"[" * 100_000], ids=lambda content: repr(content[:4])
)
def test_what_is_no_front_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "front.json").write_bytes(content)
    with pytest.raises(DataFileError, match="what a search found"):
        read_front(tmp_path / "front.json")
    with pytest.raises(MissingFileError):
        read_front(tmp_path / "none.json")
