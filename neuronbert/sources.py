"""Where a model is taken from: a folder, the Hub, or a checkpoint of Megatron-LM, which is converted on the way.

Owns: telling them apart, and the temporary folder of a conversion. Knows nothing of what is done with the checkpoint.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from neuronbert import hub
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import InvalidOptionError
from neuronbert.folders import CONFIG, DOWNLOADED
from neuronbert.hub import Resolved
from neuronbert.megatron import ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("neuronbert")


@contextmanager
def opened(
    model: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Iterator[tuple[Resolved, Checkpoint]]:
    """Where a model lies, and its checkpoint; one that had to be converted is there until the block ends.

    Args:
        model: A folder, a name on the Hub, or a checkpoint of Megatron-LM: a zip, a file or a folder.
        revision: Branch, tag or commit on the Hub.
        token: For the Hub.
        progress: Told what is being done.

    Raises:
        ModelNotFoundError: it is none of these.
        InvalidOptionError: a revision is given for what isn't on the Hub.
        NeuronBertError: whatever else the checkpoint, or its conversion, has wrong.
    """
    place = Path(model).expanduser()
    if not _is_megatron(place):
        resolved = hub.resolve(model, files=DOWNLOADED, revision=revision, token=token)
        yield resolved, Checkpoint.open(resolved.path)
        return
    if revision is not None:
        raise InvalidOptionError("revision", revision, f"left out: {model} is on this machine and has no revisions")
    from neuronbert.megatron.conversion import convert_megatron  # noqa: PLC0415  it imports torch

    with tempfile.TemporaryDirectory(prefix="neuronbert-") as folder:
        output = Path(folder, "checkpoint")
        done = convert_megatron(place, output, progress=lambda n, total: progress(f"converting, {100 * n // total} %"))
        for note in done.notes:
            logger.warning(note)
        yield Resolved(place, None), Checkpoint.open(output)


def find_model_type(model: str, *, revision: str | None = None, token: str | bool | None = None) -> str:
    """The architecture of a model, without converting it.

    Raises:
        NeuronBertError: as `opened` does.
    """
    if _is_megatron(Path(model).expanduser()):
        return "megatron-bert"
    resolved = hub.resolve(model, files=DOWNLOADED, revision=revision, token=token)
    return Checkpoint.open(resolved.path).architecture.model_type


def _is_megatron(place: Path) -> bool:
    try:
        if place.is_dir():
            return not (place / CONFIG).exists() and ranks.is_run(place)
        return place.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL in it
        return False
