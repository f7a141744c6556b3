"""One artifact directory: opened only if every byte is what was written, written whole or not at all.

Owns: the directory. Knows nothing of torch, the Hub or backends.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuronbert import manifest as schema
from neuronbert.errors import (
    ArtifactCorruptError,
    ArtifactVersionError,
    MissingFileError,
    NotAnArtifactError,
    OutputExistsError,
    StorageError,
)
from neuronbert.report import from_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from neuronbert.manifest import FileInfo, Manifest
    from neuronbert.report import ValidationReport

MANIFEST: Final = "neuronbert.json"
REPORT: Final = "validation.json"
CARD: Final = "README.md"
CONFIG: Final = "config.json"
_MAX_MANIFEST_BYTES: Final = 16 << 20
_OLD: Final = "old"
_STORAGE_ERRNOS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
    | {errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTEMPTY}
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact on disk.

    Attributes:
        path: Its directory.
        manifest: What it holds.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Artifact:
        """The artifact in a directory.

        Args:
            path: The directory.
            verify: Compare the digest of every file with the manifest's (about 0.1 s for 100 MB).

        Raises:
            MissingFileError: there is no such directory.
            NotAnArtifactError: the directory has no manifest.
            ArtifactVersionError: the artifact is of another format.
            ArtifactCorruptError: a file isn't what was written.
        """
        folder = Path(path)
        artifact = cls(folder, _read_manifest(folder))
        for name in (artifact.manifest.program_file, CONFIG):
            if name not in artifact.manifest.files:
                raise ArtifactCorruptError(folder / MANIFEST, f"has no digest of {name}")
        if verify:
            for name, info in artifact.manifest.files.items():
                _verify(folder / name, info)
        return artifact

    @property
    def program_path(self) -> Path:
        """The file that holds the compiled programs."""
        return self.path / self.manifest.program_file

    def config(self) -> dict[str, Any]:
        """The model's config.json.

        Raises:
            ArtifactCorruptError: there is none, or it isn't a JSON object.
        """
        path = self.path / CONFIG
        try:
            config = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactCorruptError(path, "is not JSON") from error
        if not isinstance(config, dict):
            raise ArtifactCorruptError(path, "is not a JSON object")
        return config

    def report(self) -> ValidationReport | None:
        """The validation recorded for exactly these programs, or None.

        Raises:
            ArtifactCorruptError: what is recorded isn't a report.
        """
        if REPORT not in self.manifest.files:
            return None
        path = self.path / REPORT
        try:
            report = from_json(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactCorruptError(path, "is not a validation report") from error
        programs = self.manifest.files[self.manifest.program_file].sha256
        return report if report.program_sha256 == programs else None

    def record(self, texts: Mapping[str, str]) -> Artifact:
        """The same artifact with these files added or replaced, in one step on disk."""
        with staged(self.path, overwrite=True) as folder:
            for name in self.manifest.files:
                if name not in texts:
                    _link_or_copy(self.path / name, folder / name)
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
            seal(folder, self.manifest, known=self.manifest.files, changed=frozenset(texts))
        return Artifact.open(self.path, verify=False)


def seal(
    folder: Path,
    manifest: Manifest,
    *,
    known: Mapping[str, FileInfo] | None = None,
    changed: frozenset[str] = frozenset(),
) -> Manifest:
    """Write the manifest of a folder, with the digest of every file in it; the last thing written.

    Args:
        folder: A staged folder with all its files.
        manifest: What it holds; its `files` are replaced.
        known: Digests that needn't be computed again.
        changed: Names for which `known` no longer holds.
    """
    files = {}
    for name in sorted(_names(folder) - {MANIFEST}):
        old = (known or {}).get(name)
        files[name] = describe(folder / name) if old is None or name in changed else old
    sealed = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_bytes(schema.dump(sealed))
    return sealed


@contextmanager
def staged(output: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder that becomes `output` if the block ends well, and vanishes if it doesn't.

    What lies at `output` stays until then. A folder left by a killed process is removed by the next one.

    Args:
        output: The directory to make. An empty one may be there already.
        overwrite: Replace an artifact that is there, but for the files in it that aren't its own. Anything else is
            never replaced.

    Raises:
        OutputExistsError: something is there that may not be replaced.
        StorageError: the disk is full, or may not be written.
    """
    target = Path(output)
    made: list[Path] = []
    try:
        target = target.resolve()
        _refuse_existing(target, overwrite=overwrite)
        made = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _claim(target)
    except OSError as error:
        _remove_empty(made)
        raise _storage_error(target, error) from error
    try:
        yield folder
        _sync(folder)
        folder.chmod(0o777 & ~_umask())
        _move(folder, target, overwrite=overwrite)
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


def _refuse_existing(target: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite or not (target / MANIFEST).is_file():
        raise OutputExistsError(target, replaceable=(target / MANIFEST).is_file())


def _claim(target: Path) -> tuple[Path, int]:
    """A new hidden folder beside the target, and its lock: it ends with the process, however that ends."""
    with _lock(target.parent):
        _remove_abandoned(target)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    return folder, handle


def _move(folder: Path, target: Path, *, overwrite: bool) -> None:
    with _lock(target.parent):
        _refuse_existing(target, overwrite=overwrite)
        if not (target / MANIFEST).is_file():
            folder.rename(target)
            return
        _keep_others(target, folder)
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


def _keep_others(old: Path, new: Path) -> None:
    """What lies in an artifact's folder and isn't the artifact's (notes, .git) stays in its successor."""
    own = {MANIFEST, *_read_manifest(old).files}
    for name in _names(old) - own - _names(new):
        _link_or_copy(old / name, new / name)


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


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _storage_error(target: Path, error: OSError) -> StorageError:
    return StorageError(target, error.strerror or str(error))


def _link_or_copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        there = folder.is_dir()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise MissingFileError(folder) from error
    if not there:
        raise MissingFileError(folder)
    if not path.is_file():
        raise NotAnArtifactError(folder)
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise ArtifactCorruptError(path, f"is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        return schema.parse(path.read_bytes())
    except schema.FormatVersionError as error:
        raise ArtifactVersionError(folder, error.found, schema.FORMAT_VERSION) from error
    except schema.ManifestError as error:
        raise ArtifactCorruptError(path, str(error)) from error


def describe(path: Path) -> FileInfo:
    """What the manifest says of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return schema.FileInfo(sha256=digest, size=path.stat().st_size)


def _verify(path: Path, info: FileInfo) -> None:
    if not path.is_file():
        raise ArtifactCorruptError(path, "is missing")
    if path.stat().st_size != info.size:
        raise ArtifactCorruptError(path, f"has {path.stat().st_size} bytes in place of {info.size}")
    if describe(path) != info:
        raise ArtifactCorruptError(path, "was altered: its digest doesn't match the manifest's")
