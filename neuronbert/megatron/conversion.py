"""A Megatron-LM checkpoint to a checkpoint folder that transformers and neuronbert read.

Owns: the order of a conversion. Knows nothing of artifacts.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import MissingFileError, StorageError
from neuronbert.folders import CONFIG, WEIGHTS
from neuronbert.megatron import archive, plans, ranks, shards, vocabulary, writer
from neuronbert.staging import staged

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from torch import Tensor

_UNPACKED: Final = ".unpacked"
_LOOKED_AT: Final = 1 << 18
"""Values that are looked at together, for NaN and infinity."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion has made.

    Attributes:
        path: The folder.
        class_name: transformers' class that has its heads.
        version: The checkpoint's version.
        ranks: Its tensor-parallel ranks.
        stages: Its pipeline stages.
        config: config.json.
        weights_bytes: What the weights take.
        tokenizer: Whether a tokenizer was written.
        notes: What was assumed, a sentence each.
    """

    path: Path
    class_name: str
    version: float
    ranks: int
    stages: int
    config: dict[str, Any]
    weights_bytes: int
    tokenizer: bool
    notes: tuple[str, ...]


def convert_megatron(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    num_attention_heads: int | None = None,
    vocab: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Conversion:
    """Convert a MegatronBERT checkpoint, and write the folder whole or not at all.

    Args:
        checkpoint: The zip that NVIDIA publishes, a folder (of a run, an iteration, or ranks), or one file.
        output: The folder to make. An empty one may be there already.
        num_attention_heads: Needed if the checkpoint holds no arguments of its training and isn't of the published
            345M size: no shape tells it.
        vocab: The WordPiece vocabulary, one token a line; by default the `*vocab*.txt` in or beside the checkpoint.
        progress: Told how many bytes of how many are written.

    Returns:
        What was made. The weights keep their dtype.

    Raises:
        UsageError: an option is missing or contradicts the checkpoint, the model is none that transformers has, or the
            output exists.
        DataError: the checkpoint is damaged, incomplete or unsafe. Nothing that it names is run.
        UnavailableError: there is no such checkpoint, or no room for the result.

    Example:
        >>> from neuronbert import convert_megatron
        >>> convert_megatron("megatron_bert_345m_v0_1_cased.zip", "megatron-bert-cased/")  # doctest: +SKIP
    """
    source = Path(checkpoint)
    if not source.exists():
        raise MissingFileError(source)
    with staged(output, owned=lambda _: None, overwrite=False) as folder:
        place = _unpacked(source, folder / _UNPACKED)
        grid = ranks.find_ranks(place)
        file = vocabulary.find_vocabulary(Path(vocab) if vocab is not None else None, _places(place, grid, source))
        plan = plans.make(shards.read(grid), file, num_attention_heads)
        entries, config = plan.entries(), plan.config()
        need, free = writer.size_of(entries), shutil.disk_usage(folder).free
        if need > free:
            raise StorageError(output, f"it takes about {need} bytes and {free} are free")
        broken: list[str] = []
        writer.write(folder / WEIGHTS, entries, _noting(plan, broken), progress)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if plan.vocabulary is not None:
            plan.vocabulary.save_tokenizer(folder, lowercase=plan.lowercase, length=plan.sizes["positions"])
        shutil.rmtree(folder / _UNPACKED, ignore_errors=True)
    return Conversion(
        path=Path(output),
        class_name=plan.class_name,
        version=plan.shards.version,
        ranks=plan.shards.ranks,
        stages=plan.shards.stages,
        config=config,
        weights_bytes=need,
        tokenizer=plan.vocabulary is not None,
        notes=(*plan.notes, *_note_on(broken)),
    )


def _unpacked(source: Path, folder: Path) -> Path:
    if source.is_dir() or archive.is_torch_file(source):
        return source
    folder.mkdir()
    archive.unpack(source, folder)
    return folder


def _noting(plan: plans.Plan, broken: list[str]) -> Iterator[Tensor]:
    """The plan's tensors; the names of those that hold a NaN or an infinity are added to a list."""
    for (name, _, _), tensor in zip(plan.entries(), plan.tensors(), strict=True):
        # A part at a time: the check takes as much memory as what it looks at.
        if not all(torch.isfinite(part).all() for part in torch.split(tensor.reshape(-1), _LOOKED_AT)):
            broken.append(name)
        yield tensor


def _note_on(broken: list[str]) -> Iterator[str]:
    if broken:
        what = f"{len(broken)} of its weights hold NaN or infinity ({broken[0]})"
        yield f"{what}: they were taken as they are, and a model with them answers nothing but NaN."


def _places(place: Path, grid: ranks.Grid, source: Path) -> Iterator[Path]:
    """Where a vocabulary may lie: from the folder of the first file up to the checkpoint's own, then beside it."""
    if place.is_dir():
        yield from (parent for parent in grid[0, 0].parents if parent.is_relative_to(place))
    if source.is_file():
        yield source.parent
