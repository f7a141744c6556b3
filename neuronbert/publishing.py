"""Artifact to the Hub: one commit with a model card, or none.

Owns: what is published and what isn't. Knows nothing of torch or backends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronbert import card, hub
from neuronbert.artifact import CARD, MANIFEST, REPORT, STRAYS, Artifact
from neuronbert.errors import NotValidatedError, UnrecordedArtifactError
from neuronbert.manifest import FileInfo, dump

if TYPE_CHECKING:
    import os
    from pathlib import Path


def publish(
    path: str | os.PathLike[str],
    repository_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    force: bool = False,
) -> str:
    """Push an artifact to the Hub in one commit, with its model card and the verdict of its validation.

    What is pushed doesn't say where the checkpoint lay on this machine.

    Args:
        path: The artifact's directory.
        repository_id: "name" or "organisation/name"; made if it isn't there.
        private: Make it private, if it is made.
        revision: The branch; made if it isn't there.
        token: For the Hub; None takes the one that is logged in.
        force: Push although the validation failed.

    Returns:
        The address of the commit.

    Raises:
        ArtifactError: the artifact isn't what was written.
        NotValidatedError: its validation failed.
        UnrecordedArtifactError: it has no neuronbert.json.
        HubAccessError: the Hub refused the token.
        HubError: anything else went wrong; a commit was made whole or not at all.
    """
    artifact = Artifact.open(path)
    if artifact.foreign:
        raise UnrecordedArtifactError(path, repository_id)
    report = artifact.report()
    if report is not None and not report.passed and not force:
        raise NotValidatedError(path)
    manifest = artifact.manifest.without_local_path()

    def files(repository: str) -> dict[str, Path | bytes | None]:
        text = card.render(manifest, report, repository).encode()
        sealed = manifest.model_copy(update={"files": {**manifest.files, CARD: FileInfo.of(text)}})
        gone = dict.fromkeys((REPORT, *STRAYS))  # of an artifact that was pushed there before
        own = {name: artifact.path / name for name in manifest.files}
        return {**gone, **own, CARD: text, MANIFEST: dump(sealed)}

    message = f"{manifest.source.model}: {manifest.task}, {', '.join(shape.name for shape in manifest.shapes)}"
    return hub.commit(repository_id, files, message=message, private=private, revision=revision, token=token)
