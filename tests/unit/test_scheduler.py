"""The server's scheduler: nothing lost, nothing doubled, nobody starved, within bounds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neuronbert import StaticShape
from neuronbert.errors import OverloadedError, RequestTooLargeError
from neuronbert.server import queues
from neuronbert.server.queues import Request, Row
from neuronbert.server.scheduler import Batch, Limits, Scheduler

SHAPES = [StaticShape(size, length) for length in (16, 64) for size in (1, 2, 4)] + [StaticShape(4, 128)]
LIMITS = Limits(rows=40, tokens=2000, size=1000)
FAR = 1e9


def queued(scheduler: Scheduler, client: str, *lengths: int, deadline: float = FAR, size: int = 1) -> Request:
    request = scheduler.admit(client, len(lengths), size, deadline)
    scheduler.queue(request, [(length, (client, place)) for place, length in enumerate(lengths)])
    return request


def drained(scheduler: Scheduler) -> list[Batch]:
    batches = []
    while batch := scheduler.take(0.0):
        scheduler.finish(batch, 0.0)
        batches.append(batch)
    return batches


class Life(RuleBasedStateMachine):
    """Any order of what can happen to a scheduler. What a row ends as is written down by its place of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(queues, "SLACK", 1)  # so that a few rows are enough for a sweep
        self.scheduler = Scheduler(SHAPES, LIMITS)
        self.now = 0.0
        self.admitted: list[Request] = []
        self.live: list[Request] = []
        self.running: list[Batch] = []
        self.accepted = 0
        self.ends: Counter[int] = Counter()

    def end(self, rows: Any) -> None:
        self.ends.update(row.turn[1] for row in rows)

    @rule(client=st.sampled_from("abc"), rows=st.integers(1, 6), size=st.integers(0, 300), time=st.floats(0, 5))
    def admit(self, client: str, rows: int, size: int, time: float) -> None:
        held = self.scheduler.held
        try:
            request = self.scheduler.admit(client, rows, size, self.now + time)
        except OverloadedError:
            assert held.rows + rows > LIMITS.rows or held.size + size > LIMITS.size
            assert self.scheduler.held == held
        else:
            self.admitted.append(request)

    @precondition(lambda self: self.admitted)
    @rule(lengths=st.lists(st.integers(1, 128), min_size=1, max_size=8), data=st.data())
    def queue(self, lengths: list[int], data: st.DataObject) -> None:
        request = self.admitted.pop(data.draw(st.integers(0, len(self.admitted) - 1)))
        try:
            rows = self.scheduler.queue(request, [(length, length) for length in lengths])
        except OverloadedError:
            assert request.rows == 0
            return
        assert len(rows) in (0, len(lengths))  # none where its time was up before
        assert all(row.length >= row.item for row in rows)
        self.accepted += len(rows)
        self.live.append(request)

    @rule()
    def take(self) -> None:
        self.end(self.scheduler.expire(self.now))
        batch = self.scheduler.take(self.now)
        if batch is None:
            assert not any(self.scheduler.waiting.values())
        else:
            assert batch.shape in SHAPES
            assert {row.length for row in batch.rows} == {batch.shape.sequence_length}
            assert None not in [row.item for row in batch.rows]
            self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.scheduler.finish(batch, self.now)
        self.end(batch.rows)

    @precondition(lambda self: self.live or self.admitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.live + self.admitted))
        self.end(self.scheduler.cancel(request))

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def bounds_hold(self) -> None:
        held = self.scheduler.held
        assert 0 <= held.rows <= LIMITS.rows
        assert 0 <= held.tokens <= LIMITS.tokens
        assert 0 <= held.size <= LIMITS.size
        assert 1 <= self.scheduler.seconds_behind() <= 60

    def teardown(self) -> None:
        self.patch.undo()
        for request in self.admitted:
            self.end(self.scheduler.cancel(request))
        while batch := self.scheduler.take(self.now):
            self.running.append(batch)
        for batch in self.running:
            self.scheduler.finish(batch, self.now)
            self.end(batch.rows)
        assert len(self.ends) == self.accepted
        assert set(self.ends.values()) <= {1}
        assert self.scheduler.held == Limits(0, 0, 0)


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase


def test_the_oldest_head_goes_first_and_takes_its_length_along() -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    for length in (60, 10, 50, 12, 61, 9, 11, 8):
        queued(scheduler, "a", length)
    sizes = [(batch.shape.name, [row.item for row in batch.rows]) for batch in drained(scheduler)]
    assert [name for name, _ in sizes] == ["2x64", "4x16", "1x64", "1x16"]


@pytest.mark.parametrize(("rows", "sizes"), [(1, [1]), (3, [2, 1]), (4, [4]), (7, [4, 2, 1])])
def test_a_batch_is_rounded_down_to_what_is_compiled(rows: int, sizes: list[int]) -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    queued(scheduler, "a", *[10] * rows)
    assert [(batch.shape.batch_size, len(batch.rows)) for batch in drained(scheduler)] == [(n, n) for n in sizes]


def test_where_nothing_smaller_is_compiled_a_batch_has_rows_left() -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    queued(scheduler, "a", 100, 100, 100)
    (batch,) = drained(scheduler)
    assert batch.shape == StaticShape(4, 128)
    assert len(batch.rows) == 3


@given(flood=st.lists(st.sampled_from([10, 50]), min_size=20, max_size=30), others=st.integers(1, 4), data=st.data())
@settings(deadline=None)
def test_no_client_starves(flood: list[int], others: int, data: st.DataObject) -> None:
    """Who comes last to a queue full of another's rows waits for one batch of each client, whatever its length."""
    scheduler = Scheduler(SHAPES, LIMITS)
    queued(scheduler, "flood", *flood)
    before = data.draw(st.integers(0, 3))
    for _ in range(before):
        if batch := scheduler.take(0.0):
            scheduler.finish(batch, 0.0)
    for number in range(others):
        queued(scheduler, f"late-{number}", data.draw(st.sampled_from([10, 50])))
    clients = [{row.request.client for row in batch.rows} for batch in drained(scheduler)]
    last = max(place for place, who in enumerate(clients) if who - {"flood"})
    assert last <= others + 1


def test_clients_take_turns_by_tokens() -> None:
    scheduler = Scheduler([StaticShape(1, 16), StaticShape(1, 64)], Limits())
    queued(scheduler, "long", *[64] * 20)
    queued(scheduler, "short", *[16] * 80)
    first = [row.request.client for batch in drained(scheduler)[:50] for row in batch.rows]
    assert Counter(first) == {"long": 10, "short": 40}


def test_what_is_late_or_left_does_not_run() -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    late, left = queued(scheduler, "a", 10, 10, deadline=1.0), queued(scheduler, "b", 10)
    kept = queued(scheduler, "c", 10)
    assert {row.request for row in scheduler.expire(1.0)} == {late}
    assert [row.request for row in scheduler.cancel(left)] == [left]
    assert scheduler.cancel(left) == []
    assert [row.request for batch in drained(scheduler) for row in batch.rows] == [kept]


@pytest.mark.parametrize("rows", [32, 100, 170])
def test_many_rows_that_leave_at_once_take_no_other_along(rows: int) -> None:
    scheduler = Scheduler(SHAPES, Limits())
    leaving = [queued(scheduler, f"leaving-{number}", *[10] * rows) for number in range(510 // rows - 1)]
    kept = queued(scheduler, "kept", *[10] * 12)
    for number, request in enumerate(leaving, start=1):
        assert len(scheduler.cancel(request)) == rows
        assert scheduler.waiting[16] == (len(leaving) - number) * rows + 12
    assert [row.request for batch in drained(scheduler) for row in batch.rows] == [kept] * 12
    assert scheduler.held == Limits(0, 0, 0)


def test_what_left_while_it_was_tokenized_never_waits() -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    request = scheduler.admit("a", 3, 10, FAR)
    scheduler.cancel(request)
    assert scheduler.queue(request, [(10, "x")]) == []
    assert scheduler.held == Limits(0, 0, 0)


@pytest.mark.parametrize(
    ("rows", "length", "size", "said"),
    [(41, 1, 1, "41 rows"), (1, 1, 1001, "1001 bytes"), (16, 128, 1, "2048 tokens")],
)
def test_what_never_fits_is_told_from_what_does_not_fit_now(rows: int, length: int, size: int, said: str) -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    with pytest.raises(RequestTooLargeError, match=said):
        queued(scheduler, "a", *[length] * rows, size=size)
    assert scheduler.held == Limits(0, 0, 0)


@pytest.mark.parametrize(
    ("rows", "length", "size"), [(40, 10, 1), (15, 128, 1), (1, 10, 1000)], ids=["rows", "tokens", "bytes"]
)
def test_it_is_full_where_one_row_more_is_refused(rows: int, length: int, size: int) -> None:
    scheduler = Scheduler(SHAPES, Limits(rows=40, tokens=15 * 128 + 15, size=1000))  # the shortest row has 16
    almost = queued(scheduler, "a", *[length] * (rows - 1), size=size - 1) if rows > 1 else None
    assert not scheduler.full
    queued(scheduler, "b", length, size=size - (almost.size if almost else 0))
    assert scheduler.full
    with pytest.raises(OverloadedError):
        queued(scheduler, "c", 1)
    drained(scheduler)
    assert not scheduler.full


def test_more_windows_than_were_admitted_are_counted() -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    request = scheduler.admit("a", 1, 1, FAR)
    scheduler.queue(request, [(10, "x")] * 30)
    assert scheduler.held == Limits(30, 480, 1)
    more = scheduler.admit("a", 1, 1, FAR)
    with pytest.raises(OverloadedError):
        scheduler.queue(more, [(10, "x")] * 11)
    assert scheduler.held == Limits(30, 480, 1)


def test_retry_after_is_what_is_held_at_the_measured_rate() -> None:
    scheduler = Scheduler([StaticShape(1, 16)], Limits(rows=100))
    queued(scheduler, "a", *[16] * 100)
    with pytest.raises(OverloadedError) as refused:
        queued(scheduler, "b", 16)
    assert refused.value.retry_after == 1  # nothing was measured yet
    for now in range(5):
        batch = scheduler.take(0.5 * now)
        assert batch
        scheduler.finish(batch, 0.5 * (now + 1))
    queued(scheduler, "a", *[16] * 5)
    with pytest.raises(OverloadedError) as refused:
        queued(scheduler, "b", 16)
    assert refused.value.retry_after == 50


def test_batches_side_by_side_are_not_counted_twice() -> None:
    scheduler = Scheduler([StaticShape(1, 16)], Limits(rows=100))
    queued(scheduler, "a", *[16] * 100)
    batches = [scheduler.take(0.0), scheduler.take(0.0)]
    for batch in batches:
        assert batch
        scheduler.finish(batch, 1.0)
    assert scheduler.seconds_behind() == 48  # two rows a second, the last one counting more


def test_rows_and_clients_that_are_gone_leave_nothing_behind() -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    for number in range(5000):
        scheduler.cancel(queued(scheduler, f"client-{number}", 10))
        request = queued(scheduler, f"other-{number}", 50)
        batch = scheduler.take(0.0)
        assert batch
        assert batch.rows[0].request is request
        scheduler.finish(batch, 0.0)
        scheduler.expire(0.0)
    assert len(scheduler._lines) < 200
    assert len(scheduler._deadlines) < 200
    assert sum(len(queue._heap) for queue in scheduler._queues.values()) < 200


def test_requests_that_are_never_queued_leave_nothing_behind() -> None:
    scheduler = Scheduler(SHAPES, LIMITS)
    for number in range(5000):
        request = scheduler.admit("a", 1, 1, deadline=1e9 - number)
        scheduler.cancel(request)
    assert len(scheduler._deadlines) < 200
    assert scheduler.held == Limits(0, 0, 0)


def test_rows_are_ordered_by_their_turns() -> None:
    request = Request("a", 1, 1)
    assert Row(request, None, 16, (1, 2)) < Row(request, None, 16, (2, 1))
