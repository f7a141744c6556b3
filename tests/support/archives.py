"""Zip archives that were tampered with, for the readers of program files."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<3H8xL")


def members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def packed(contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.writestr(info, content)
    return buffer.getvalue()


def change(path: Path, edit: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive again after its members were edited."""
    contents = members(path.read_bytes())
    edit(contents)
    path.write_bytes(packed(contents, compression))


def two_in_one(shown: dict[str, bytes], hidden: dict[str, bytes]) -> bytes:
    """An archive of two directories: zipfile takes the one before the end, torch the one that the end names."""
    count = max(len(shown), len(hidden)) + 1
    first, second = (_of_one_size(contents, count) for contents in (hidden, shown))
    (first_body, first_directory), (second_body, second_directory) = _parts(first), _parts(second)
    start = len(first_body) + len(first_directory) + len(second_body)
    # zipfile adds to every offset what it takes for a file in front: the distance between the two directories.
    moved = _moved(second_directory, len(first_body) + len(first_directory) - (start - len(first_body)))
    end = _END.pack(b"PK\5\6", 0, 0, count, count, len(first_directory), len(first_body), 0)
    return first_body + first_directory + second_body + moved + end


def _of_one_size(contents: dict[str, bytes], count: int) -> bytes:
    # Of as many members, with directories of the same size: what one has less is a comment.
    folder = next(iter(contents)).partition("/")[0]
    fillers = {f"{folder}/extra/{index}": b"" for index in range(count - len(contents))}
    buffer = io.BytesIO(packed({**contents, **fillers}))
    missing = 4000 - len(_parts(buffer.getvalue())[1])
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.infolist()[-1].comment = b" " * missing
        archive._didModify = True  # type: ignore[attr-defined]  # or the directory isn't written again
    return buffer.getvalue()


def _parts(archive: bytes) -> tuple[bytes, bytes]:
    end = archive.rindex(b"PK\5\6")
    size, start = _END.unpack_from(archive, end)[5:7]
    return archive[:start], archive[start : start + size]


def _moved(directory: bytes, distance: int) -> bytes:
    moved, at = bytearray(directory), 0
    while at < len(moved):
        name, extra, comment, offset = _ENTRY.unpack_from(moved, at + 28)
        struct.pack_into("<L", moved, at + 42, (offset + distance) % 2**32)
        at += 46 + name + extra + comment
    return bytes(moved)
