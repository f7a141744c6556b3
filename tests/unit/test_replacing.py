"""Replacing: what may be, what stays, and that at any moment one of the two is there."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from neuronbert.artifact import MANIFEST, Artifact, staged
from neuronbert.errors import OutputExistsError, StorageError
from tests.unit.builders import FILES, OTHER, BlockError, content, names, reseal, start_python, write_artifact

KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from tests.unit.builders import write_artifact
calls, rename = [], Path.rename
def dying(path, target):
    calls.append(path)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = dying
write_artifact(Path(sys.argv[1]), overwrite=True, files={"model.neuron": b"new", "config.json": b"{}"})
"""


def kill_between_renames(output: Path) -> None:
    """Have a process die when the old artifact is set aside and the new one isn't in its place."""
    with start_python(KILLED_BETWEEN_RENAMES, output) as process:
        assert process.wait() == -signal.SIGKILL
    assert output.name not in names(output.parent)


@pytest.mark.parametrize("error", [BlockError, KeyboardInterrupt])
def test_a_failed_replacement_keeps_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    before = content(write_artifact(tmp_path / "out"))
    with pytest.raises(error), staged(tmp_path / "out", overwrite=True) as folder:  # noqa: PT012
        (folder / "model.neuron").write_bytes(b"half of it")
        raise error
    assert content(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_an_artifact_is_replaced_only_on_request(tmp_path: Path) -> None:
    before = content(write_artifact(tmp_path / "out"))
    with pytest.raises(OutputExistsError, match="--force"):
        write_artifact(tmp_path / "out", files=OTHER)
    assert content(tmp_path / "out") == before
    write_artifact(tmp_path / "out", files=OTHER, overwrite=True)
    assert (Artifact.open(tmp_path / "out").path / "model.neuron").read_bytes() == OTHER["model.neuron"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_artifact_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("folder", "file", "link"):
        with pytest.raises(OutputExistsError, match="never replaced"):
            write_artifact(tmp_path / name, overwrite=overwrite)
    assert content(tmp_path) == {"file": b"years of work", "folder/thesis.txt": b"years of work"}
    assert names(tmp_path) == ["file", "folder", "link"]


def test_what_appears_at_the_output_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), staged(tmp_path / "out", overwrite=True):  # noqa: PT012
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert content(tmp_path) == {"out/thesis.txt": b"years of work"}


@pytest.mark.parametrize("there", ["an artifact", "an empty folder", "nothing"])
def test_a_link_is_written_through(tmp_path: Path, there: str) -> None:
    real = tmp_path / "elsewhere" / "real"
    (tmp_path / "link").symlink_to("elsewhere/real")
    if there == "an artifact":
        write_artifact(real)
    elif there == "an empty folder":
        real.mkdir(parents=True)
    write_artifact(tmp_path / "link", files=OTHER, overwrite=True)
    assert (tmp_path / "link").readlink() == Path("elsewhere/real")
    assert content(real) == content(tmp_path / "link")
    assert (Artifact.open(real).path / "model.neuron").read_bytes() == OTHER["model.neuron"]
    assert (names(tmp_path), names(tmp_path / "elsewhere")) == (["elsewhere", "link"], ["real"])


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((OutputExistsError, StorageError)):
        write_artifact(tmp_path / "loop")
    assert names(tmp_path) == ["loop"]


def test_a_folder_that_was_linked_to_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    before = content(write_artifact(tmp_path / "real"))
    with pytest.raises(OutputExistsError), staged(tmp_path / "out"):
        (tmp_path / "out").symlink_to("real")
    assert content(tmp_path / "real") == before
    assert names(tmp_path) == ["out", "real"]


def test_replacing_keeps_what_is_not_the_artifacts_own(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", files={**FILES, "old.txt": b"of the old one"})
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("ref: main")
    (out / "sub" / "notes.txt").write_text("mine")
    (out / "run.sh").write_text("#!/bin/sh")
    (out / "run.sh").chmod(0o755)
    write_artifact(out, files=OTHER, overwrite=True)
    kept = {".git/HEAD": b"ref: main", "sub/notes.txt": b"mine", "run.sh": b"#!/bin/sh"}
    assert content(out).items() >= {**OTHER, **kept}.items()
    assert set(content(out)) == {*OTHER, *kept, MANIFEST}
    assert set(Artifact.open(out).manifest.files) == set(OTHER)
    assert (out / "run.sh").stat().st_mode & 0o777 == 0o755
    assert names(tmp_path) == ["out"]


def test_replacing_keeps_the_users_links_and_empty_folders(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "row.txt").write_text("mine")
    links = {"folder": "../data", "file": "../data/row.txt", "dangling": "../nowhere"}
    for name, place in links.items():
        (out / name).symlink_to(place)
    (out / ".git" / "refs").mkdir(parents=True)
    write_artifact(out, files=OTHER, overwrite=True)
    assert {name: str((out / name).readlink()) for name in links if (out / name).is_symlink()} == links
    assert (out / ".git" / "refs").is_dir()
    Artifact.open(out)


def test_a_file_of_the_users_gives_way_to_one_of_the_artifact(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    (out / "README.md").write_text("mine")
    write_artifact(out, files={**OTHER, "README.md": b"the card"}, overwrite=True)
    assert (out / "README.md").read_text() == "the card"
    Artifact.open(out)


@pytest.mark.parametrize(
    "damage",
    [lambda text: text.replace(b"fill-mask", b"fill-musk"), lambda text: reseal(text, format_version=2)],
    ids=["altered", "format"],
)
def test_an_artifact_that_can_not_be_read_any_more_can_be_replaced(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    out = write_artifact(tmp_path / "out")
    (out / MANIFEST).write_bytes(damage((out / MANIFEST).read_bytes()))
    (out / "notes.txt").write_text("mine")
    write_artifact(out, files=OTHER, overwrite=True)
    assert (Artifact.open(out).path / "model.neuron").read_bytes() == OTHER["model.neuron"]
    assert (out / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_an_interrupt_while_the_folders_are_exchanged_leaves_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int, done: bool
) -> None:
    before = content(write_artifact(tmp_path / "out"))
    calls: list[Path] = []
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) != turn:
            return rename(path, target)
        if done:
            rename(path, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(tmp_path / "out", files=OTHER, overwrite=True)
    monkeypatch.undo()
    assert len(calls) >= turn
    assert (content(tmp_path / "out") == before) is not (turn == 2 and done)
    assert Artifact.open(tmp_path / "out").manifest.task == "fill-mask"
    assert names(tmp_path) == ["out"]


def test_an_artifact_set_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    before = content(write_artifact(tmp_path / "out"))
    kill_between_renames(tmp_path / "out")
    with suppress(BlockError), staged(tmp_path / "out", overwrite=True):
        raise BlockError
    assert content(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


def test_an_artifact_that_is_set_aside_is_there_before_anything_is_made(tmp_path: Path) -> None:
    before = content(write_artifact(tmp_path / "out"))
    kill_between_renames(tmp_path / "out")
    reached: list[Path] = []
    with pytest.raises(OutputExistsError, match="--force"), staged(tmp_path / "out") as folder:
        reached.append(folder)
    assert reached == []
    assert content(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]
