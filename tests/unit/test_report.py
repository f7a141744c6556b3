from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neuronbert.errors import ValidationFailedError
from neuronbert.report import Check, Measure, TaskMetric, ValidationReport, from_json, to_json, to_junit
from tests.unit.builders import make_check, make_measure, make_report

finite = st.floats(allow_nan=False, allow_infinity=False)
# What XML 1.0 can hold but for control characters: those are tested on their own.
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), max_size=12)
measures = st.builds(
    Measure, name=st.sampled_from(["cosine", "error", "agreement"]), value=finite, limit=finite, reason=words
)
checks = st.builds(
    Check,
    shape=words,
    batch=words,
    forward=st.integers(1, 3),
    output=words,
    problem=words,
    measures=st.lists(measures, max_size=3).map(tuple),
)
metrics = st.builds(TaskMetric, name=words, rows=st.integers(0, 9), program=finite, reference=finite)
reports = st.builds(
    make_report,
    checks=st.lists(checks, max_size=4).map(tuple),
    problem=words,
    reference=words,
    metrics=st.lists(metrics, max_size=2).map(tuple),
)

GOOD = make_check(make_measure("error", 0.001, 0.01), make_measure("cosine", 0.9999, 0.999))
BAD = make_check(make_measure("error", 0.5, 0.01), make_measure("cosine", 0.5, 0.999))


@pytest.mark.parametrize(
    ("name", "below", "at", "above"),
    [("error", True, True, False), ("cosine", False, True, True), ("agreement", False, True, True)],
)
def test_a_measure_passes_on_its_own_side_of_the_limit(name: str, below: bool, at: bool, above: bool) -> None:
    verdicts = [make_measure(name, value, 0.5).passed for value in (0.4999, 0.5, 0.5001)]
    assert verdicts == [below, at, above]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_value_that_is_not_a_number_is_no_measure(value: float) -> None:
    with pytest.raises(ValidationError):
        make_measure("error", value, 0.5)


def test_one_failed_measure_fails_a_check_and_is_the_one_named() -> None:
    check = make_check(make_measure("error", 0.001, 0.01), make_measure("cosine", 0.25, 0.999))
    assert not check.passed
    assert check.failure == "2x8, full batch, call 1, logits: cosine is 0.25, the limit 0.999"
    assert GOOD.passed
    assert GOOD.failure == ""


def test_a_problem_fails_a_check_whatever_was_measured() -> None:
    check = make_check(make_measure(), problem="3 of 8 values are not finite")
    assert not check.passed
    assert check.failure == "2x8, full batch, call 1, logits: 3 of 8 values are not finite"


def test_a_report_in_which_nothing_was_compared_has_not_passed() -> None:
    report = make_report()
    assert not report.passed
    with pytest.raises(ValidationFailedError, match="nothing was compared"):
        report.raise_if_failed()


def test_a_report_without_a_reference_has_not_passed_whatever_else_it_holds() -> None:
    report = make_report(GOOD, problem="the weights differ")
    assert not report.passed
    assert report.failures == ("the weights differ",)


def test_one_failed_check_among_many_fails_the_report() -> None:
    report = make_report(GOOD, GOOD, BAD, GOOD)
    assert report.failures == (BAD.failure,)
    with pytest.raises(ValidationFailedError, match=r"error is 0\.5"):
        report.raise_if_failed()
    make_report(GOOD, GOOD).raise_if_failed()


@given(reports)
def test_a_report_has_passed_exactly_if_it_compared_something_and_all_of_it_passed(report: ValidationReport) -> None:
    fine = not report.problem and bool(report.checks) and all(check.passed for check in report.checks)
    assert report.passed == fine
    assert fine or report.failures


def test_the_worst_of_each_measure_is_listed_with_how_often_it_was_taken() -> None:
    checks = [make_check(make_measure("error", value, 0.01), output="a") for value in (0.002, 0.005, 0.001)]
    checks += [make_check(make_measure("cosine", value, 0.9), output="a") for value in (0.99, 0.95, 0.999)]
    checks += [make_check(make_measure("error", 0.004, 0.01), output="b")]
    worst = [(output, m.name, m.value, count) for output, m, count in make_report(*checks).worst()]
    assert worst == [("a", "error", 0.005, 3), ("a", "cosine", 0.95, 3), ("b", "error", 0.004, 1)]


@given(st.permutations([(0.005, 0.001), (0.02, 0.1), (0.003, 0.01)]))
def test_a_measure_that_failed_is_worse_than_any_that_passed(values: list[tuple[float, float]]) -> None:
    report = make_report(*[make_check(make_measure("error", value, limit)) for value, limit in values])
    [(_, measure, count)] = report.worst()
    assert (measure.value, count) == (0.005, 3)


@given(reports)
def test_to_json_then_from_json_is_identity(report: ValidationReport) -> None:
    assert from_json(to_json(report).encode()) == report


def test_the_json_spells_out_the_verdict_for_other_tools() -> None:
    body = json.loads(to_json(make_report(GOOD, BAD)))
    assert body["passed"] is False
    assert body["failures"] == [BAD.failure]


def test_a_verdict_that_was_rewritten_does_not_count() -> None:
    body = {**json.loads(to_json(make_report(BAD))), "passed": True, "failures": []}
    assert not from_json(json.dumps(body).encode()).passed


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"1", b"{}", b"\xff", b'{"passed": true}', b'{"checks": [{}]}', b'{"task": "\\ud800"}']
)
def test_what_is_no_report_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  pydantic's, JSON's or our own
        from_json(content)


def test_a_report_with_a_field_too_many_or_too_few_is_a_value_error() -> None:
    body: dict[str, Any] = json.loads(to_json(make_report(GOOD)))
    with pytest.raises(ValueError, match="extra"):
        from_json(json.dumps({**body, "extra": 1}).encode())
    del body["program_sha256"]
    with pytest.raises(ValueError, match="program_sha256"):
        from_json(json.dumps(body).encode())


@given(reports)
def test_junit_has_a_case_for_every_check_and_a_failure_for_every_failed_one(report: ValidationReport) -> None:
    suite = Xml.fromstring(to_junit(report).encode())
    cases = suite.findall("testcase")
    failed = [case for case in cases if case.find("failure") is not None]
    assert len(cases) == len(report.checks) + bool(report.problem)
    assert len(failed) == sum(not check.passed for check in report.checks) + bool(report.problem)
    assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), str(len(failed)))


def test_junit_says_what_failed() -> None:
    suite = Xml.fromstring(to_junit(make_report(GOOD, make_check(problem='a < b & "c"'))))
    [failure] = suite.findall("testcase/failure")
    assert failure.get("message") == failure.text == '2x8, full batch, call 1, logits: a < b & "c"'


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\ufffe"], ids=ascii)
def test_junit_is_xml_whatever_an_error_message_holds(character: str) -> None:
    Xml.fromstring(to_junit(make_report(make_check(problem=f"the call failed: {character}"))))
