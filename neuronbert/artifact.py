"""One artifact directory: opened only if every byte is what was written, written whole or not at all.

Owns: the directory. Knows nothing of torch, the Hub or backends.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuronbert import foreign
from neuronbert import manifest as schema
from neuronbert.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactVersionError,
    MissingFileError,
    NotAnArtifactError,
)
from neuronbert.folders import CONFIG, TOKENIZER_FILES
from neuronbert.report import from_json
from neuronbert.staging import link_or_copy
from neuronbert.staging import staged as staged_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from neuronbert.manifest import FileInfo, Manifest
    from neuronbert.report import ValidationReport

MANIFEST: Final = "neuronbert.json"
REPORT: Final = "validation.json"
CARD: Final = "README.md"
STRAYS: Final = (*TOKENIZER_FILES, "chat_template.json", "chat_template.jinja")
"""Files that a reader would take up if they lay in the folder, so none may that the manifest doesn't name."""
_MAX_MANIFEST_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact on disk.

    Attributes:
        path: Its directory.
        manifest: What it holds.
        foreign: Whether the manifest was made of what optimum-neuron wrote, for want of a neuronbert.json.
    """

    path: Path
    manifest: Manifest
    foreign: bool = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Artifact:
        """The artifact in a directory.

        Args:
            path: The directory.
            verify: Compare the digest of every file with the manifest's (about 0.1 s for 100 MB). Where there is no
                neuronbert.json, the manifest gets the digests of the files as they are found.

        Raises:
            MissingFileError: there is no such directory.
            NotAnArtifactError: the directory has no manifest, and no program of optimum-neuron's.
            ForeignArtifactError: it has one that can't be run by what its config.json says.
            ArtifactVersionError: the artifact is of another format.
            ArtifactCorruptError: a file isn't what was written.
        """
        folder = Path(path)
        _refuse_missing(folder)
        found = None if os.path.lexists(folder / MANIFEST) else foreign.read(folder)
        if found is not None:
            return cls(folder, _with_digests(folder, found) if verify else found, foreign=True)
        artifact = cls(folder, _read_manifest(folder))
        for name in (*artifact.manifest.program_files, CONFIG):
            if name not in artifact.manifest.files:
                raise ArtifactCorruptError(folder / MANIFEST, f"has no digest of {name}")
        for name in STRAYS:
            if name not in artifact.manifest.files and (folder / name).exists():
                raise ArtifactCorruptError(folder / name, "is not part of the artifact, but would change what it does")
        if verify:
            for name, info in artifact.manifest.files.items():
                _verify(folder / name, info)
        return artifact

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
        return report if report.program_sha256 == self.manifest.programs_sha256 else None

    def record(self, texts: Mapping[str, str]) -> Artifact:
        """The same artifact with these files added or replaced; on disk it is replaced as a whole."""
        path = self.path.resolve()  # "." is not the same folder afterwards

        def own_files(there: Path) -> set[str]:
            # Asked once more under the lock, before the folder is replaced: what was validated must still be there.
            if _read_manifest(there) != self.manifest:
                raise ArtifactCorruptError(there, "was replaced by another artifact meanwhile")
            return {MANIFEST, *self.manifest.files}

        with staged_folder(path, owned=own_files, overwrite=True) as folder:
            for name in self.manifest.files:
                if name not in texts:
                    link_or_copy(path / name, folder / name)
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
            known = {name: info for name, info in self.manifest.files.items() if name not in texts}
            seal(folder, self.manifest, known=known)
        return Artifact.open(path, verify=False)


def seal(
    folder: Path,
    manifest: Manifest,
    *,
    known: Mapping[str, FileInfo] | None = None,
) -> Manifest:
    """Write the manifest of a folder, with the digest of every file in it; the last thing written.

    Args:
        folder: A staged folder with all its files.
        manifest: What it holds; its `files` are replaced.
        known: Digests that needn't be computed again.
    """
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    files = {name: (known or {}).get(name) or describe(folder / name) for name in sorted(names - {MANIFEST})}
    sealed = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_bytes(schema.dump(sealed))
    return sealed


def staged(output: str | os.PathLike[str], *, overwrite: bool = False) -> AbstractContextManager[Path]:
    """A new folder that becomes an artifact at `output` if the block ends well, and vanishes if it doesn't.

    Args:
        output: The directory to make. An empty one may be there already.
        overwrite: Replace an artifact that is there, but for the files in it that aren't its own. Anything else is
            never replaced.

    Raises:
        OutputExistsError: something is there that may not be replaced.
        StorageError: the disk is full, or may not be written.
    """
    return staged_folder(output, owned=_own_files, overwrite=overwrite)


def _own_files(folder: Path) -> set[str] | None:
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return {MANIFEST, *_read_manifest(folder).files}
    except ArtifactError:  # what was its own can't be told any more
        return {MANIFEST}


def _refuse_missing(folder: Path) -> None:
    try:
        there = folder.is_dir()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise MissingFileError(folder) from error
    if not there:
        raise MissingFileError(folder)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    _refuse_missing(folder)
    if not path.is_file():
        raise NotAnArtifactError(folder)
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise ArtifactCorruptError(path, f"is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        return schema.parse(path.read_bytes())
    except OSError as error:
        raise ArtifactCorruptError(path, f"can't be read ({error.strerror})") from error
    except schema.FormatVersionError as error:
        raise ArtifactVersionError(folder, error.found, schema.FORMAT_VERSION) from error
    except schema.ManifestError as error:
        raise ArtifactCorruptError(path, str(error)) from error


def _with_digests(folder: Path, manifest: Manifest) -> Manifest:
    names = (*manifest.program_files, CONFIG, *(name for name in STRAYS if (folder / name).is_file()))
    try:
        return manifest.model_copy(update={"files": {name: describe(folder / name) for name in names}})
    except OSError as error:
        raise ArtifactCorruptError(folder, f"has a file that can't be read ({error.strerror})") from error


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
    try:
        found = describe(path)
    except OSError as error:
        raise ArtifactCorruptError(path, f"can't be read ({error.strerror})") from error
    if found != info:
        raise ArtifactCorruptError(path, "was altered: its digest doesn't match the manifest's")
