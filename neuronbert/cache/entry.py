"""One entry of the compile cache: a folder with the files of a program and a record of them, whole or not there.

The record is written last and removed first: a folder without one is no entry, and what a killed process left of it is
removed under its lock. Who reads holds the lock shared, who writes or removes holds it alone; it ends with its process.

Owns: the folder, its lock, and the record in it. Knows nothing of keys, of torch or of backends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import ValidationError

from neuronbert.artifact import describe
from neuronbert.data import Data
from neuronbert.manifest import CompilerInfo, FileInfo, FileName, InputSpec, OutputSpec, ProgramSpec, Sha256
from neuronbert.provenance import canonical, digest

if TYPE_CHECKING:
    from io import BufferedIOBase
    from pathlib import Path

RECORD: Final = "entry.json"
LOCK: Final = "lock"
FILES: Final = "files"
SHARED: Final = fcntl.LOCK_SH
ALONE: Final = fcntl.LOCK_EX
AT_ONCE: Final = fcntl.LOCK_NB

_MAX_RECORD_BYTES: Final = 16 << 20
_TRIES: Final = 100
"""How often a lock is asked for whose folder is removed meanwhile; each time, another process was faster."""
_ALTERED: Final = "was altered"


class DamagedEntryError(ValueError):
    """An entry that isn't what was written."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")


class Build(Data):
    """What compiling gives: all that an artifact needs to know of its programs, and the digests of their files."""

    weights_sha256: Sha256
    class_name: str
    random_weights: tuple[str, ...]
    notes: tuple[str, ...]
    """What was warned of; a copy warns of it again."""
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    programs: tuple[ProgramSpec, ...]
    compiler: CompilerInfo
    files: dict[FileName, FileInfo]


class Record(Data):
    """What an entry says of itself."""

    format_version: Literal[1] = 1
    model: str
    """What the export that made it was asked for."""
    task: str
    target: str
    origin: dict[str, Any]
    """All that the programs depend on; its digest is the entry's name."""
    build: Build

    def dump(self) -> bytes:
        """Canonical JSON with the digest of itself."""
        body = self.model_dump(mode="json")
        return canonical({"record": body, "sha256": digest(body)})

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """The record in the content of a file.

        Raises:
            DamagedEntryError: it isn't one, or not byte for byte what was written.
        """
        try:
            body = json.loads(content)["record"]
            record = cls.model_validate_json(json.dumps(body))
        except (ValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedEntryError(RECORD, _ALTERED) from error
        if record.dump() != content:
            raise DamagedEntryError(RECORD, _ALTERED)
        return record


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of an entry; there may be none.

    Attributes:
        path: Its folder, named by its key.
    """

    path: Path

    @property
    def key(self) -> str:
        """The digest of all that the programs depend on."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return (self.path / RECORD).is_file()

    @property
    def used(self) -> float:
        """When it was last used, in seconds since 1970; 0 if it is gone."""
        with suppress(OSError):
            return (self.path / RECORD).stat().st_mtime
        return 0.0

    @property
    def size(self) -> int:
        """Bytes of its files."""
        total = 0
        for folder, _, names in os.walk(self.path):  # which takes it that another process removes them meanwhile
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  as walk gives them
        return total

    def lock(self, operation: int) -> BufferedIOBase:
        """Its lock, as a file that holds it until it is closed; ALONE makes the folder.

        Raises:
            BlockingIOError: another process has it, and it was asked for AT_ONCE.
            OSError: the folder can't be used; FileNotFoundError if there is none.
        """
        missed: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
        for _ in range(_TRIES):
            try:
                file = self._open_lock(alone=bool(operation & ALONE))
            except (FileNotFoundError, FileExistsError) as error:
                if not operation & ALONE:
                    raise
                missed = error  # removed while it was made; or something else is in its place
                continue
            try:
                fcntl.flock(file, operation)
                if _is_at(file, self.path / LOCK):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
        raise missed

    def _open_lock(self, *, alone: bool) -> BufferedIOBase:
        path = self.path / LOCK
        if not alone:
            return path.open("rb")
        self.path.mkdir(parents=True, exist_ok=True)
        # To lock a file alone, a network file system asks for one that may be written.
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb")

    def read(self) -> Record:
        """Its record.

        Raises:
            DamagedEntryError: it isn't what was written.
            OSError: it can't be read.
        """
        path = self.path / RECORD
        if path.stat().st_size > _MAX_RECORD_BYTES:
            raise DamagedEntryError(RECORD, _ALTERED)
        record = Record.parse(path.read_bytes())
        if digest(record.origin) != self.key:
            raise DamagedEntryError(RECORD, "is of another entry")
        return record

    def fetch(self, folder: Path | None = None) -> Build:
        """Compare the digest of every file, and copy them into a folder if one is given. Under its lock.

        Raises:
            DamagedEntryError: the record or a file isn't what was written.
            OSError: a file can't be read or copied.
        """
        build = self.read().build
        with ThreadPoolExecutor(1) as aside:
            for name, info in build.files.items():
                path = self.path / FILES / name
                if path.is_symlink() or not path.is_file():
                    raise DamagedEntryError(name, "is missing")
                found = aside.submit(describe, path)
                if folder is not None:
                    _copy(path, folder / name)
                if found.result() != info:
                    raise DamagedEntryError(name, _ALTERED)
        return build

    def touch(self) -> None:
        """Note that it was used now; a cache that can't be written forgets it."""
        with suppress(OSError):
            os.utime(self.path / RECORD)

    def write(self, record: Record, folder: Path) -> None:
        """Fill it with the files of a folder, in place of what is there. Under its lock, alone.

        Nothing is flushed to the disk: what a power failure takes is found by its digest, and compiled anew.
        """
        self.clear(keep_lock=True)
        for name in record.build.files:
            place = self.path / FILES / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, place)
        hidden = self.path / f".{RECORD}"
        hidden.write_bytes(record.dump())
        hidden.rename(self.path / RECORD)

    def clear(self, *, keep_lock: bool = False) -> None:
        """Remove it. Under its lock, alone: that file goes last, and who has waited for it sees that it's gone."""
        (self.path / RECORD).unlink(missing_ok=True)
        for path in list(self.path.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        if not keep_lock:
            (self.path / LOCK).unlink(missing_ok=True)
            for folder in (self.path, self.path.parent):  # not if another process has put something there
                with suppress(OSError):
                    folder.rmdir()


def _is_at(file: BufferedIOBase, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
    with destination.open("rb") as file:
        os.fsync(file.fileno())  # it has to be done in the end; here, the digest is taken meanwhile
