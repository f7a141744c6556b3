"""A matrix's report as JUnit XML.

Owns: which cases there are: for each cell its export and its validation, in a suite for each target. Knows nothing of
files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronbert.matrix.markup import add, element, to_xml

if TYPE_CHECKING:
    from xml.etree import ElementTree as Xml

    from neuronbert.matrix.results import MatrixReport, Result


def render(report: MatrixReport) -> str:
    """The document."""
    root = element("testsuites", name=f"neuronbert validate --matrix {report.matrix}")
    for target in dict.fromkeys(result.cell.target for result in report.results):
        suite = add(root, "testsuite", name=target, timestamp=report.created)
        results = [result for result in report.results if result.cell.target == target]
        for result in results:
            _add_cases(suite, result)
        _count(suite)
        suite.set("time", f"{sum(result.seconds for result in results):.3f}")
    _count(root)
    return to_xml(root)


def _add_cases(suite: Xml.Element, result: Result) -> None:
    outcome = result.outcome
    validated = outcome.stage == "validate" and outcome.report is not None
    export = _case(suite, result, "export", seconds=0.0)
    validation = _case(suite, result, "validate", seconds=result.seconds)
    if result.status == "skipped":
        add(export, "skipped", message=outcome.reason)
        add(validation, "skipped", message=outcome.reason)
    elif result.status == "compiled":
        add(validation, "skipped", message=f"compiled, not run: {outcome.reason}")
    elif result.status == "failed" and outcome.stage == "validate":
        add(validation, "failure" if validated else "error", _details(result), message=outcome.reason)
    elif result.status == "failed":
        add(export, "error", outcome.reason, message=outcome.reason)
        add(validation, "skipped", message="there is nothing to validate")


def _case(suite: Xml.Element, result: Result, name: str, seconds: float) -> Xml.Element:
    cell = result.cell
    title = f"{name} {cell.shape} {cell.auto_cast}"
    return add(
        suite, "testcase", classname=f"{cell.model}.{cell.task}.{cell.target}", name=title, time=f"{seconds:.3f}"
    )


def _details(result: Result) -> str:
    report = result.outcome.report
    return "\n".join(report.failures) if report and report.failures else result.outcome.reason


def _count(node: Xml.Element) -> None:
    node.set("tests", str(len(list(node.iter("testcase")))))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        node.set(attribute, str(len(list(node.iter(tag)))))
