"""The output folder of a run: results that outlive it, and a place for what doesn't.

Owns: the folder, its lock, and when a result of an earlier run still counts. Knows nothing of how cells are run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from neuronbert import provenance
from neuronbert.errors import InvalidOptionError, StorageError
from neuronbert.matrix.results import Result
from neuronbert.provenance import digest
from neuronbert.staging import write_whole

if TYPE_CHECKING:
    from neuronbert.matrix.schema import Cell

CELLS: Final = "cells"
_WORK: Final = "work"
_COMPILER: Final = ".compiler"
_LIBRARIES: Final = (*provenance.TOOLS, "tokenizers", "safetensors", "numpy")
_VARIABLES: Final = (*provenance.COMPILING, *provenance.RUNNING)


class Store:
    """The folder, held by one run at a time.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open it, or make it.

        Raises:
            InvalidOptionError: something else is there, or another run holds it.
            StorageError: it can't be written.
        """
        self.folder = Path(folder)
        try:
            there = self.folder.is_dir() and any(self.folder.iterdir())
            if there and not (self.folder / CELLS).is_dir():
                expected = "a new folder, an empty one, or one that an earlier run of a matrix made"
                raise InvalidOptionError("output", str(self.folder), expected)
            (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / CELLS, os.O_RDONLY)
        except OSError as error:
            raise StorageError(self.folder, error.strerror or str(error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise InvalidOptionError("output", str(self.folder), "one that no other run is writing to") from error
        self._clean()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._clean()
        os.close(self._lock)

    def scratch(self) -> Path:
        """A new folder for one process; whatever is left of it goes with the run."""
        try:
            (self.folder / _WORK).mkdir(exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self.folder / _WORK)).resolve()
        except OSError as error:
            raise StorageError(self.folder, error.strerror or str(error)) from error

    def discard(self, scratch: Path) -> None:
        """Remove what a process left."""
        shutil.rmtree(scratch, ignore_errors=True)

    def find(self, cell: Cell) -> Result | None:
        """What an earlier run left of a cell; what can't be read doesn't count."""
        try:
            result = Result.model_validate_json(self._path(cell, ".json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return result if result.cell == cell else None

    def rescue(self, cell: Cell, files: Path) -> Path:
        """Move a compiler's log, or the folder that it worked in, to where it stays; returns where that is."""
        place = self._path(cell, _COMPILER)
        shutil.rmtree(place, ignore_errors=True)
        try:
            if files.is_dir():
                return files.rename(place)
            place.mkdir()
            return files.rename(place / files.name)
        except OSError as error:
            raise StorageError(place, error.strerror or str(error)) from error

    def keep(self, result: Result, log: str) -> None:
        """Keep a result, and of one that failed what its process printed."""
        if not result.outcome.log:
            shutil.rmtree(self._path(result.cell, _COMPILER), ignore_errors=True)
        write_whole(self._path(result.cell, ".json"), result.model_dump_json(indent=2) + "\n")
        path = self._path(result.cell, ".log")
        if result.status == "failed" and log:
            write_whole(path, log)
        else:
            path.unlink(missing_ok=True)

    def file_of(self, cell: Cell) -> str:
        """Where the result of a cell is kept, from the folder on."""
        return self._path(cell, ".json").relative_to(self.folder).as_posix()

    def write(self, name: str, text: str) -> Path:
        """Put a report into the folder."""
        write_whole(self.folder / name, text)
        return self.folder / name

    def _path(self, cell: Cell, suffix: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9_+.-]+", "-", cell.id)[:100].strip(".-")
        return self.folder / CELLS / f"{name}-{hashlib.sha256(cell.id.encode()).hexdigest()[:8]}{suffix}"

    def _clean(self) -> None:
        shutil.rmtree(self.folder / _WORK, ignore_errors=True)


def versions() -> dict[str, str]:
    """The versions of all that decides a program, as far as it is installed."""
    return {"python": platform.python_version(), **provenance.versions(_LIBRARIES)}


def key(cell: Cell, source: str, environment: str) -> str:
    """The digest of everything that decides a cell's result.

    Args:
        cell: What is made.
        source: The digest of its checkpoint's files; empty for one that is made from a config.
        environment: As `environment` gives it.
    """
    return digest([cell.model_dump(mode="json"), source, environment])


def environment() -> str:
    """The digest of what decides the result of every cell: versions, settings of the Neuron SDK, and our own code.

    The code itself, not only its version: who changes it runs the matrix again to see what that did.
    """
    settings = provenance.variables(_VARIABLES)
    return digest([versions(), settings, platform.machine(), sys.platform, provenance.code()])
