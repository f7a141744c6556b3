"""Which files of a folder are a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronbert.errors import CheckpointCorruptError, MissingFileError, UnsupportedFeatureError
from neuronbert.megatron.ranks import find_ranks

FILE = "model_optim_rng.pt"


def make(root: Path, *names: str, tracker: str | None = None) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if tracker is not None:
        (root / "latest_checkpointed_iteration.txt").write_text(tracker)
    return root


def found(root: Path) -> dict[tuple[int, int], str]:
    return {place: str(path.relative_to(root)) for place, path in find_ranks(root).items()}


@pytest.mark.parametrize(
    ("tracker", "folder"),
    [("release", "release"), ("1000\n", "iter_0001000"), (" 12345678 ", "iter_12345678"), (None, "iter_0000005")],
)
def test_the_latest_checkpoint_of_a_run_is_found(tmp_path: Path, tracker: str | None, folder: str) -> None:
    make(tmp_path, f"{folder}/mp_rank_00/{FILE}", tracker=tracker)
    if tracker is not None:
        make(tmp_path, f"iter_0000001/mp_rank_00/{FILE}")
    assert found(tmp_path) == {(0, 0): f"{folder}/mp_rank_00/{FILE}"}


def test_ranks_and_stages_are_read_off_the_names(tmp_path: Path) -> None:
    names = [f"mp_rank_{rank:02d}_{stage:03d}/{FILE}" for rank in range(2) for stage in range(3)]
    make(tmp_path, *names, "mp_rank_00_000_000/optim.pt", "mp_rank_00_000_001/optim.pt")
    assert list(found(tmp_path)) == [(rank, stage) for rank in range(2) for stage in range(3)]


@pytest.mark.parametrize("name", [FILE, "model_rng.pt", f"deep/down/release/mp_rank_00/{FILE}"])
def test_a_single_file_is_found_wherever_it_lies(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    assert found(tmp_path) == {(0, 0): name}
    assert find_ranks(tmp_path / name) == {(0, 0): tmp_path / name}


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([f"mp_rank_00/{FILE}", f"mp_rank_02/{FILE}"], "mp_rank_01 "),
        ([f"mp_rank_01/{FILE}"], "mp_rank_00 "),
        ([f"mp_rank_00_000/{FILE}", f"mp_rank_00_001/{FILE}", f"mp_rank_01_000/{FILE}"], "mp_rank_01_001"),
    ],
)
def test_a_gap_among_the_shards_is_refused(tmp_path: Path, names: list[str], missing: str) -> None:
    with pytest.raises(CheckpointCorruptError, match=f"{missing}.*is missing|{missing}is missing"):
        find_ranks(make(tmp_path, *names))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorruptError, match=r"no mp_rank_00/model_optim_rng\.pt"):
        find_ranks(make(tmp_path, "notes.txt", "mp_rank_00/other.pt"))


def test_several_checkpoints_without_a_latest_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorruptError, match="2 checkpoints"):
        find_ranks(make(tmp_path, f"iter_0000001/mp_rank_00/{FILE}", f"iter_0000002/mp_rank_00/{FILE}"))


@pytest.mark.parametrize("tracker", ["", "../../etc", "iter_1", "-3", "1e3", "9" * 60])
def test_a_latest_checkpoint_that_is_no_number_is_refused(tmp_path: Path, tracker: str) -> None:
    with pytest.raises(CheckpointCorruptError, match="not an iteration or release"):
        find_ranks(make(tmp_path, tracker=tracker))


def test_a_latest_checkpoint_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="iter_0000007"):
        find_ranks(make(tmp_path, tracker="7"))


def test_the_form_of_torch_distributed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    make(tmp_path, "iter_0000007/.metadata", "iter_0000007/__0_0.distcp", "iter_0000007/common.pt", tracker="7")
    with pytest.raises(UnsupportedFeatureError, match="--ckpt-format torch"):
        find_ranks(tmp_path)
