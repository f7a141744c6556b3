"""A folder that is written whole or not at all.

Owns: the hidden folder beside the output, its locks, and the moment of replacing. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuronbert.errors import OutputExistsError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Owned = Callable[[Path], set[str] | None]

_OLD: Final = "old"
_STORAGE_ERRNOS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
    | {errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY, errno.ELOOP}
)


@contextmanager
def staged(output: str | os.PathLike[str], *, owned: Owned, overwrite: bool) -> Iterator[Path]:
    """A new folder that becomes `output` if the block ends well, and vanishes if it doesn't.

    What lies at `output` stays until then. A folder left by a killed process is removed by the next one.

    Args:
        output: The directory to make. An empty one may be there already.
        owned: From a folder that is there to the names of the files in it that may be replaced; None if nothing in it
            may. Files that aren't named stay.
        overwrite: Replace what may be replaced.

    Raises:
        OutputExistsError: something is there that may not be replaced.
        StorageError: the disk is full, or may not be written.
    """
    target = Path(output)
    made: list[Path] = []
    try:
        target = Path(os.path.realpath(target))  # resolve() has an error of its own for a link to itself
        made = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _claim(target, owned, overwrite=overwrite)
    except OSError as error:
        _remove_empty(made)
        raise _storage_error(target, error) from error
    try:
        yield folder
        folder.chmod(_default_mode(folder))
        _sync(folder)
        _move(folder, target, owned, overwrite=overwrite)
        made = []
    except OSError as error:
        # An error of the block's own, about a file elsewhere, is not about the disk that is written to.
        elsewhere = error.filename is not None and not _is_below(error.filename, folder, target)
        if elsewhere or error.errno not in _STORAGE_ERRNOS:
            raise
        raise _storage_error(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        _remove_empty(made)


def _refuse_existing(target: Path, owned: Owned, *, overwrite: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    replaceable = target.is_dir() and owned(target) is not None
    if not overwrite or not replaceable:
        raise OutputExistsError(target, replaceable=replaceable)


def _claim(target: Path, owned: Owned, *, overwrite: bool) -> tuple[Path, int]:
    """A new hidden folder beside the target, and its lock: it ends with the process, however that ends."""
    with _lock(target.parent):
        _remove_abandoned(target)
        _refuse_existing(
            target, owned, overwrite=overwrite
        )  # under the lock: between two renames nothing seems to be there
        folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    return folder, handle


def _move(folder: Path, target: Path, owned: Owned, *, overwrite: bool) -> None:
    with _lock(target.parent):
        _refuse_existing(target, owned, overwrite=overwrite)
        own = owned(target) if target.is_dir() else None
        if own is None:
            folder.rename(target)
            return
        _keep_others(target, folder, own)
        aside = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            target.rename(aside / _OLD)
            folder.rename(target)
        except BaseException:
            if not target.exists():
                (aside / _OLD).rename(target)
            raise
        finally:
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)


def _keep_others(old: Path, new: Path, own: set[str]) -> None:
    """What lies in the old folder and isn't its own (notes, .git) stays in its successor."""
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old)
        if name.as_posix() in own or os.path.lexists(new / name):
            continue
        if path.is_symlink() or not path.is_dir():
            link_or_copy(path, new / name)
        elif not any(path.iterdir()):
            (new / name).mkdir(parents=True)


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f"{_prefix(target)}*"):
        with suppress(OSError), _lock(folder, wait=False):
            kept = folder / _OLD
            if kept.exists() and not target.exists():  # killed between the two renames of _move
                kept.rename(target)
            shutil.rmtree(folder)


@contextmanager
def _lock(folder: Path, *, wait: bool = True) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _prefix(target: Path) -> str:
    # Not the name itself: it may be as long as a name can be, or hold what a pattern takes for more than itself.
    return f".neuronbert-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}-"


def _is_below(name: object, *folders: Path) -> bool:
    path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None
    return path is not None and any(path.is_relative_to(folder) for folder in folders)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _default_mode(folder: Path) -> int:
    # What a new folder gets. To read the umask is to set it, for every thread, so it is not asked.
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        probe = Path(inside) / "probe"
        probe.mkdir()
        return stat.S_IMODE(probe.stat().st_mode)


def _storage_error(target: Path, error: OSError) -> StorageError:
    return StorageError(target, error.strerror or str(error))


def link_or_copy(source: Path, destination: Path) -> None:
    """Put a file in a second place: as a hard link, or a copy where there can be none."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be written, before there is anything to write.

    Raises:
        StorageError: its folder may not be written.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _storage_error(path, error) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file, so that a reader sees the old one or the new one and nothing in between.

    Raises:
        StorageError: the disk is full, or may not be written.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)
