"""The folder that the Neuron compiler works in, and what is read there when it fails.

Owns: making it, removing it, and wording a failure by the compiler's log. Knows nothing of torch or how it is called.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from neuronbert.errors import CompilationFailedError, NeuronBertError, StorageError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG: Final = "log-neuron-cc.txt"

_KILLED: Final = re.compile(rf"(failed with|returned|exit[a-z ]*) (-{signal.SIGKILL:d}|{128 + signal.SIGKILL:d})\b")
_LOG_LINES: Final = 3
_LOG_BYTES: Final = 16 << 10
_NO_SPACE: Final = os.strerror(errno.ENOSPC)
"""What a full disk is called, in the compiler's log as everywhere."""


class _Log(NamedTuple):
    changed: int
    size: int
    path: Path


@contextmanager
def workdir(kept: str | None, shape: str) -> Iterator[Path]:
    """Around a compilation: where the compiler works.

    Args:
        kept: The user's folder, in which each shape gets one; None for one that goes, but for a failure whose message
            names its log.
        shape: The name of the program's shape.

    Raises:
        CompilationFailedError: for whatever the block raises.
        StorageError: there is no room, or the folder can't be made.
    """
    work = _make(kept, shape)
    leave = kept is not None
    before = _logs(work)
    handle = os.open(work, os.O_RDONLY)
    try:
        _claim(handle, work)
        yield work
    except NeuronBertError:
        raise
    except (Exception, SystemExit) as error:
        new = _logs(work) - before  # a folder that is kept has the logs of other days
        problem = _problem(work, new, shape, error, kept=leave)
        leave = leave or (bool(new) and isinstance(problem, CompilationFailedError))
        raise problem from error
    finally:
        os.close(handle)
        if not leave:
            shutil.rmtree(work, ignore_errors=True)


def neff_bytes(work: Path) -> int:
    """Bytes of the NEFFs that the compiler left; their names aren't documented, only how they end."""
    return sum(path.stat().st_size for path in work.rglob("*.neff"))


def _make(kept: str | None, shape: str) -> Path:
    try:
        if kept is None:
            return Path(tempfile.mkdtemp(prefix="neuronbert-compiler-"))
        work = Path(kept).absolute() / shape
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # Where no place at all takes a file, as on a full disk, there is none to name.
        place = error.filename or "the folder for temporary files"
        raise StorageError(place, error.strerror or str(error)) from error
    return work


def _claim(handle: int, work: Path) -> None:
    # The compiler's files have the same names each time: two at once would take each other's.
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StorageError(work, "another export compiles in it") from error


def _problem(work: Path, new: set[_Log], shape: str, error: BaseException, *, kept: bool) -> NeuronBertError:
    log, lines = _last_lines(max(new)) if new else (work if kept else None, [])
    if any(_NO_SPACE in text for text in (str(error), *lines)):
        return StorageError(work, _NO_SPACE)
    reason = first_line(error)
    if _KILLED.search(reason):
        reason += " (SIGKILL, as where memory runs out; use a larger instance)"
    elif log is None:
        reason += "; keep its files with --compiler-workdir FOLDER to see more"
    return CompilationFailedError(shape, reason, log, lines)


def _logs(work: Path) -> set[_Log]:
    found = ((path, path.stat()) for path in work.rglob(LOG) if path.is_file())
    return {_Log(state.st_mtime_ns, state.st_size, path) for path, state in found}


def _last_lines(log: _Log) -> tuple[Path, list[str]]:
    with log.path.open("rb") as file:
        file.seek(max(0, log.size - _LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return log.path, [line.strip() for line in lines if line.strip()][-_LOG_LINES:]
