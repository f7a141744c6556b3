from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.errors import NothingRanError, ValidationFailedError
from neuronbert.matrix import html, junit, markdown, plots
from neuronbert.matrix.messages import Outcome
from neuronbert.matrix.results import MatrixReport, drifts, to_json
from neuronbert.report import Check
from tests.unit.builders import make_check, make_measure, make_report
from tests.unit.matrix_builders import HOSTILE, make_cell, make_matrix_report, make_outcome, make_result

FAILING = make_report(make_check(make_measure("error", 0.5, 0.01)), make_check(make_measure("error", 0.4, 0.01)))
ALL = make_matrix_report(
    make_result("passed"),
    make_result("failed", outcome=make_outcome("failed", report=FAILING, reason="logits: error is 0.5")),
    make_result("failed", outcome=make_outcome("failed", stage="export", reason="no such head")),
    make_result("failed", outcome=make_outcome("failed", stage="process", reason="killed")),
    make_result("compiled", cell=make_cell(target="trn1"), outcome=make_outcome("compiled", reason="no device")),
    make_result("skipped", cell=make_cell(target="inf2"), outcome=make_outcome("skipped", stage="export")),
)

names = st.one_of(st.just(HOSTILE), st.text(min_size=1, max_size=30))
outcomes = st.one_of(
    st.just(make_outcome("passed")),
    st.builds(
        Outcome,
        status=st.just("failed"),
        stage=st.sampled_from(["checkpoint", "export", "validate", "process"]),
        reason=names,
        report=st.none() | st.just(FAILING),
    ),
    st.builds(
        Outcome, status=st.sampled_from(["skipped", "compiled"]), stage=st.sampled_from(["export"]), reason=names
    ),
)
results = st.builds(
    make_result,
    cell=st.builds(make_cell, model=names, target=st.sampled_from(["cpu", "inf2", "trn2"])),
    outcome=outcomes,
    kept=st.booleans(),
)
reports = st.lists(results, max_size=5).map(lambda found: make_matrix_report(*found))


class Reader(HTMLParser):
    """What a page holds: its tags in order, its attributes, its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_verdict_is_that_of_all_cells() -> None:
    assert ALL.counts == {"passed": 1, "failed": 3, "compiled": 1, "skipped": 1}
    assert ALL.failures[0] == "m/fill-mask/2x8/cpu/matmul-bf16: logits: error is 0.5"
    with pytest.raises(ValidationFailedError, match="2 more"):
        ALL.raise_if_failed()
    for passed in (["passed"], ["passed", "skipped"], ["compiled"], ["compiled", "skipped"]):
        make_matrix_report(*map(make_result, passed)).raise_if_failed()


def test_every_reason_why_a_target_was_not_run_is_said_once() -> None:
    reasons = {"a": "no such head", "b": "no device", "c": "no device"}
    rows = [
        make_result("compiled", cell=make_cell(model=name, target="inf2"), outcome=make_outcome("compiled", reason=why))
        for name, why in reasons.items()
    ]
    report = make_matrix_report(*rows)
    assert report.skips == (("inf2", "no such head"), ("inf2", "no device"))
    assert all(f"inf2: {why}" in markdown.render(report, "") for why in reasons.values())


def test_a_run_of_which_everything_was_skipped_has_not_passed() -> None:
    report = make_matrix_report(make_result("skipped", cell=make_cell(target="inf2")))
    assert not report.passed
    with pytest.raises(NothingRanError, match="inf2: why"):
        report.raise_if_failed()


def test_drift_is_the_worst_of_both_calls_by_batch() -> None:
    checks = [
        Check(shape="1x8", batch=batch, forward=forward, output="y", measures=(make_measure(name, value, 0.5),))
        for batch, forward, name, value in [
            ("full", 1, "error", 0.1),
            ("full", 2, "error", 0.3),
            ("text", 1, "error", 0.2),
            ("full", 1, "cosine", 0.9),
            ("full", 2, "cosine", 0.4),
        ]
    ]
    error, cosine = drifts(make_report(*checks))
    assert (error.batches, error.worst, error.passed) == ({"full": 0.3, "text": 0.2}, 0.3, True)
    assert (cosine.batches, cosine.worst, cosine.passed) == ({"full": 0.4}, 0.4, False)
    assert [
        point.worst for point in plots.points([make_result(outcome=make_outcome(report=make_report(*checks)))])
    ] == [
        0.3,
        pytest.approx(0.6),
    ]


def test_json_says_the_same_and_is_read_back() -> None:
    body = json.loads(to_json(ALL))
    assert (body["passed"], body["counts"], len(body["failures"])) == (False, ALL.counts, 3)
    assert body["results"][0]["drift"][0]["worst"] == 0.001
    assert "report" not in body["results"][0]["outcome"]


@given(reports)
def test_junit_is_xml_that_counts_its_own_cases(report: MatrixReport) -> None:
    root = Xml.fromstring(junit.render(report).encode())
    assert int(root.get("tests", 0)) == len(list(root.iter("testcase"))) == 2 * len(report.results)
    for suite in (root, *root.findall("testsuite")):
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(attribute, 0)) == len(list(suite.iter(tag)))
    bad = int(root.get("failures", 0)) + int(root.get("errors", 0))
    assert bad == len([result for result in report.results if result.status == "failed"])


def test_junit_tells_apart_what_failed() -> None:
    root = Xml.fromstring(junit.render(ALL))
    assert [suite.get("name") for suite in root] == ["cpu", "trn1", "inf2"]
    assert (root.get("failures"), root.get("errors"), root.get("skipped")) == ("1", "2", "5")
    (failure,) = root.iter("failure")
    assert failure.text == "\n".join(FAILING.failures)
    (skipped,) = root.findall("testsuite[@name='trn1']/testcase/skipped")
    assert skipped.get("message") == "compiled, not run: no device"


@given(reports)
def test_no_name_becomes_markup_on_the_page(report: MatrixReport) -> None:
    page = Reader(html.render(report, "neuronbert validate --matrix x"))
    assert not {"script", "img", "iframe", "link", "a", "object"} & set(page.tags)
    for result in report.results:
        shown = result.cell.model.replace("\r\n", "\n").replace("\r", "\n")
        if shown.isprintable():
            assert shown in page.text
    page.text.encode()


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = html.render(ALL, "neuronbert validate --matrix x")
    page = Reader(text)
    assert not [item for item in page.attributes if item[0] in ("src", "href", "style") or item[0].startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "prefers-color-scheme: dark" in text
    assert ("lang", "en") in page.attributes


def test_every_figure_says_in_words_what_it_shows() -> None:
    text = html.render(ALL, "")
    (figure,) = re.findall(r'<svg [^>]*role="img".*?</svg>', text, flags=re.DOTALL)
    svg = Xml.fromstring(figure)
    title, desc = svg[0], svg[1]
    assert (title.tag, desc.tag) == ("title", "desc")
    assert svg.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert "2 beyond their limit" not in str(desc.text)
    assert "1 beyond their limit" in str(desc.text)
    assert "0.5 of 0.01" in str(desc.text)
    assert figure.count("✗") == 1, "not by colour alone"


def test_series_look_the_same_in_every_figure() -> None:
    def result(model: str, cast: str):
        return make_result(cell=make_cell(model=model, auto_cast=cast))

    text = html.render(make_matrix_report(result("a", "none"), result("a", "all-bf16"), result("b", "all-bf16")), "")
    legends = re.findall(r'<li class="(s\d)"><svg.*?<path [^>]*d="([^"]*)".*?</svg>([^<]*)</li>', text, flags=re.DOTALL)
    looks = {name: (colour, path) for colour, path, name in legends}
    assert len(legends) == 3
    assert len(set(looks.values())) == len(looks) == 2
    assert [(colour, path) for colour, path, name in legends if name == "cpu all-bf16"] == [looks["cpu all-bf16"]] * 2


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=4), st.floats(1e-12, 1e30))
def test_every_mark_lies_inside_its_panel(values: list[float], limit: float) -> None:
    check = make_report(*(make_check(make_measure("error", value, limit)) for value in values))
    found = plots.points([make_result(outcome=make_outcome(report=check))])
    svg = plots.draw(found, plots.series_of(found), "t", "n")
    for mark in svg.iter("path"):
        x, y = map(float, re.findall(r"[-\d.]+", str(mark.get("transform"))))
        assert 0 <= y <= 170
        assert 0 <= x <= 190


@given(reports)
def test_no_name_breaks_the_markdown(report: MatrixReport) -> None:
    lines = markdown.render(report, "neuronbert validate --matrix x").split("\n")
    rows = [line for line in lines[lines.index("## Cells") :] if line.startswith("| ")]
    assert len(rows) == len(report.results) + 1
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) == 10
        assert not re.search(r"<[A-Za-z/!]", row)


def test_markdown_of_thousands_of_cells_stays_below_what_github_shows() -> None:
    text = markdown.render(make_matrix_report(*[make_result("failed", cell=make_cell(model="m" * 60))] * 4096), "x")
    assert len(text.encode()) < 1 << 20
    assert "and 3596 more" in text


def test_markdown_says_what_failed_and_what_was_not_run() -> None:
    text = markdown.render(ALL, "neuronbert validate --matrix 'a b'")
    assert text.startswith(
        "# Compile-validation of configs/x.yaml: FAILED\n\n1 passed, 3 failed, 1 compiled, 1 skipped"
    )
    assert "- m/fill-mask/2x8/cpu/matmul-bf16 (export): no such head" in text
    assert "- trn1: no device" in text
    assert "`neuronbert validate --matrix 'a b'`" in text
