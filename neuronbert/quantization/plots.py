"""A calibration as a picture.

Owns: what is in it. Knows nothing of how anything was calibrated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from neuronbert import pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neuronbert.quantization.sensitivity import Noise

_LAYER: Final = re.compile(r"(?:encoder\.)?layer\.(?P<layer>\d+)\.(?P<place>.+)")
_COLOURS: Final = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2"),
    *("#7f7f7f", "#bcbd22", "#17becf", "#004488", "#997700", "#000000", "#44bb99"),
)
"""One for each place of a layer."""


def draw(noises: Sequence[Noise], title: str) -> bytes:
    """The noise of each place over the layers as SVG; a point's description has its range, and what that clips.

    Args:
        noises: Of the quantizers of a model, or of I-BERT's ranges; at least one is in a layer.
        title: What was calibrated.

    Raises:
        MissingPackageError: pygal isn't installed.
    """
    pygal, style = pictures.prepared()
    style.colors = _COLOURS
    lines: dict[str, dict[int, Noise]] = {}
    for noise in noises:
        if match := _LAYER.match(noise.name):  # embeddings are in no layer
            place = match["place"].removesuffix("_quantizer").removesuffix("_input").rstrip(".")
            lines.setdefault(place, {})[int(match["layer"])] = noise
    layers = range(1 + max(layer for line in lines.values() for layer in line))
    chart: Any = pygal.Line(
        style=style,
        js=[],
        logarithmic=True,
        truncate_legend=-1,
        dots_size=3,
        width=960,
        height=520,
        title=f"{title}: rounding error of inputs, in percent of their size",
        x_labels=[str(layer) for layer in layers],
        x_title="layer",
        value_formatter=lambda value: f"{value:.3g} %",
    )
    for place, line in lines.items():
        chart.add(place, [_point(line[layer]) if layer in line else None for layer in layers])
    return pictures.rendered(chart)


def _point(noise: Noise) -> dict[str, object]:
    clipped = f"range {noise.range:.4g} of {noise.largest:.4g}, {noise.clipped:.4%} clipped"
    return {"value": 100 * noise.noise or None, "label": clipped}  # a logarithm has no place for none
