"""The zip archives that torch writes programs in, read as torch reads them.

Two readers of one file needn't see the same: torch's ignores the case of names and takes the directory where the file
says that it is, Python's zipfile looks for it before the end. What is checked with one could be loaded with the other,
so both must agree, and content is read with torch's. For what it can't inflate torch's gives whatever lay in memory,
and says nothing; so Python's inflates it first.

Owns: opening and reading. Knows nothing of what programs may do.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Final

import torch

from neuronbert.errors import ArtifactCorruptError, first_line
from neuronbert.zips import UNREADABLE

if TYPE_CHECKING:
    from pathlib import Path

_MAX_INFLATED: Final = 256 << 20
"""Bytes that members may have beyond the file's own: torch compresses code and tables, and never weights."""
_CHUNK: Final = 1 << 20
_MAX_NAME: Final = 500
"""torch's reader cuts longer names when it lists them."""


class TorchArchive:
    """An archive whose members are told apart by every reader.

    Args:
        path: The file.
        what: What it should be, as "a TorchScript archive".

    Attributes:
        names: Of its members, without the folder that they are all in.

    Raises:
        ArtifactCorruptError: it is no such archive, or readers could differ about it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                listed = archive.namelist()
            self._reader = torch._C.PyTorchFileReader(str(path))
            self.names = tuple(self._reader.get_all_records())
            self._refuse_doubt(listed)
            size = sum(self.size(name) for name in self.names)
        except UNREADABLE as error:
            raise ArtifactCorruptError(path, f"is not {what} ({first_line(error)})") from error
        if size > path.stat().st_size + _MAX_INFLATED:
            raise ArtifactCorruptError(path, f"holds {size} bytes, far more than it has")
        try:
            _inflate(path)
        except UNREADABLE as error:
            raise ArtifactCorruptError(path, f"has a damaged member ({first_line(error)})") from error

    def size(self, name: str) -> int:
        """Bytes of a member.

        Raises:
            RuntimeError: there is none of that name.
        """
        return self._reader.get_record_size(name)

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            ArtifactCorruptError: it is damaged.
        """
        try:
            return self._reader.get_record(name)
        except RuntimeError as error:
            raise ArtifactCorruptError(self._path, f"has a damaged {name} ({first_line(error)})") from error

    def _refuse_doubt(self, listed: list[str]) -> None:
        if len({name.casefold() for name in listed}) < len(listed):
            raise ArtifactCorruptError(self._path, "holds two members of one name")
        folder = listed[0].partition("/")[0]
        if sorted(listed) != sorted(f"{folder}/{name}" for name in self.names):
            raise ArtifactCorruptError(self._path, "holds other members for one reader than for another")
        if any(len(name) > _MAX_NAME for name in listed):
            raise ArtifactCorruptError(self._path, f"has a member with a name of more than {_MAX_NAME} characters")


def _inflate(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                with archive.open(info) as member:
                    while member.read(_CHUNK):
                        pass
