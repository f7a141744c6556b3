"""A zip of a checkpoint to a folder of it.

Owns: what a zip may hold and how far it may grow. Knows nothing of what is in the files.
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from neuronbert.errors import CheckpointCorruptError, StorageError, UnsafeArchiveError, first_line
from neuronbert.zips import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WANTED: Final = re.compile(r"(model_optim_rng|model_rng)\.pt|latest_checkpointed_iteration\.txt|.*vocab.*\.txt")
_TORCH: Final = "data.pkl"
_ZIP_START: Final = b"PK\x03\x04"
_MAX_GROWTH: Final = 100
"""Weights hardly compress, deflate makes at most a thousandth of zeros: more is no checkpoint."""
_BLOCK: Final = 1 << 20
_SHOWN: Final = 100
"""Characters of a member's name."""
_MISNAMED: Final = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
"""What a new and empty folder answers to names that contradict each other, or that no file can have."""


def is_torch_file(path: Path) -> bool:
    """Whether a file is what torch.save writes (which may be a zip itself), and not a zip with such files in it.

    Raises:
        CheckpointCorruptError: it is the beginning of a zip.
    """
    with path.open("rb") as file:
        starts_as_zip = file.read(len(_ZIP_START)) == _ZIP_START
    if not zipfile.is_zipfile(path):
        if starts_as_zip:
            raise CheckpointCorruptError(path, "it is a zip without its end, as if the download had been cut off")
        return True
    return any(PurePosixPath(info.filename).name == _TORCH for info in _members(path))


def unpack(path: Path, folder: Path) -> None:
    """Put the files of a zip that a checkpoint consists of into a folder; others stay where they are.

    Raises:
        UnsafeArchiveError: a member would leave the folder, or would grow out of proportion.
        CheckpointCorruptError: the zip is damaged, or there is no checkpoint in it.
        StorageError: the disk has no room for it.
    """
    members = _members(path)
    for info in members:
        _refuse_unsafe(path, info)
    grown = sum(info.file_size for info in members)
    if grown > _MAX_GROWTH * path.stat().st_size:
        raise UnsafeArchiveError(path, f"it would grow to {grown} bytes, more than {_MAX_GROWTH} times its size")
    wanted = [info for info in members if not info.is_dir() and _WANTED.fullmatch(PurePosixPath(info.filename).name)]
    if not any(info.filename.endswith(".pt") for info in wanted):
        raise CheckpointCorruptError(path, "there is no model_optim_rng.pt in it")
    need, free = sum(info.file_size for info in wanted), shutil.disk_usage(folder).free
    if need > free:
        raise StorageError(folder, f"it takes {need} bytes to unpack {path} and {free} are free")
    with zipfile.ZipFile(path) as archive:
        for info in wanted:
            _write(path, archive, info, folder / info.filename)


def _write(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for block in _blocks(path, archive, info):
                file.write(block)
    except OSError as error:
        if error.errno not in _MISNAMED:
            raise
        raise _unpackable(path, info, error.strerror or first_line(error)) from error


def _blocks(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(info) as source:
            while block := source.read(_BLOCK):
                yield block
    except UNREADABLE as error:
        raise _unpackable(path, info, first_line(error)) from error


def _unpackable(path: Path, info: zipfile.ZipInfo, reason: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(path, f"its member {info.filename[:_SHOWN]!r} can't be unpacked ({reason})")


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except UNREADABLE as error:
        raise CheckpointCorruptError(path, f"its list of files can't be read ({first_line(error)})") from error


def _refuse_unsafe(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise UnsafeArchiveError(path, f"its member {name!r} would be written outside of the folder")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UnsafeArchiveError(path, f"its member {name!r} is a link")
