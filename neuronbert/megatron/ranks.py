"""Which files of a folder are a checkpoint: one for each tensor-parallel rank and pipeline stage.

Owns: Megatron-LM's names of folders and files (get_checkpoint_name in its checkpointing.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from neuronbert.errors import CheckpointCorruptError, MissingFileError, UnsupportedFeatureError

Grid = dict[tuple[int, int], Path]
"""(tensor-parallel rank, pipeline stage) to its file."""
_FILES: Final = ("model_optim_rng.pt", "model_rng.pt")
_TRACKER: Final = "latest_checkpointed_iteration.txt"
_DEPTH: Final = 8
"""How many folders that hold only one are gone down."""
_RANK: Final = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?")
_ITERATION: Final = re.compile(r"iter_\d{7,}|release")


def find_ranks(path: Path) -> Grid:
    """The files of a checkpoint: a file itself; or those of a folder of ranks, of an iteration, or of a whole run.

    Raises:
        CheckpointCorruptError: there is none, a part of it is missing, or there are several.
        UnsupportedFeatureError: it is in the form of torch.distributed.
        MissingFileError: the run's latest checkpoint isn't there.
    """
    if path.is_file():
        return {(0, 0): path}
    folder = _find_folder(path)
    grid: Grid = {}
    for child in sorted(folder.iterdir()):
        match = _RANK.fullmatch(child.name)
        # What has a third number belongs to a data-parallel rank: it is of the optimizer.
        file = _file_in(child) if match else None
        if match and file:
            grid[int(match[1]), int(match[2] or 0)] = file
    single = _file_in(folder)
    if not grid and single:
        return {(0, 0): single}
    if not grid and (folder / ".metadata").is_file():
        reason = "only its form torch is read: save it again with Megatron's --ckpt-format torch"
        raise UnsupportedFeatureError("ckpt_format", "torch_dist", reason)
    if not grid:
        raise CheckpointCorruptError(path, "there is no mp_rank_00/model_optim_rng.pt in it")
    _refuse_gaps(grid, folder)
    return grid


def is_run(folder: Path) -> bool:
    """Whether a folder looks like one of Megatron-LM's."""
    names = [child.name for child in folder.iterdir()]
    return any(name in {_TRACKER, *_FILES} or _ITERATION.fullmatch(name) or _RANK.fullmatch(name) for name in names)


def _refuse_gaps(grid: Grid, folder: Path) -> None:
    ranks, stages = (max(place[axis] for place in grid) + 1 for axis in (0, 1))
    for rank in range(ranks):
        for stage in range(stages):
            if (rank, stage) not in grid:
                name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if stages > 1 else "")
                raise CheckpointCorruptError(folder, f"{name} is missing of {ranks} tensor x {stages} pipeline shards")


def _find_folder(path: Path) -> Path:
    """The folder of the ranks: one that a tracker names, or the only one there is to go down into."""
    folder = path
    for _ in range(_DEPTH):
        tracker = folder / _TRACKER
        if tracker.is_file():
            latest = folder / _latest(tracker)
            if not latest.is_dir():
                raise MissingFileError(latest)
            return latest
        children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
        found = [child for child in children if _ITERATION.fullmatch(child.name)]
        if len(found) > 1:
            raise CheckpointCorruptError(path, f"it has {len(found)} checkpoints and no {_TRACKER}; name one of them")
        inner = found or children
        if _file_in(folder) or len(inner) != 1 or _RANK.fullmatch(inner[0].name):
            break
        folder = inner[0]
    return folder


def _latest(tracker: Path) -> str:
    with tracker.open("rb") as file:
        text = file.read(64).decode("ascii", errors="replace").strip()
    if text == "release":
        return text
    if not re.fullmatch(r"\d{1,12}", text):
        raise CheckpointCorruptError(tracker, f"it says {text!r}, not an iteration or release")
    return f"iter_{int(text):07d}"


def _file_in(folder: Path) -> Path | None:
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    return None
