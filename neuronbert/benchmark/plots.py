"""A benchmark as a picture.

Owns: what is in it. Knows nothing of how anything was timed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuronbert import pictures

if TYPE_CHECKING:
    from neuronbert.benchmark.report import BenchReport, Case, Timing


def draw(report: BenchReport) -> bytes:
    """The picture as SVG, without scripts and without anything to fetch.

    Raises:
        MissingPackageError: pygal isn't installed.
    """
    pygal, style = pictures.prepared()
    chart: Any = pygal.Bar(
        style=style,
        js=[],
        print_values=True,
        print_values_position="top",
        truncate_label=-1,
        legend_at_bottom=True,
        width=max(640, 120 + 190 * len(report.cases)),
        height=420,
        title=f"{report.artifact}: milliseconds of a call (median; whiskers from the fastest to p95)",
        x_labels=[_label(case) for case in report.cases],
        value_formatter=lambda value: f"{value:.3g}",
        range=(0, 1.1 * max(timing.p95_ms for case in report.cases for timing in _timings(case))),
    )
    chart.add("program", [_bar(case.program) for case in report.cases])
    if any(case.reference for case in report.cases):
        chart.add("reference", [_bar(case.reference) if case.reference else None for case in report.cases])
    return pictures.rendered(chart)


def _timings(case: Case) -> list[Timing]:
    return [timing for timing in (case.program, case.reference) if timing is not None]


def _label(case: Case) -> str:
    ratio = f" ({case.speedup.median:.2f} x)" if case.speedup else ""
    rows = "" if case.bucket.startswith(f"{case.rows}x") else f", {case.rows} rows"
    return f"{case.bucket}{rows}, {case.cores} {'core' if case.cores == 1 else 'cores'}{ratio}"


def _bar(timing: Timing) -> dict[str, object]:
    return {"value": timing.p50_ms, "ci": {"low": timing.min_ms, "high": timing.p95_ms}}
