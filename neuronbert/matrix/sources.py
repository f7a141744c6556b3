"""The models of a matrix: each found once, before any cell of it runs.

Owns: where a model's checkpoint lies, and the digest of the files that decide its programs. Knows nothing of running.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuronbert import hub
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import NeuronBertError
from neuronbert.folders import CONFIG, DOWNLOADED, TOKENIZER_FILES
from neuronbert.matrix import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from neuronbert.matrix.schema import Cell


@dataclass(frozen=True, slots=True)
class Source:
    """What a cell is made from.

    Attributes:
        folder: The checkpoint; None for a model that is made from a config.
        digest: Of the checkpoint's files; empty where there are none.
        config: The model's sizes.
        weights: Bytes of its weights.
        problem: Why it can't be used; empty if it can.
    """

    folder: Path | None
    digest: str
    config: Mapping[str, Any]
    weights: int
    problem: str = ""


class Sources:
    """Finds the source of a cell, each but once."""

    def __init__(self, token: str | bool | None, progress: Callable[[str], None]) -> None:
        self._token = token
        self._progress = progress
        self._found: dict[tuple[str, str | None], Source] = {}

    def find(self, cell: Cell) -> Source:
        """The source of a cell; a model that can't be had has a problem, and no other cell suffers from it."""
        if cell.checkpoint is None:
            config = cell.config or {}
            return Source(None, "", config, memory.weights_of(config))
        place = (cell.checkpoint, cell.revision)
        if place not in self._found:
            self._progress(f"finding {cell.model}")
            self._found[place] = self._open(*place)
        return self._found[place]

    def _open(self, model: str, revision: str | None) -> Source:
        try:
            resolved = hub.resolve(model, files=DOWNLOADED, revision=revision, token=self._token)
            checkpoint = Checkpoint.open(resolved.path)
            return Source(resolved.path, _digest(checkpoint), checkpoint.config, checkpoint.weights_bytes())
        except NeuronBertError as error:
            return Source(None, "", {}, 0, str(error))


def _digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256(checkpoint.weights_sha256().encode())
    for name in (CONFIG, *TOKENIZER_FILES):
        path = checkpoint.path / name
        if path.is_file():
            digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
