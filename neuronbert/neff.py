"""NEFF headers: of a NEFF file, and of the NEFFs inside a TorchScript archive.

Owns: the documented header ("Work with NEFF Files" in the Neuron SDK's documentation) and finding it in other bytes.
Knows nothing of torch or artifacts: nothing is unpickled, run or written, and of a payload only the first bytes are
looked at. The byte order isn't documented; that of every host with a Neuron device is assumed, little-endian.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from neuronbert.errors import ArtifactCorruptError, MissingFileError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_SIZE: Final = 1024
_LAYOUT: Final = struct.Struct("<5Q128sI32s16s256sI64sQI468x")
_SHAPE: Final = re.compile(rb"\x04\x00{6}(?=.{5}\x00{3}.\x00{7}.{2}\x00{6})", re.DOTALL)
"""header_size (1024) from its second byte on, with a data_size and a version behind it that a NEFF may have."""
_BEFORE_SHAPE: Final = 9
_PAYLOADS: Final = (
    ("gzip", 0, b"\x1f\x8b"),
    ("bzip2", 0, b"BZh"),
    ("xz", 0, b"\xfd7zXZ\x00"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("tar", 257, b"ustar"),
)
"""What a payload may begin with: it is a tarball, but how it is compressed isn't documented."""
_LOOKED_AT: Final = HEADER_SIZE + 262
_ARCHIVE: Final = b"PK\x03\x04"
_WINDOW: Final = 1 << 20
_CORES: Final = (0, 4096)
_RANGES: Final = {
    "pkg_version": (0, 255),
    "header_size": (HEADER_SIZE, HEADER_SIZE),
    "data_size": (1, (1 << 40) - 1),
    "neff_version_major": (0, 255),
    "neff_version_minor": (0, 65535),
    "num_tpb": _CORES,
    "requested_tpb_count": _CORES,
    "lnc_size": _CORES,
}
"""What numbers may be, generously; the documentation names no bounds."""
_MAX_NEFFS: Final = 1024
_MAX_LOOKALIKES: Final = 200_000
"""A header is told from other bytes in some microseconds, so that this many take a second or two."""
_MAX_DIRECTORY: Final = 4 << 20
"""Bytes of an archive's directory: of some ten thousand members."""
_MAX_INFLATED: Final = 256 << 20
"""Bytes of all the compressed members together. TorchScript compresses code, and never weights."""
_NO_ARCHIVE: Final = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError)
"""What zipfile raises for archives that aren't as they should be."""
_DIRECTORY: Final = "its directory is too large"
_LOOKALIKES: Final = "it is full of what looks like headers and isn't"


class HeaderError(ValueError):
    """The bytes aren't a header; the message says why. Whoever knows the file words it for the user."""

    def __init__(self, field: str, found: object, expected: str) -> None:
        super().__init__(f"its {field} is {found} in place of {expected}")


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a NEFF, under the names of the documentation.

    Attributes:
        pkg_version: Version of the packaging.
        header_size: Bytes of the header: 1024.
        data_size: Bytes of the payload behind it.
        neff_version_major: What a runtime supports or not.
        neff_version_minor: Its second part.
        neff_build_version: The compiler's build.
        num_tpb: NeuronCores that it needs.
        hash: SHA-256 or MD5 of the payload, depending on `pkg_version`, in hexadecimal.
        uuid: Its identifier, in hexadecimal.
        name: Its name.
        requested_tpb_count: NeuronCores that were asked for when it was compiled.
        tpb_per_node: NeuronCores for each node, up to the last one that needs any.
        feature_bits: What a runtime must know to run it, one bit for each feature.
        lnc_size: Physical cores of a logical one (NEURON_LOGICAL_NC_CONFIG); 0 before there was a choice.
    """

    pkg_version: int
    header_size: int
    data_size: int
    neff_version_major: int
    neff_version_minor: int
    neff_build_version: str
    num_tpb: int
    hash: str
    uuid: str
    name: str
    requested_tpb_count: int
    tpb_per_node: tuple[int, ...]
    feature_bits: int
    lnc_size: int

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """The header at the start of some bytes.

        Raises:
            HeaderError: it isn't one.
        """
        if len(content) < HEADER_SIZE:
            raise HeaderError("size", len(content), f"{HEADER_SIZE} bytes or more")
        values = dict(zip((field.name for field in fields(cls)), _LAYOUT.unpack_from(content), strict=True))
        for name, (least, most) in _RANGES.items():
            if not least <= values[name] <= most:
                raise HeaderError(name, values[name], f"{least} to {most}" if least < most else str(most))
        for name in ("neff_build_version", "name"):
            values[name] = _text(name, values[name])
        nodes = tuple(values["tpb_per_node"].rstrip(b"\0"))
        return cls(**{**values, "hash": values["hash"].hex(), "uuid": values["uuid"].hex(), "tpb_per_node": nodes})


@dataclass(frozen=True, slots=True)
class Neff:
    """A NEFF in a file.

    Attributes:
        member: The archive's member that it lies in; "" if the file is the NEFF.
        offset: Where it begins in the file; None inside a compressed member.
        payload: How its tarball is stored: "tar" as it is, else what compressed it; "unknown" if that can't be told.
        header: Its header.
    """

    member: str
    offset: int | None
    payload: str
    header: Header


def read_header(path: str | os.PathLike[str], offset: int = 0) -> Header:
    """The header of the NEFF that begins at an offset of a file. No other byte of the file is read.

    Raises:
        MissingFileError: there is no such file.
        ArtifactCorruptError: no NEFF begins there, or the file ends before it does.
    """
    with _opened(path) as file:
        return _header_at(file, offset)


def find_neffs(path: str | os.PathLike[str]) -> tuple[Neff, ...]:
    """The NEFFs in a file, in their order: a NEFF itself, or a TorchScript archive that holds some, or none.

    How torch_neuronx lays a NEFF into an archive isn't documented, so every member is searched for headers, 1 MiB at a
    time; one counts if what follows it looks like a tarball.

    Raises:
        MissingFileError: there is no such file.
        ArtifactCorruptError: it is neither, a NEFF in it is cut off, or it would take too much time or memory to read.
    """
    with _opened(path) as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            header = _header_at(file, 0)
            return (Neff("", 0, _payload(file.read(_LOOKED_AT - HEADER_SIZE)) or "unknown", header),)
        try:
            found = tuple(islice(_in_archive(file), _MAX_NEFFS + 1))
        except _NO_ARCHIVE as error:
            raise ArtifactCorruptError(path, f"is not a TorchScript archive ({first_line(error)})") from error
    if len(found) > _MAX_NEFFS:
        raise ArtifactCorruptError(path, f"holds more than {_MAX_NEFFS} NEFFs")
    return found


class _File(io.FileIO):
    """A file without a buffer, never read far at once: zipfile takes an archive's word for its directory's size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise zipfile.BadZipFile(_DIRECTORY)
        return super().read(_MAX_DIRECTORY if size is None or size < 0 else size) or b""


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_File]:
    try:
        if not Path(path).is_file():  # a pipe or a device might never end
            raise MissingFileError(path)
        with _File(path) as file:
            yield file
    except OSError as error:
        raise ArtifactCorruptError(path, f"can't be read ({error.strerror or first_line(error)})") from error


def _header_at(file: _File, offset: int) -> Header:
    size = os.fstat(file.fileno()).st_size
    file.seek(offset)
    try:
        header = Header.parse(file.read(HEADER_SIZE))
    except HeaderError as error:
        raise ArtifactCorruptError(file.name, f"has no NEFF header at byte {offset}: {error}") from error
    _check_fit(header, size - offset, file.name)
    return header


def _check_fit(header: Header, size: int, where: object) -> None:
    there = size - HEADER_SIZE
    if header.data_size > there:
        raise ArtifactCorruptError(where, f"is a NEFF that is cut off: {there} of {header.data_size} bytes are there")


def _payload(start: bytes) -> str | None:
    return next((name for name, at, magic in _PAYLOADS if start.startswith(magic, at)), None)


def _text(field: str, content: bytes) -> str:
    text = content.partition(b"\0")[0].decode(errors="surrogateescape")
    if not text.isprintable():  # neither are bytes that are no UTF-8
        raise HeaderError(field, ascii(content[:32]), "text")
    return text


def _in_archive(file: _File) -> Iterator[Neff]:
    budget = iter(range(_MAX_LOOKALIKES))
    with zipfile.ZipFile(file) as archive:
        _refuse_bombs(archive.infolist(), os.fstat(file.fileno()).st_size)
        for info in archive.infolist():
            stored = info.compress_type == zipfile.ZIP_STORED
            with archive.open(info) as stream:
                where = f"{file.name}: {info.filename}"
                for at, header, payload in _search(stream, info.file_size, where, budget):
                    yield Neff(info.filename, _data_start(file, info) + at if stored else None, payload, header)


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    """Members that share bytes or grow without limit would take more time or memory than the file is large."""
    stored = [info for info in members if info.compress_type == zipfile.ZIP_STORED]
    packed = [info for info in members if info.compress_type == zipfile.ZIP_DEFLATED]
    problems = {
        "a member is compressed in a way that TorchScript doesn't use": len(stored) + len(packed) < len(members),
        "it has two directories": min((info.header_offset for info in members), default=1) > 0,
        "its members overlap": sum(info.compress_size for info in members) > size,
        "a member has two sizes": any(info.file_size != info.compress_size for info in stored),
        "its compressed members would grow too large": sum(info.file_size for info in packed) > _MAX_INFLATED,
    }
    for problem, found in problems.items():
        if found:
            raise zipfile.BadZipFile(problem)


def _data_start(file: _File, info: zipfile.ZipInfo) -> int:
    # The name and the extra field before the data: their lengths in the directory may be others (torch pads there).
    file.seek(info.header_offset)
    name, extra = struct.unpack("<26x2H", file.read(30))
    return int(file.tell() + name + extra)


def _search(stream: IO[bytes], size: int, where: str, budget: Iterator[int]) -> Iterator[tuple[int, Header, str]]:
    """Every NEFF in a stream: where it begins, its header, its payload's form. Each look costs the budget one."""
    end = 0
    for begin, held in _windows(stream):
        if end >= begin + _WINDOW:
            continue
        for match in _SHAPE.finditer(held):
            start = match.start() - _BEFORE_SHAPE
            if not 0 <= start < _WINDOW or begin + start < end:
                continue
            if next(budget, None) is None:
                raise zipfile.BadZipFile(_LOOKALIKES)
            if recognised := _recognise(held[start : start + _LOOKED_AT]):
                header, payload = recognised
                _check_fit(header, size - begin - start, where)
                end = begin + start + HEADER_SIZE + header.data_size
                yield begin + start, header, payload


def _recognise(content: bytes) -> tuple[Header, str] | None:
    payload = _payload(content[HEADER_SIZE:])
    if payload is None:
        return None
    try:
        return Header.parse(content), payload
    except HeaderError:
        return None


def _windows(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """A stream in pieces that overlap: what begins in the first _WINDOW bytes of one is looked at within it."""
    begin, held = 0, stream.read(_WINDOW + _LOOKED_AT)
    while held:
        yield begin, held
        begin += _WINDOW
        held = held[_WINDOW:] + stream.read(_WINDOW)
