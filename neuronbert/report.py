"""The schema of a validation: what was compared, by which measure, with which tolerance.

Owns: ValidationReport and its JSON and JUnit forms. Knows nothing of how anything was measured.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Final, Literal
from xml.etree import ElementTree as Xml

from pydantic import Field

from neuronbert.data import Data
from neuronbert.errors import ValidationFailedError

_XML_FORBIDS: Final = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


class Measure(Data):
    """One number and what it must be."""

    name: Literal["cosine", "error", "agreement"]
    value: Annotated[float, Field(allow_inf_nan=False)]
    """cosine: the lowest of any vector. error: the largest difference over the reference's range.
    agreement: the share of rows whose answer is the same."""
    limit: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side of its limit."""
        return self.value <= self.limit if self.name == "error" else self.value >= self.limit


class Check(Data):
    """One output of one call, compared with the reference."""

    shape: str
    batch: str
    forward: Annotated[int, Field(ge=1)]
    output: str
    against: Literal["float", "quantized"] = "float"
    """Which form of the reference: a quantized program is compared with both."""
    problem: str = ""
    """What was wrong before any number could be compared: count, shape, NaN; or the error that was raised."""
    measures: tuple[Measure, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the output is there and all its measures pass."""
        return not self.problem and all(measure.passed for measure in self.measures)

    @property
    def name(self) -> str:
        """What was checked, in a few words."""
        call = f"{self.shape}, {self.batch} batch, call {self.forward}"
        compared = f"{call}, {self.output}" if self.output else call
        return f"{compared} against the quantized model" if self.against == "quantized" else compared

    @property
    def failure(self) -> str:
        """Why it failed, in one line; empty if it passed."""
        if self.problem:
            return f"{self.name}: {self.problem}"
        failed = [m for m in self.measures if not m.passed]
        said = (f"{m.name} is {m.value:.6g}, the limit {m.limit:g}" for m in failed)
        return f"{self.name}: {'; '.join(said)}" if failed else ""


class TaskMetric(Data):
    """A task's own metric on labelled data, of the program and of the reference."""

    name: str
    rows: int
    program: float
    reference: float


class ValidationReport(Data):
    """Everything one validation found."""

    neuronbert_version: str
    created: str
    task: str
    program_sha256: str
    reference: str
    """The checkpoint compared with, and its precision."""
    problem: str = ""
    """Why nothing could be compared."""
    checks: tuple[Check, ...] = ()
    metrics: tuple[TaskMetric, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """Every failure, one line each."""
        if self.problem:
            return (self.problem,)
        if not self.checks:
            return ("nothing was compared",)
        return tuple(check.failure for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether every check passed, and there was at least one."""
        return not self.failures

    def raise_if_failed(self) -> None:
        """Raise if it did.

        Raises:
            ValidationFailedError: at least one check failed.
        """
        if self.failures:
            raise ValidationFailedError(self.failures)

    def worst(self) -> tuple[tuple[str, Measure, int], ...]:
        """For each output and measure: its name, its worst value, and in how many checks it stands.

        What was compared with the quantized model is named so, and stands for itself.
        """
        found: dict[tuple[str, str], tuple[Measure, int]] = {}
        for check in self.checks:
            for measure in check.measures:
                output = f"{check.output} as quantized" if check.against == "quantized" else check.output
                key = (output, measure.name)
                held, count = found.get(key, (measure, 0))
                found[key] = (_worse(held, measure), count + 1)
        return tuple((output, measure, count) for (output, _), (measure, count) in found.items())


def _worse(one: Measure, other: Measure) -> Measure:
    def badness(measure: Measure) -> tuple[bool, float]:
        sign = 1 if measure.name == "error" else -1
        return (not measure.passed, sign * measure.value)

    return max(one, other, key=badness)


def to_json(report: ValidationReport) -> str:
    """The report as JSON, with the verdict and the failures spelled out for other tools."""
    verdict = {"passed": report.passed, "failures": list(report.failures)}
    return json.dumps({**verdict, **report.model_dump(mode="json")}, indent=2) + "\n"


def from_json(content: bytes) -> ValidationReport:
    """The report in the content of a file that `to_json` made.

    Raises:
        ValueError: it isn't one.
    """
    body = json.loads(content)
    if not isinstance(body, dict):
        raise ValueError("a report is a JSON object")  # noqa: TRY003, TRY004  worded by the artifact module
    derived = {"passed", "failures"}
    return ValidationReport.model_validate_json(
        json.dumps({key: value for key, value in body.items() if key not in derived})
    )


def to_junit(report: ValidationReport) -> str:
    """The report as JUnit XML: a test case a check."""
    suite = Xml.Element("testsuite", name=f"neuronbert validate {report.task}")
    for check in report.checks:
        _add_case(suite, f"{report.task}.{check.shape}", check.name, check.failure)
    if report.problem:
        _add_case(suite, report.task, "reference", report.problem)
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    Xml.indent(suite)
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: Xml.Element, classname: str, name: str, failure: str) -> None:
    case = Xml.SubElement(
        suite, "testcase", classname=_XML_FORBIDS.sub("?", classname), name=_XML_FORBIDS.sub("?", name)
    )
    if failure:
        text = _XML_FORBIDS.sub("?", failure)
        Xml.SubElement(case, "failure", message=text).text = text
