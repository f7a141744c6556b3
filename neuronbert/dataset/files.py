"""The files of a dataset: which there are, and that they are still what they were.

Owns: find, and Contents. Knows nothing of rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from neuronbert.errors import DataFileError, InvalidOptionError, MissingFileError, first_line

if TYPE_CHECKING:
    from pathlib import Path

PARQUET: Final = (".parquet", ".pq")
JSON_LINES: Final = (".jsonl", ".ndjson")


def find(path: Path) -> list[Path]:
    """A file, or those of a folder in the order of their names.

    Raises:
        MissingFileError: there is nothing.
        InvalidOptionError: a file is of another kind.
    """
    if not path.exists():
        raise MissingFileError(path)
    if not path.is_dir():
        files = [path]
    else:
        files = sorted(file for file in path.iterdir() if file.suffix in (*PARQUET, *JSON_LINES))
        if not files:
            raise MissingFileError(path / f"*{PARQUET[0]}")
    for file in files:
        if file.suffix not in (*PARQUET, *JSON_LINES):
            expected = f"a folder, or a file that ends with {', '.join((*PARQUET, *JSON_LINES))}"
            raise InvalidOptionError("INPUT", str(file), expected)
    # A link's own name says what it is: in the Hub's cache what it leads to has no suffix.
    return [file.absolute() for file in files]


class Contents:
    """What files hold, as their digests, for one process. A digest is taken again where a file seems to be another."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}

    def sha256(self, file: Path) -> str:
        """The SHA-256 of a file.

        Raises:
            DataFileError: it can't be read.
        """
        try:
            # Looked at before it is read: what is written meanwhile is noticed the next time.
            stamp = _stamp(file)
            if file not in self._known or self._known[file][0] != stamp:
                with file.open("rb") as opened:
                    self._known[file] = stamp, hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise DataFileError(file, 0, f"it can't be read ({first_line(error)})") from error
        return self._known[file][1]

    def check(self, file: Path, sha256: str) -> None:
        """See that a file is what it was.

        Raises:
            DataFileError: it isn't, or can't be read.
        """
        if self.sha256(file) != sha256:
            raise DataFileError(file, 0, "it was changed after its rows were looked at")


def _stamp(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
