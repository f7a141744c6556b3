"""Rows of text in a file: one JSON object a line; or a column for each text, or a text a line, where a sample is read.

Owns: reading them. Knows nothing of tasks.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuronbert.errors import DataFileError, MissingFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

STDIN: Final = "-"
_MAX_LINE: Final = 1 << 24
"""Characters of a line; more is no row, and would be kept in memory whole."""


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
        raise DataFileError(path, 0, "it can't be read as UTF-8: save it in that encoding") from error
    rows = [(number, _parse(path, number, line)) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataFileError(path, 0, "it holds no rows")
    return rows


def stream(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file one by one, each with the number of its line, in little memory however many there are.

    A .csv file has a column for each text and their names in its first line. A .txt file has a text in each line. Any
    other holds JSON objects if its first line begins with a brace, and else texts. Empty lines are passed over.

    Args:
        source: A path, or "-" for stdin.

    Raises:
        MissingFileError: there is no such file.
        DataFileError: it can't be read, or a line is no row.
    """
    suffix = Path(source).suffix.lower()
    with _opened(source) as file:
        try:
            if suffix == ".csv":
                yield from _columns(source, file)
            else:
                yield from _lines(source, file, None if suffix != ".txt" else False)
        except UnicodeDecodeError as error:
            raise DataFileError(source, 0, "it can't be read as UTF-8: save it in that encoding") from error


@contextmanager
def _opened(source: str) -> Iterator[TextIO]:
    if source == STDIN:
        file = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        try:
            yield file
        finally:
            file.detach()  # which would be closed with it
        return
    if not Path(source).is_file():
        raise MissingFileError(source)
    try:
        with Path(source).open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise DataFileError(source, 0, "it can't be read") from error


def texts(source: str, file: TextIO) -> Iterator[tuple[int, str]]:
    """The lines of an open file that hold a text, each with its number; empty lines are passed over.

    Args:
        source: What the file is called in messages.
        file: It. Only line breaks end a line, not the form feeds and the like that `str.splitlines` goes by.

    Raises:
        DataFileError: it can't be read.
    """
    try:
        for number, line in enumerate(_cut(source, file), start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataFileError(source, 0, "it can't be read as UTF-8: save it in that encoding") from error


def _cut(source: str, file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise DataFileError(source, number, f"it is longer than {_MAX_LINE} characters")
        yield line


def _lines(source: str, file: TextIO, objects: bool | None) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_cut(source, file), start=1):
        text = line.strip()
        if not text:
            continue
        if objects is None:
            objects = text.startswith("{")
        yield number, _parse(source, number, text) if objects else {"text": text}


def _columns(source: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(_cut(source, file), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                expected = f"it doesn't have {len(reader.fieldnames or ())} columns, as the first line has"
                raise DataFileError(source, reader.line_num, expected)
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise DataFileError(source, reader.line_num, f"it is not CSV ({error})") from error


def _parse(path: object, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataFileError(path, number, "it is not JSON") from error
    if not isinstance(row, dict):
        raise DataFileError(path, number, "it is not a JSON object")
    return row
