"""A matrix's report as Markdown: what a CI shows on its summary page.

Owns: the page's text. Knows nothing of files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from neuronbert.matrix.results import drifts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.matrix.results import MatrixReport, Result

_SIGNS: Final[Mapping[str, str]] = {"passed": "✅", "failed": "❌", "compiled": "☑️", "skipped": "⏭️"}
_MAX_ROWS: Final = 500
"""GitHub shows a summary of up to 1 MiB, and nothing of a longer one."""


def render(report: MatrixReport, command: str) -> str:
    """The page.

    Args:
        report: What was found.
        command: What repeats the run; the id of a cell can be put behind it.
    """
    verdict = "passed" if report.passed else "FAILED" if report.failures else "nothing ran"
    counts = ", ".join(f"{count} {status}" for status, count in report.counts.items())
    head = f"# Compile-validation of {_text(report.matrix)}: {verdict}\n\n{counts} of {len(report.results)} cells.\n"
    return "\n".join(part for part in (head, _failures(report, command), _skips(report), _cells(report)) if part)


def _failures(report: MatrixReport, command: str) -> str:
    failed = [result for result in report.results if result.status == "failed"]
    if not failed:
        return ""
    lines = [f"- {_text(result.cell.id)} ({result.outcome.stage}): {_text(result.outcome.reason)}" for result in failed]
    again = f"\nRepeat what failed with `{_code(command)}`.\n"
    return "## Failures\n\n" + "\n".join(_cut(lines)) + "\n" + again


def _skips(report: MatrixReport) -> str:
    if not report.skips:
        return ""
    lines = [f"- {target}: {_text(reason)}" for target, reason in report.skips]
    return "## Not run\n\n" + "\n".join(lines) + "\n"


def _cells(report: MatrixReport) -> str:
    rows = [_row(result) for result in report.results]
    head = (
        "| model | task | shapes | target | auto-cast | result | nearest to its limit | s | MiB |\n" + "|---" * 9 + "|"
    )
    return "## Cells\n\n" + "\n".join([head, *_cut(rows)]) + "\n"


def _row(result: Result) -> str:
    cell = result.cell
    words = (cell.model, result.task, cell.shape, cell.target, cell.auto_cast)
    status = f"{_SIGNS[result.status]} {result.status}" + (", kept" if result.kept else "")
    ran = [f"{result.seconds:.1f}" if result.seconds else "", str(result.peak_bytes >> 20 or "")]
    return "| " + " | ".join([*map(_text, words), status, _text(nearest(result)), *ran]) + " |"


def nearest(result: Result) -> str:
    """The error that is nearest to its limit, or furthest beyond: in words; empty if nothing was measured."""
    found = drifts(result.outcome.report) if result.outcome.report else ()
    errors = [drift for drift in found if drift.measure == "error"]
    if not errors:
        return ""
    worst = max(errors, key=lambda drift: drift.worst / drift.limit)
    return f"{worst.output} {worst.worst:.2g} of {worst.limit:.2g}"


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_ROWS
    return [*lines[:_MAX_ROWS], f"\nand {more} more: see report.html"] if more > 0 else lines


def _text(text: str) -> str:
    # Whatever a model is called, it stays text: no markup, no table cell, no new line.
    line = "".join(char if char.isprintable() else " " for char in text)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda match: "\\" + match[0], line)


def _code(text: str) -> str:
    return "".join(char if char.isprintable() and char != "`" else "_" for char in text)
