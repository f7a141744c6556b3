"""What is embedded: the rows of Parquet or JSON Lines files, in stretches that can be read by themselves.

Owns: Source: which rows there are, that each can be used, and reading a stretch of them. Knows nothing of models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from neuronbert import answers
from neuronbert.dataset import files
from neuronbert.dataset.files import Contents
from neuronbert.errors import BadRowsError, DataFileError, TextError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TASK: Final = "feature-extraction"
"""The task whose rows are a text."""
_NAMED: Final = 5
"""Bad rows that are named; the others are counted."""
_MAX_LINE: Final = 1 << 24
"""Bytes of a line; more is no row, and would be kept in memory whole."""
_MARK: Final = b"\xef\xbb\xbf"
"""What some editors put before UTF-8."""
_BATCH: Final = 4096
"""Rows of a Parquet file that are held at a time while they are checked."""
_ROW_BITS: Final = 40
"""Of a number that says which file and which of its rows."""
_INTEGERS: Final = range(-(2**63), 2**63)
"""What fits in a column of int64."""


class Columns(NamedTuple):
    """Where a row has what.

    Attributes:
        text: Its text.
        id: Its id; None where rows are numbered, from 0 and through all files.
    """

    text: str
    id: str | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of one file that follow one another.

    Attributes:
        file: Which file.
        sha256: Of the file.
        start: Where in it they begin: a byte of JSON Lines, a row of Parquet.
        first: The number of the first row among those of all files.
        rows: How many there are.
    """

    file: Path
    sha256: str
    start: int
    first: int
    rows: int


class Row(NamedTuple):
    """One row as it was found.

    Attributes:
        place: Where the next stretch would start if this row were its first.
        number: Which one it is: a line of JSON Lines from 1, a row of Parquet from 0.
        values: Its columns by name, or what is wrong with it.
    """

    place: int
    number: int
    values: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class Source:
    """Files whose rows were all looked at.

    Attributes:
        columns: Where a row has what.
        digests: The SHA-256 of each file, by its name.
        stretches: All rows, in order.
        rows: How many there are.
    """

    columns: Columns
    digests: dict[str, str]
    stretches: list[Stretch]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(stretch.rows for stretch in self.stretches)

    @classmethod
    def read(cls, path: Path, columns: Columns, size: int) -> Source:
        """Look at every row.

        Args:
            path: A file, or a folder whose files are read in the order of their names.
            columns: Where a row has what.
            size: Rows of a stretch, but for the last one of a file.

        Raises:
            MissingFileError: there is nothing.
            DataFileError: a file can't be read, lacks a column, or was changed meanwhile.
            BadRowsError: a row has no text or no id, or the id of another one.
        """
        scan, contents = _Scan(columns, size), Contents()
        digests = {file: contents.sha256(file) for file in files.find(path)}
        for file, digest in digests.items():
            scan.file(file, digest)
        scan.settle()
        for file, digest in digests.items():
            contents.check(file, digest)
        if not scan.rows:
            raise DataFileError(path, 0, "it holds no rows")
        return cls(columns, {file.name: digest for file, digest in digests.items()}, scan.stretches)


@dataclass(eq=False)
class _Scan:
    """The one pass over all rows."""

    columns: Columns
    size: int
    rows: int = 0
    stretches: list[Stretch] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    seen: dict[Any, int] = field(default_factory=dict)
    """Where each id is: the number of its file and of its row in one number, as there is one for each row."""
    bad: list[str] = field(default_factory=list)
    more: int = 0

    def file(self, file: Path, sha256: str) -> None:
        self.files.append(file)
        begun: tuple[int, int] | None = None
        for row in _rows(file, 0, self.columns):
            where = len(self.files) - 1 << _ROW_BITS | row.number
            problem = row.values if isinstance(row.values, str) else self.problem(row.values, where)
            if problem:
                self.note(f"{file}, {_named(file, row.number)}: {problem}")
            begun = begun or (row.place, self.rows)
            self.rows += 1
            if self.rows - begun[1] == self.size:
                self.stretches.append(Stretch(file, sha256, *begun, self.size))
                begun = None
        if begun:
            self.stretches.append(Stretch(file, sha256, *begun, self.rows - begun[1]))

    def note(self, problem: str) -> None:
        if len(self.bad) < _NAMED:
            self.bad.append(problem)
        else:
            self.more += 1

    def settle(self) -> None:
        if self.bad:
            raise BadRowsError(self.bad, self.more)

    def problem(self, values: dict[str, Any], where: int) -> str | None:
        """What is wrong with a row."""
        name = self.columns.text
        text = values.get(name)
        if not isinstance(text, str):
            return _missing(name, values) if text is None else f"{name!r} is a {type(text).__name__}, and no text"
        try:
            answers.check(_TASK, {"text": text})
        except TextError as error:
            return error.problem.rstrip(".")
        return self.id_problem(values, where) if self.columns.id else None

    def id_problem(self, values: dict[str, Any], where: int) -> str | None:
        name = self.columns.id or ""
        value = values.get(name)
        if value is None:
            return _missing(name, values)
        if type(value) not in (int, str) or (type(value) is int and value not in _INTEGERS):
            return f"{name!r} is a {type(value).__name__}, and no text or whole number of 64 bits"
        if self.seen and type(value) is not type(next(iter(self.seen))):
            return f"{name!r} is a {type(value).__name__}, and those before it are not"
        before = self.seen.setdefault(value, where)
        if before == where:
            return None
        file = self.files[before >> _ROW_BITS]
        return f"{name!r} is {value!r}, as in {file} {_named(file, before & (1 << _ROW_BITS) - 1)}"


def _named(file: Path, number: int) -> str:
    return f"{'row' if file.suffix in files.PARQUET else 'line'} {number}"


def _missing(name: str, values: dict[str, Any]) -> str:
    return f"{name!r} is null" if name in values else f"it has no {name!r}"


def load(stretch: Stretch, columns: Columns, contents: Contents) -> tuple[pa.Array, list[str]]:
    """The ids and the texts of a stretch.

    Args:
        stretch: Which rows.
        columns: Where a row has what.
        contents: What this process knows of files.

    Raises:
        DataFileError: the file isn't any more what it was, or not the same here.
    """
    contents.check(stretch.file, stretch.sha256)
    ids: list[Any] = []
    texts: list[str] = []
    for row in islice(_rows(stretch.file, stretch.start, columns), stretch.rows):
        if not isinstance(row.values, dict) or not isinstance(row.values.get(columns.text), str):
            break
        texts.append(row.values[columns.text])
        ids.append(row.values.get(columns.id) if columns.id else stretch.first + len(ids))
    contents.check(stretch.file, stretch.sha256)
    if len(texts) < stretch.rows:
        raise DataFileError(stretch.file, 0, "it was changed while its rows were read")
    return pa.array(ids, pa.string() if isinstance(ids[0], str) else pa.int64()), texts


def _rows(file: Path, start: int, columns: Columns) -> Iterator[Row]:
    reader = _parquet if file.suffix in files.PARQUET else _lines
    try:
        yield from reader(file, start, columns)
    except (OSError, pa.ArrowException) as error:
        raise DataFileError(file, 0, f"it can't be read ({first_line(error)})") from error


def _lines(file: Path, start: int, _columns: Columns) -> Iterator[Row]:
    with file.open("rb") as opened:
        opened.seek(start)
        number, place = 0, start
        while line := opened.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise DataFileError(file, number, f"it is longer than {_MAX_LINE} bytes")
            content = line if place else line.removeprefix(_MARK)
            if content.strip():
                yield Row(place, number, _parsed(content))
            place += len(line)


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except (ValueError, RecursionError):
        return "it is not JSON"
    return row if isinstance(row, dict) else "it is not a JSON object"


def _parquet(file: Path, start: int, columns: Columns) -> Iterator[Row]:
    with pq.ParquetFile(file) as opened:
        there = opened.schema_arrow.names
        for name in filter(None, columns):
            if there.count(name) != 1:
                raise DataFileError(file, 0, f"it has {there.count(name)} columns {name!r}; it has {', '.join(there)}")
        sizes = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
        first, groups = _groups(sizes, start)
        place = first
        for batch in opened.iter_batches(_BATCH, row_groups=groups, columns=[*filter(None, columns)]):
            if place + batch.num_rows > start:
                for offset, values in enumerate(batch.to_pylist()):
                    if place + offset >= start:
                        yield Row(place + offset, place + offset, values)
            place += batch.num_rows


def _groups(sizes: list[int], start: int) -> tuple[int, list[int]]:
    """The first row that has to be read, and the row groups, where those before `start` are of no use."""
    first = 0
    for number, size in enumerate(sizes):
        if first + size > start:
            return first, list(range(number, len(sizes)))
        first += size
    return first, []
