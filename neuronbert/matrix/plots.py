"""Drift as small multiples: for each output a panel, in it the error of every program by its shape.

Owns: the drawing. Knows nothing of the page around it, whose style sheet has the colours: the variables --s0 to --s5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuronbert.matrix.markup import add, element
from neuronbert.matrix.results import drifts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree import ElementTree as Xml

    from neuronbert.matrix.results import Drift, Result

COLOURS: Final = 6
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT, _GAP = 58, 12, 34, 34, 170, 18
_SLOT: Final = 26
_MIN_WIDTH: Final = 190
_ROW_WIDTH: Final = 940
_LEAST: Final = 1e-9
"""What is smaller is drawn here: an error of fp32 against fp32 may be exactly none."""
_TITLES: Final = {"error": "largest error", "cosine": "1 - lowest cosine"}


@dataclass(frozen=True, slots=True)
class Point:
    """One output of one program: its error on each batch, and the most that it may be. 0 is no error at all."""

    shape: str
    series: str
    output: str
    measure: str
    limit: float
    batches: dict[str, float]
    passed: bool

    @property
    def worst(self) -> float:
        """The largest error of any batch."""
        return max(self.batches.values())


def points(results: Sequence[Result]) -> list[Point]:
    """What there is to draw of some cells: errors, and how far cosines are from 1."""
    found = []
    for result in results:
        if result.outcome.report is None:
            continue
        series = result.cell.series + (f" ({result.cell.shape})" if "+" in result.cell.shape else "")
        found += [_point(drift, series) for drift in drifts(result.outcome.report) if drift.measure in _TITLES]
    return found


def _point(drift: Drift, series: str) -> Point:
    flip = drift.measure == "cosine"
    batches = {name: max(0.0, 1 - value) if flip else value for name, value in drift.batches.items()}
    limit = 1 - drift.limit if flip else drift.limit
    return Point(drift.shape, series, drift.output, drift.measure, limit, batches, drift.passed)


def series_of(found: Sequence[Point]) -> list[str]:
    """The names of the series, in the order of their colours and marks."""
    return list(dict.fromkeys(point.series for point in found))


def draw(found: Sequence[Point], order: Sequence[str], title: str, name: str) -> Xml.Element:
    """The figure.

    Args:
        found: What there is to draw; at least one point.
        order: The series of all figures of a page: their colours and marks are the same in each.
        title: What it is called for those who don't see it.
        name: Of the element, unique on its page.
    """
    panels = list(dict.fromkeys((point.output, point.measure) for point in found))
    shapes = sorted({point.shape for point in found}, key=lambda text: [int(part) for part in text.split("x")])
    series = {name: number for number, name in enumerate(order) if any(point.series == name for point in found)}
    width = max(_MIN_WIDTH, _SLOT * len(shapes) * len(series))
    across = max(1, min(len(panels), _ROW_WIDTH // (width + _LEFT + _RIGHT)))
    total = (width + _LEFT + _RIGHT) * across
    down = math.ceil(len(panels) / across) * (_HEIGHT + _TOP + _BOTTOM + _GAP)
    labels = {"role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    svg = element("svg", viewBox=f"0 0 {total} {down}", width=total, height=down, **labels)
    add(svg, "title", title, id=f"{name}-title")
    add(svg, "desc", _describe(found), id=f"{name}-desc")
    for number, (output, measure) in enumerate(panels):
        x, y = number % across * (width + _LEFT + _RIGHT), number // across * (_HEIGHT + _TOP + _BOTTOM + _GAP)
        group = add(svg, "g", transform=f"translate({x + _LEFT} {y + _TOP})")
        chosen = [point for point in found if (point.output, point.measure) == (output, measure)]
        _Panel(group, width, shapes, series, chosen).draw(f"{output}: {_TITLES[measure]}")
    return svg


def _describe(found: Sequence[Point]) -> str:
    worst = max(found, key=lambda point: point.worst / point.limit)
    beyond = sum(not point.passed for point in found)
    return (
        f"{len(found)} measurements against fp32, {beyond} beyond their limit. Nearest to its limit: {worst.output} at "
        f"{worst.shape}, {worst.series}, {worst.worst:.2g} of {worst.limit:.2g}. The numbers are in the table below."
    )


@dataclass(frozen=True, slots=True)
class _Panel:
    """One output's errors on a logarithmic scale: a column for each shape, in it a slot for each series."""

    group: Xml.Element
    width: int
    shapes: list[str]
    series: dict[str, int]
    found: list[Point]

    def draw(self, title: str) -> None:
        add(self.group, "text", title, class_="panel", x=0, y=-14)
        low, high = self._range()
        for decade in range(low, high + 1, max(1, (high - low) // 4)):
            y = self._y(10.0**decade)
            add(self.group, "line", class_="grid", x1=0, x2=self.width, y1=y, y2=y)
            add(self.group, "text", f"1e{decade}" if decade else "1", class_="tick", x=-8, y=y + 4, text_anchor="end")
        column = self.width / len(self.shapes)
        for number, shape in enumerate(self.shapes):
            middle = round((number + 0.5) * column, 1)
            add(self.group, "text", shape, class_="tick", x=middle, y=_HEIGHT + 18, text_anchor="middle")
            if number:
                edge = round(number * column, 1)
                add(self.group, "line", class_="edge", x1=edge, x2=edge, y1=0, y2=_HEIGHT)
        for point in self.found:
            self._mark(point)

    def _mark(self, point: Point) -> None:
        slot, number = list(self.series).index(point.series), self.series[point.series]
        column = self.width / len(self.shapes)
        x = round(self.shapes.index(point.shape) * column + (slot + 0.5) * column / len(self.series), 1)
        holder = add(self.group, "g", class_=f"s{number % COLOURS}")
        said = f"{point.shape}, {point.series}: {point.worst:.3g}, the limit {point.limit:.3g}"
        add(holder, "title", said + ("" if point.passed else ", FAILED"))
        limit = self._y(point.limit)
        add(holder, "line", class_="limit", x1=x - 9, x2=x + 9, y1=limit, y2=limit)
        for value in point.batches.values():
            add(holder, "circle", class_="batch", cx=x, cy=self._y(value), r=2)
        holder.append(mark(number, x, self._y(point.worst)))
        if not point.passed:
            add(holder, "text", "✗", class_="beyond", x=x + 8, y=self._y(point.worst) + 4)

    def _range(self) -> tuple[int, int]:
        values = [max(_LEAST, value) for point in self.found for value in (*point.batches.values(), point.limit)]
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return (low, high) if high > low else (low - 1, high + 1)

    def _y(self, value: float) -> float:
        low, high = self._range()
        share = (math.log10(max(_LEAST, value)) - low) / (high - low)
        return round(_HEIGHT * (1 - share), 1)


def mark(series: int, x: float, y: float) -> Xml.Element:
    """A series' mark: shapes differ as colours do, for those who can't tell these apart."""
    shape = ("M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0", "M-4 -4h8v8h-8z", "M0 -5.5L5 4H-5z")
    more = ("M0 -6L5.5 0L0 6L-5.5 0z", "M0 5.5L5 -4H-5z", "M-5 -1.5h3.5V-5h3v3.5H5v3H1.5V5h-3V1.5H-5z")
    path = (*shape, *more)[series % COLOURS]
    return element("path", class_="mark", d=path, transform=f"translate({x} {y})")
