"""The folder of the compile cache: its entries, and who makes them.

Owns: who compiles when several ask for the same, and the bound. A cache that can't be used is a note, never an error.
Knows nothing of torch or of backends.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from neuronbert.cache.entry import ALONE, AT_ONCE, SHARED, DamagedEntryError, Entry, Record
from neuronbert.errors import InvalidOptionError, NoEntryError, StorageError, first_line
from neuronbert.places import cache_folder
from neuronbert.provenance import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedIOBase
    from pathlib import Path

    from neuronbert.cache.entry import Build
    from neuronbert.cache.job import Job

logger = logging.getLogger("neuronbert")

LIMIT_VARIABLE: Final = "NEURONBERT_CACHE_LIMIT"
DEFAULT_LIMIT: Final = 20 << 30

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_SHELF: Final = 16
"""Letters of the name of a shelf: a folder for the entries that differ in their weights only."""


def _default_limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InvalidOptionError(LIMIT_VARIABLE, text, "a size, as 20GiB or 500M; 0 for no cache")
    return int(float(found[1]) * _UNITS[found[2].upper()])


@dataclass(frozen=True, slots=True)
class Cache:
    """Compiled programs by what they were made from.

    Attributes:
        folder: Where they are; NEURONBERT_CACHE_DIR, or neuronbert/ below XDG_CACHE_HOME.
        limit: Bytes that it may take, NEURONBERT_CACHE_LIMIT or 20 GiB; what wasn't used longest goes first. 0 for no
            cache.

    Raises:
        InvalidOptionError: NEURONBERT_CACHE_LIMIT is no size.
    """

    folder: Path = field(default_factory=cache_folder)
    limit: int = field(default_factory=_default_limit)

    def obtain(self, job: Job, folder: Path, make: Callable[[], Build], progress: Callable[[str], None]) -> Build:
        """Have programs in a folder: copied from the cache, or made there and kept.

        Of several that ask for the same, one makes them while the others wait. What can't be kept (a full disk, a cache
        that may not be written, random weights) is made all the same.

        Args:
            job: Which programs.
            folder: A new and empty one.
            make: Makes them there.
            progress: Told what is being done.

        Raises:
            CheckpointCorruptError: the checkpoint was changed while they were made.
            StorageError: the folder has no room for the copy.
        """
        if not self.limit or job.spec.compiler_workdir is not None:  # what the compiler leaves is asked for
            return make()
        progress("looking into the cache")
        origin, entry, build = self._look(job, folder)
        if build is not None:
            return build
        lock = _claim(entry, progress)
        if lock is None:
            return make()
        with lock:
            try:
                build = _read_again(entry, folder)
                if build is None:
                    build = make()
                    job.check_unchanged(origin["weights"], build)
                    self._keep(entry, _record(job, origin, build), folder)
            finally:
                with suppress(OSError):
                    if not entry.exists:
                        entry.clear()
        try:
            self._trim()
        except OSError as error:
            logger.warning("the cache %s is not kept within its limit (%s)", self.folder, first_line(error))
        return build

    def entries(self) -> list[Entry]:
        """What is in it, last used first."""
        return sorted((place for place in self._places() if place.exists), key=lambda entry: entry.used, reverse=True)

    def find(self, key: str) -> Entry:
        """The entry whose key begins so.

        Raises:
            NoEntryError: there is none, or several.
        """
        found = [entry for entry in self.entries() if entry.key.startswith(key)]
        if len(found) != 1:
            raise NoEntryError(key, len(found))
        return found[0]

    def remove(self, entry: Entry) -> None:
        """Take an entry away, once nobody reads it any more.

        Raises:
            StorageError: the cache can't be written.
        """
        try:
            with entry.lock(ALONE):
                entry.clear()
        except OSError as error:
            raise StorageError(entry.path, error.strerror or str(error)) from error

    def verify(self, *, progress: Callable[[str], None] = logger.info) -> dict[Entry, str]:
        """Compare every digest: the entries that aren't what was written, and why."""
        damaged = {}
        for entry in self.entries():
            progress(f"reading {entry.key[:12]}")
            try:
                with entry.lock(SHARED):
                    entry.fetch()
            except (DamagedEntryError, OSError) as error:
                if entry.exists:  # else it was removed meanwhile
                    damaged[entry] = str(error)
        return damaged

    def _look(self, job: Job, folder: Path) -> tuple[dict[str, Any], Entry, Build | None]:
        origin = job.origin()
        shelf = self.folder / digest(origin)[:_SHELF]
        with ThreadPoolExecutor(1) as aside:
            weights = aside.submit(job.checkpoint.weights_sha256)
            # That digest takes longest. What will most likely be asked for is copied meanwhile, and used only if it is.
            guess = _last_used(shelf)
            build = _reuse(guess, folder) if guess else None
            origin["weights"] = weights.result()
        entry = Entry(shelf / digest(origin))
        if entry != guess:
            _empty(folder)
            build = _reuse(entry, folder)
        if build is not None:
            _served(entry, build)
        return origin, entry, build

    def _keep(self, entry: Entry, record: Record, folder: Path) -> None:
        size = sum(info.size for info in record.build.files.values())
        if record.build.random_weights:
            return
        if size > self.limit:
            logger.warning("the programs are not kept: they take %d bytes, the cache may take %d", size, self.limit)
            return
        try:
            entry.write(record, folder)
        except OSError as error:
            logger.warning("the programs are not kept: %s can't be written (%s)", self.folder, first_line(error))

    def _trim(self) -> None:
        total = 0
        for entry in self.entries():
            total += entry.size
            if total > self.limit:
                with suppress(OSError), entry.lock(ALONE | AT_ONCE):  # not while it is read
                    entry.clear()
        for place in self._places():
            if not place.exists:
                with suppress(OSError), place.lock(ALONE | AT_ONCE):
                    if not place.exists:  # nobody is at it: left by a killed process
                        place.clear()

    def _places(self) -> Iterator[Entry]:
        # By their form: the folder may be one that the user keeps other things in.
        for shelf in _listed(self.folder):
            if len(shelf.name) == _SHELF:
                yield from (Entry(path) for path in _listed(shelf) if _KEY.fullmatch(path.name) and path.is_dir())


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # none yet, or another process has removed it
        return []


def _record(job: Job, origin: dict[str, Any], build: Build) -> Record:
    return Record(model=job.spec.model, task=job.spec.task, target=job.spec.target, origin=origin, build=build)


def _claim(entry: Entry, progress: Callable[[str], None]) -> BufferedIOBase | None:
    try:
        try:
            return entry.lock(ALONE | AT_ONCE)
        except BlockingIOError:
            progress("waiting for another export of the same program")
            return entry.lock(ALONE)
    except OSError as error:
        logger.warning("going on without the cache: %s can't be used (%s)", entry.path.parent.parent, first_line(error))
        return None


def _last_used(shelf: Path) -> Entry | None:
    with suppress(OSError):  # a folder that can't be read; what is wrong with it is said when it is locked
        found = [entry for entry in map(Entry, _listed(shelf)) if entry.exists]
        return max(found, key=lambda entry: entry.used, default=None)
    return None


def _reuse(entry: Entry, folder: Path) -> Build | None:
    try:
        with entry.lock(SHARED | AT_ONCE):
            return entry.fetch(folder)
    except (DamagedEntryError, OSError):  # what it is about is said when the lock is held alone
        _empty(folder)
        return None


def _read_again(entry: Entry, folder: Path) -> Build | None:
    """What another process has made meanwhile; what is damaged goes."""
    if not entry.exists:
        return None
    try:
        build = entry.fetch(folder)
    except (DamagedEntryError, OSError) as error:
        _empty(folder)
        _refuse_full_output(entry, folder, error)
        logger.warning("compiling anew: the cached program %s is damaged (%s)", entry.key[:12], first_line(error))
        with suppress(OSError):
            entry.clear(keep_lock=True)
        return None
    _served(entry, build)
    return build


def _refuse_full_output(entry: Entry, folder: Path, error: Exception) -> None:
    # A failed copy names one file, the other or none: whose fault it is shows when the entry is read on its own.
    if not isinstance(error, OSError):
        return
    with suppress(DamagedEntryError, OSError):
        entry.fetch()
        raise StorageError(folder.parent, error.strerror or str(error)) from error


def _served(entry: Entry, build: Build) -> None:
    entry.touch()
    for note in build.notes:
        logger.warning(note)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
