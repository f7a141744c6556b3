"""Charts as SVG files.

Owns: what all our charts have in common. The drawing is pygal's, which is an extra (`neuronbert[plot]`). Knows nothing
of what is drawn.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from neuronbert.errors import MissingPackageError
from neuronbert.staging import write_whole

if TYPE_CHECKING:
    from pathlib import Path


def require() -> None:
    """Raise if nothing can be drawn here.

    Raises:
        MissingPackageError: pygal isn't installed.
    """
    if importlib.util.find_spec("pygal") is None:
        raise MissingPackageError("pygal", "plot", "it isn't installed")


def prepared() -> tuple[Any, Any]:
    """The package pygal, and how our charts look.

    Raises:
        MissingPackageError: it isn't installed.
    """
    require()
    import pygal  # noqa: PLC0415  an extra
    from pygal.style import CleanStyle  # noqa: PLC0415

    # Its finder is of a kind that Python warns of at every later import, and is for plug-ins that aren't used here.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
    return pygal, CleanStyle(font_family="sans-serif", value_font_size=11, label_font_size=11)


def rendered(chart: Any) -> bytes:
    """A chart as SVG, without scripts and without anything to fetch."""
    chart.add_xml_filter(_without_scripts)
    content: bytes = chart.render()
    return content


def save(content: bytes, path: Path) -> None:
    """Write a file, whole or not at all; one that is there is replaced.

    Raises:
        StorageError: it can't be written.
    """
    write_whole(path, content.decode())


def _without_scripts(root: Any) -> Any:
    # pygal writes the settings of its script, which isn't there.
    for parent in list(root.iter()):
        for child in [child for child in parent if str(child.tag).endswith("script")]:
            parent.remove(child)
    return root
