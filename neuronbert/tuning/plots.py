"""What a search found as a picture.

Owns: what is in it. Knows nothing of how anything was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuronbert import pictures
from neuronbert.adaptive.configuration import spell

if TYPE_CHECKING:
    from neuronbert.adaptive.search import Front


def draw(found: Front) -> bytes:
    """The front as SVG: the score over the speed-up, without scripts and without anything to fetch.

    Raises:
        MissingPackageError: pygal isn't installed.
    """
    pygal, style = pictures.prepared()
    plan = found.plan
    unit = "multiply-adds" if plan.cost == "macs" else "time of a row"
    chart: Any = pygal.XY(
        style=style,
        js=[],
        stroke=True,
        show_legend=False,
        width=760,
        height=420,
        title=f"{plan.model}, {plan.sequence_length} tokens: {plan.metric} over {found.rows} rows",
        x_title=f"times fewer {unit} than at full length" if plan.cost == "macs" else f"times less {unit}",
        y_title=plan.metric,
        value_formatter=lambda value: f"{value:.3f}",
        x_value_formatter=lambda value: f"{value:.2f}",
    )
    points = [*found.front, *([] if found.full in found.front else [found.full])]
    chart.add(plan.metric, [{"value": (p.speedup, p.score), "label": spell(p.length_config)} for p in points])
    return pictures.rendered(chart)
