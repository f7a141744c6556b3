"""A benchmark as a picture.

Owns: the SVG. The drawing is pygal's, which is an extra (`neuronbert[plot]`). Knows nothing of how anything was timed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from neuronbert.errors import MissingPackageError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from neuronbert.benchmark.report import BenchReport, Case, Timing


def require() -> None:
    """Raise if nothing can be drawn here.

    Raises:
        MissingPackageError: pygal isn't installed.
    """
    if importlib.util.find_spec("pygal") is None:
        raise MissingPackageError("pygal", "plot", "it isn't installed")


def save(report: BenchReport, path: Path) -> None:
    """Write a picture of a benchmark: the median call of each case and, as whiskers, from the fastest to p95.

    Raises:
        MissingPackageError: pygal isn't installed.
        StorageError: the file can't be written.
    """
    content = draw(report)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error
    finally:
        beside.unlink(missing_ok=True)


def draw(report: BenchReport) -> bytes:
    """The picture as SVG, without scripts and without anything to fetch.

    Raises:
        MissingPackageError: pygal isn't installed.
    """
    pygal, style = prepared()
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
    chart.add_xml_filter(without_scripts)
    content: bytes = chart.render()
    return content


def prepared() -> tuple[Any, Any]:
    """The package pygal, and how our pictures look.

    Raises:
        MissingPackageError: it isn't installed.
    """
    require()
    import pygal  # noqa: PLC0415  an extra
    from pygal.style import CleanStyle  # noqa: PLC0415

    # Its finder is of a kind that Python warns of at every later import, and is for plug-ins that aren't used here.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
    return pygal, CleanStyle(font_family="sans-serif", value_font_size=11, label_font_size=11)


def without_scripts(root: Any) -> Any:
    """A picture's root, without pygal's scripts."""
    # pygal writes the settings of its script, which isn't there.
    for parent in list(root.iter()):
        for child in [child for child in parent if str(child.tag).endswith("script")]:
            parent.remove(child)
    return root


def _timings(case: Case) -> list[Timing]:
    return [timing for timing in (case.program, case.reference) if timing is not None]


def _label(case: Case) -> str:
    ratio = f" ({case.speedup.median:.2f} x)" if case.speedup else ""
    rows = "" if case.bucket.startswith(f"{case.rows}x") else f", {case.rows} rows"
    return f"{case.bucket}{rows}, {case.cores} {'core' if case.cores == 1 else 'cores'}{ratio}"


def _bar(timing: Timing) -> dict[str, object]:
    return {"value": timing.p50_ms, "ci": {"low": timing.min_ms, "high": timing.p95_ms}}
