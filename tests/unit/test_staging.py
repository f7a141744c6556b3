"""Writing: whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from neuronbert import staging
from neuronbert.artifact import Artifact, staged
from neuronbert.errors import NeuronBertError, StorageError
from tests.unit.builders import FILES, OTHER, BlockError, content, names, run_python, start_python, write_artifact

BLOCKED = """
import sys
from neuronbert.artifact import staged
with staged(sys.argv[1], overwrite=True) as folder:
    (folder / "model.neuron").write_bytes(b"half of it")
    print(folder, flush=True)
    sys.stdin.readline()
"""

DISK_FULL = """
import resource, sys
from neuronbert.artifact import staged
from neuronbert.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with staged(sys.argv[1]) as folder:
        (folder / "model.neuron").write_bytes(bytes(100_000))
except StorageError as error:
    print(error)
"""


def leftover(folder: Path, name: str) -> Path:
    """A hidden folder of a dead process that wrote an output of this name."""
    left = folder / f"{staging._prefix(folder / name)}x1"
    left.mkdir()
    (left / "model.neuron").write_bytes(b"half of it")
    return left


@contextmanager
def a_process_inside_the_block(output: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    with start_python(BLOCKED, output) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.mark.parametrize(
    "error", [BlockError(), KeyboardInterrupt(), SystemExit(1), GeneratorExit(), NeuronBertError("it ends")], ids=repr
)
def test_whatever_ends_the_block_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), staged(tmp_path / "out") as folder:  # noqa: PT012  the block is what is tested
        (folder / "model.neuron").write_bytes(b"half of it")
        raise error
    assert names(tmp_path) == []


def test_nothing_lies_at_the_output_until_the_block_has_ended(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert content(tmp_path / "out") == {"file": b"x"}


def test_missing_parents_are_made(tmp_path: Path) -> None:
    Artifact.open(write_artifact(tmp_path / "a" / "b" / "out"))


def test_parents_that_were_made_go_as_well(tmp_path: Path) -> None:
    with suppress(BlockError), staged(tmp_path / "a" / "b" / "out"):
        raise BlockError
    assert names(tmp_path) == []


def test_an_empty_folder_may_be_there_already(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    Artifact.open(write_artifact(tmp_path / "out"))


def test_the_folder_gets_the_permissions_that_the_user_asks_for(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_artifact(tmp_path / "out")
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


def test_the_umask_is_not_touched_for_every_thread_shares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(os, "umask", lambda mask: set_to.append(mask) or 0o022)
    write_artifact(tmp_path / "out")
    assert set_to == []


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    before = content(write_artifact(tmp_path / "out"))
    with a_process_inside_the_block(tmp_path / "out") as (process, folder):
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert folder.is_dir()
    assert content(tmp_path / "out") == before
    write_artifact(tmp_path / "out", files=OTHER, overwrite=True)
    assert names(tmp_path) == ["out"]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    with a_process_inside_the_block(tmp_path / "out") as (process, folder):
        write_artifact(tmp_path / "out")
        assert content(folder) == {"model.neuron": b"half of it"}
        process.communicate("\n")
        assert process.returncode == 0
    assert content(tmp_path / "out") == {"model.neuron": b"half of it"}
    assert names(tmp_path) == ["out"]


def test_the_leftovers_of_another_output_are_not_touched(tmp_path: Path) -> None:
    left = leftover(tmp_path, "other")
    write_artifact(tmp_path / "out")
    assert names(tmp_path) == [left.name, "out"]


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with space",
        "-dash",
        "naïve",
        "a[1]",
        "**",
        "a" * 255,
        "\udcff",
    ],
    ids=["plain", "space", "dash", "umlaut", "set", "stars", "longest", "no text"],
)
def test_leftovers_are_found_whatever_the_output_is_called(tmp_path: Path, name: str) -> None:
    leftover(tmp_path, name)
    write_artifact(tmp_path / name)
    assert names(tmp_path) == [name]


def test_a_place_that_can_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="can't be written: Not a directory"):
        write_artifact(tmp_path / "file" / "sub" / "out")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_parent_that_may_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            write_artifact(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_a_storage_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    said = run_python(DISK_FULL, tmp_path / "out")
    assert said.startswith(f"{tmp_path / 'out'} can't be written: File too large. Choose another place")
    assert names(tmp_path) == []


def test_a_missing_file_of_the_blocks_own_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged(tmp_path / "out"):
        (tmp_path / "checkpoint" / "vocab.txt").read_bytes()


@pytest.mark.parametrize(
    ("code", "place", "expected"),
    [
        (errno.EACCES, "/elsewhere/vocab.txt", PermissionError),
        (errno.EACCES, "model.neuron", StorageError),
        (errno.ENOSPC, None, StorageError),
        (errno.ECONNRESET, None, ConnectionResetError),
    ],
)
def test_an_error_is_a_storage_error_only_if_it_is_about_the_output(
    tmp_path: Path, code: int, place: str | None, expected: type[Exception]
) -> None:
    with pytest.raises(expected), staged(tmp_path / "out") as folder:
        raise OSError(code, os.strerror(code), *([] if place is None else [str(folder / place)]))
    assert names(tmp_path) == []


def test_of_two_processes_that_write_the_same_output_one_wins_whole(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.builders import FILES, write_artifact\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "write_artifact(Path(sys.argv[1]), files={**FILES, 'model.neuron': sys.argv[2].encode() * 50_000})"
    )
    processes = [start_python(code, tmp_path / "out", letter) for letter in "ab"]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    for process in processes:
        with process:
            process.wait()
    assert (Artifact.open(tmp_path / "out").path / "model.neuron").read_bytes() in (b"a" * 50_000, b"b" * 50_000)
    assert names(tmp_path) == ["out"]


def test_threads_that_replace_the_same_output_do_not_disturb_each_other(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def replace(content: bytes) -> None:
        for _ in range(40):
            try:
                write_artifact(tmp_path / "out", overwrite=True, files={**FILES, "model.neuron": content})
            except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
                errors.append(error)

    threads = [threading.Thread(target=replace, args=(letter * 10,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set((Artifact.open(tmp_path / "out").path / "model.neuron").read_bytes())) == 1
    assert names(tmp_path) == ["out"]
    assert errors == []
