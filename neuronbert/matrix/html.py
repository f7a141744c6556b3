"""A matrix's report as one HTML page that needs nothing else: no script, no file, no network.

Owns: the page and its style sheet. Knows nothing of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neuronbert.matrix import plots
from neuronbert.matrix.markdown import nearest
from neuronbert.matrix.markup import add, clean, element, table, to_html

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree import ElementTree as Xml

    from neuronbert.matrix.results import MatrixReport, Result

_SIGNS: Final[Mapping[str, str]] = {"passed": "✓", "failed": "✗", "compiled": "◐", "skipped": "-"}
# The colours are Okabe and Ito's, which people with any kind of colour blindness can tell apart.
_STYLE: Final = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1b1f24; --dim: #59636e; --line: #d1d9e0; --card: #f6f8fa;
  --good: #116329; --bad: #a40e26; --half: #7a4d00;
  --s0: #0072b2; --s1: #d55e00; --s2: #00795a; --s3: #a8497f; --s4: #8a6d00; --s5: #3b3f46; }
@media (prefers-color-scheme: dark) { :root { --bg: #0d1117; --fg: #e6edf3; --dim: #9198a1; --line: #3d444d;
  --card: #151b23; --good: #56d364; --bad: #ff8182; --half: #e3b341;
  --s0: #56b4e9; --s1: #ff9a4d; --s2: #2fc99f; --s3: #e39ac4; --s4: #f0e442; --s5: #c9d1d9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem; max-width: 68rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; } h3 { margin: 1.75rem 0 .25rem; }
.dim, figcaption, summary { color: var(--dim); } code { font-size: .9em; }
.counts { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; margin: 1.25rem 0; list-style: none; }
.counts li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem; }
.counts b { font-size: 1.4rem; margin-right: .35rem; }
.passed { color: var(--good); } .failed { color: var(--bad); } .compiled { color: var(--half); }
.skipped { color: var(--dim); }
.wide, figure { overflow-x: auto; } figure { margin: 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400; }
tbody th { min-width: 8rem; } tbody td { white-space: nowrap; }
thead th { color: var(--dim); font-weight: 600; white-space: nowrap; }
td.status { font-weight: 600; }
.failures dt { font-weight: 600; margin-top: .75rem; } .failures dd { margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .5rem 0; list-style: none; }
.legend svg { vertical-align: -3px; margin-right: .35rem; }
svg text { fill: var(--fg); font-size: 12px; font-family: system-ui, sans-serif; } svg .tick { fill: var(--dim); }
svg .panel { font-weight: 600; font-size: 13px; }
.grid { stroke: var(--line); } .edge { stroke: var(--line); stroke-dasharray: 2 4; }
.limit { stroke: var(--c); stroke-width: 2; } .batch { fill: var(--c); opacity: .45; } .mark { fill: var(--c); }
svg .beyond { fill: var(--bad); font-weight: 700; font-size: 14px; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def render(report: MatrixReport, command: str) -> str:
    """The page.

    Args:
        report: What was found.
        command: What repeats the run.
    """
    verdict = "passed" if report.passed else "failed" if report.failures else "nothing ran"
    root = element("html", lang="en")
    head = add(root, "head")
    add(head, "meta", charset="utf-8")
    add(head, "meta", http_equiv="Content-Security-Policy", content=_POLICY)
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "title", f"{verdict}: {report.matrix}")
    add(head, "style", _STYLE)
    body = add(add(root, "body"), "main")
    add(body, "h1", f"Compile-validation: {verdict}", class_="failed" if report.failures else "")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    add(body, "p", f"{report.matrix}, {report.created}, {versions}", class_="dim")
    _add_counts(body, report)
    _add_failures(body, report, command)
    _add_skips(body, report)
    _add_cells(body, report)
    _add_drift(body, report.results)
    return to_html(root)


def _add_counts(body: Xml.Element, report: MatrixReport) -> None:
    places = add(body, "ul", class_="counts")
    for status, count in report.counts.items():
        item = add(places, "li", class_=status)
        add(item, "b", count).tail = f"{_SIGNS[status]} {status}"


def _add_failures(body: Xml.Element, report: MatrixReport, command: str) -> None:
    failed = [result for result in report.results if result.status == "failed"]
    if not failed:
        return
    add(body, "h2", "Failures")
    places = add(body, "dl", class_="failures")
    for result in failed:
        add(places, "dt", f"✗ {result.cell.id} ({result.outcome.stage})", class_="failed")
        details = result.outcome.report.failures if result.outcome.report else ()
        add(places, "dd", result.outcome.reason)
        for line in details[1:10]:
            add(places, "dd", line, class_="dim")
    add(add(body, "p", "Repeat what failed with "), "code", command)


def _add_skips(body: Xml.Element, report: MatrixReport) -> None:
    if not report.skips:
        return
    add(body, "h2", "Not run")
    places = add(body, "dl", class_="failures")
    for target, reason in report.skips:
        add(places, "dt", target)
        add(places, "dd", reason, class_="dim")


def _add_cells(body: Xml.Element, report: MatrixReport) -> None:
    add(body, "h2", "Cells")
    columns = ["model", "task", "shapes", "target", "auto-cast", "result", "nearest to its limit", "seconds", "MiB"]
    rows: list[list[object]] = [
        [
            result.cell.model,
            result.task,
            result.cell.shape,
            result.cell.target,
            result.cell.auto_cast,
            f"{_SIGNS[result.status]} {result.status}" + (", kept" if result.kept else ""),
            nearest(result),
            f"{result.seconds:.1f}" if result.seconds else "",
            result.peak_bytes >> 20 or "",
        ]
        for result in report.results
    ]
    made = table(body, columns, rows)
    for line, result in zip(made.findall("tbody/tr"), report.results, strict=True):
        line[5].set("class", f"status {result.status}")


def _add_drift(body: Xml.Element, results: Sequence[Result]) -> None:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.cell.model, result.task), []).append(result)
    drawn = {kind: found for kind, group in groups.items() if (found := plots.points(group))}
    if not drawn:
        return
    add(body, "h2", "Drift against fp32")
    about = (
        "Each program compared with transformers' eager model in fp32. A mark is the worst value of an output at one "
        "shape, small dots are the single batches, a dash is the limit. Errors are shares of the output's range."
    )
    add(body, "p", about, class_="dim")
    order = plots.series_of([point for found in drawn.values() for point in found])
    for number, ((model, task), found) in enumerate(drawn.items()):
        _add_figure(body, f"{model}, {task}", found, order, f"drift-{number}")


def _add_figure(body: Xml.Element, title: str, found: list[plots.Point], order: list[str], name: str) -> None:
    add(body, "h3", title)
    legend = add(body, "ul", class_="legend")
    for series in plots.series_of(found):
        number = order.index(series)
        item = add(legend, "li", class_=f"s{number % plots.COLOURS}")
        sign = add(item, "svg", width=16, height=16, aria_hidden="true")
        sign.append(plots.mark(number, 8, 8))
        sign.tail = clean(series)
    add(body, "figure").append(plots.draw(found, order, f"Drift of {title}", name))
    details = add(body, "details")
    add(details, "summary", "The numbers")
    rows: list[list[object]] = [
        [
            point.output,
            "error" if point.measure == "error" else "1 - cosine",
            point.shape,
            point.series,
            f"{point.worst:.3g}",
            f"{point.limit:.3g}",
            "yes" if point.passed else "NO",
        ]
        for point in found
    ]
    table(details, ["output", "measure", "shape", "compiled to", "worst", "limit", "passed"], rows)
