"""The four reports of a run.

Owns: their names and where they are put. Knows nothing of what stands in them.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from neuronbert.matrix import html, junit, markdown, results

if TYPE_CHECKING:
    from neuronbert.matrix.results import MatrixReport
    from neuronbert.matrix.store import Store

NAMES: Final = ("report.json", "report.xml", "report.md", "report.html")


def write(report: MatrixReport, store: Store) -> None:
    """Write all of them.

    Raises:
        StorageError: the disk is full, or may not be written.
    """
    command = shlex.join(["neuronbert", "validate", "--matrix", report.matrix, "--output", str(store.folder)])
    texts = (
        results.to_json(report),
        junit.render(report),
        markdown.render(report, command),
        html.render(report, command),
    )
    for name, text in zip(NAMES, texts, strict=True):
        store.write(name, text)
