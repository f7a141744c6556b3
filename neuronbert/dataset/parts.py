"""Where vectors are written: a folder of Parquet files, each whole or not there.

Owns: Output: what a folder is for, which of its parts are there, and that one process at a time writes to it. Knows
nothing of models, nor of who makes a part.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from neuronbert.data import Data
from neuronbert.errors import (
    DataFileError,
    DatasetBusyError,
    DatasetChangedError,
    DatasetExistsError,
    OutputExistsError,
    StorageError,
)
from neuronbert.staging import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np

JOB: Final = "job.json"
_TEMPORARY: Final = ".part-"


class Job(Data):
    """All that decides what is in the parts."""

    format: int = 1
    artifact: str
    """The SHA-256 over those of its files."""
    files: dict[str, str]
    """The SHA-256 of each file of the input, by its name."""
    text: str
    id: str | None
    rows: int
    rows_per_part: int
    auto_truncate: bool


@dataclass(frozen=True, slots=True)
class Output:
    """A folder of parts.

    Attributes:
        folder: Where.
        parts: How many there are to be.
    """

    folder: Path
    parts: int

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, job: Job, parts: int, *, resume: bool) -> Iterator[Self]:
        """A folder that nobody else writes to meanwhile; it is made if it isn't there.

        Raises:
            OutputExistsError: something else is there.
            DatasetExistsError: parts are there, and `resume` wasn't asked for.
            DatasetChangedError: they are those of another job.
            DatasetBusyError: another process writes to it.
            StorageError: it can't be made.
        """
        there = folder / JOB
        with _locked(folder):
            # Only now: before, another process may have put something there.
            if there.is_file():
                if not resume:
                    raise DatasetExistsError(folder)
                _compare(folder, job)
            elif any(folder.iterdir()):
                raise OutputExistsError(folder, replaceable=False)
            output = cls(folder, parts)
            output.tidy()
            if not there.is_file():
                write_whole(there, json.dumps(job.model_dump(), indent=2) + "\n")
            try:
                yield output
            finally:
                output.tidy()

    def path(self, number: int) -> Path:
        """Where a part is, or is to be."""
        return self.folder / f"part-{number:0{max(5, len(str(self.parts - 1)))}}.parquet"

    def has(self, number: int, rows: int) -> bool:
        """Whether a part is there, and as long as it must be."""
        try:
            return bool(pq.read_metadata(self.path(number)).num_rows == rows)
        except (OSError, pa.ArrowException):
            return False

    def write(self, number: int, ids: pa.Array, vectors: np.ndarray) -> None:
        """Write a part, whole or not at all; a process that writes the same one meanwhile does no harm.

        Args:
            number: Which part.
            ids: Those of its rows.
            vectors: Those of its rows: (rows, size), fp32.

        Raises:
            StorageError: the disk is full, or may not be written.
        """
        size = vectors.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size)
        temporary = self.folder / f"{_TEMPORARY}{number}-{uuid4().hex}"
        try:
            with temporary.open("wb") as file:
                pq.write_table(pa.table({"id": ids, "embedding": column}), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path(number))
        except OSError as error:
            raise StorageError(self.path(number), error.strerror or str(error)) from error
        finally:
            temporary.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what processes left that were ended while they wrote."""
        for left in self.folder.glob(f"{_TEMPORARY}*"):
            left.unlink(missing_ok=True)


def _compare(folder: Path, job: Job) -> None:
    try:
        before = Job.model_validate_json((folder / JOB).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataFileError(folder / JOB, 0, "it says nothing of what the parts are") from error
    names: Sequence[str] = list(Job.model_fields)
    differing = [name for name in names if getattr(before, name) != getattr(job, name)]
    if differing:
        raise DatasetChangedError(folder, differing)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except FileExistsError as error:
        raise OutputExistsError(folder, replaceable=False) from error
    except OSError as error:
        raise StorageError(folder, error.strerror or str(error)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise DatasetBusyError(folder) from error
    try:
        if not _is(folder, handle):  # who made it has removed it before this process had the lock
            raise DatasetBusyError(folder)
        yield
    finally:
        os.close(handle)
        if made:
            with suppress(OSError):
                folder.rmdir()  # only if there is nothing in it


def _is(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(handle))
    except OSError:
        return False
