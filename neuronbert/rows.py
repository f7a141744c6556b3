"""Rows of text in a file: one JSON object a line.

Owns: reading them. Knows nothing of tasks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from neuronbert.errors import DataFileError, MissingFileError

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a file, each with the number of its line; empty lines are passed over.

    Raises:
        MissingFileError: there is no such file.
        DataFileError: it can't be read, a line isn't a JSON object, or there is none.
    """
    if not path.is_file():
        raise MissingFileError(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(path, 0, "it can't be read as UTF-8") from error
    rows = [(number, _parse(path, number, line)) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataFileError(path, 0, "it holds no rows")
    return rows


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataFileError(path, number, "it is not JSON") from error
    if not isinstance(row, dict):
        raise DataFileError(path, number, "it is not a JSON object")
    return row
