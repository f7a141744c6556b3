"""The compile cache: the right program or none, whoever else is at it, and whatever was done to its folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import provenance
from neuronbert.cache import entry, job, store
from neuronbert.cache.entry import RECORD, DamagedEntryError, Entry, Record
from neuronbert.cache.store import Cache
from neuronbert.errors import CheckpointCorruptError, InvalidOptionError, NoEntryError
from tests.unit.builders import content, names, run_python
from tests.unit.jobs import Workplace, compile_into, exports_of, make_job, same_stat, write_checkpoint

DISK_FULL = """
import logging, resource, sys
from pathlib import Path
from tests.unit.jobs import Workplace, make_job
logging.basicConfig(stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
place = Path(sys.argv[1])
work = Workplace(place)
original = __import__("shutil").copyfile
def copyfile(source, destination):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 100_000))
    return original(source, destination)
__import__("shutil").copyfile = copyfile
work.export(make_job(place / "checkpoint"), size=50_000)
print(work.compiled)
"""


FULL_OUTPUT = """
import logging, resource, sys
from pathlib import Path
from neuronbert.errors import StorageError
from tests.unit.jobs import Workplace, make_job
logging.basicConfig(stream=sys.stdout, format="%(message)s")
place = Path(sys.argv[1])
work = Workplace(place)
work.export(make_job(place / "checkpoint"), size=50_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    work.export(make_job(place / "checkpoint"), "again")
except StorageError as error:
    print(error)
print(work.compiled)
"""


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    write_checkpoint(tmp_path / "checkpoint")
    return Workplace(tmp_path)


@pytest.fixture
def asked(work: Workplace) -> job.Job:
    return make_job(work.folder / "checkpoint")


def only(work: Workplace) -> Entry:
    (found,) = work.cache.entries()
    return found


def flip(path: Path, at: int = -1) -> None:
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)


def test_the_same_again_is_a_copy(work: Workplace, asked: job.Job) -> None:
    first, made = work.export(asked), work.build
    second = work.export(asked, "again")
    assert work.compiled == 1
    assert content(first) == content(second)
    assert work.build == made
    assert not (first / "model.neuron").samefile(second / "model.neuron")
    assert not (only(work).path / "files" / "model.neuron").samefile(second / "model.neuron")


def test_a_copy_warns_of_what_was_warned_of(work: Workplace, asked: job.Job, caplog: pytest.LogCaptureFixture) -> None:
    work.export(asked)
    assert caplog.messages == []
    work.export(asked, "again")
    assert caplog.messages == ["the checkpoint has no pooler"]


def test_another_name_for_the_same_checkpoint_is_a_copy(work: Workplace, asked: job.Job) -> None:
    work.export(asked)
    write_checkpoint(work.folder / "moved", _name_or_path="me/moved", transformers_version="5.99")
    work.export(make_job(work.folder / "moved"), "again")
    assert work.compiled == 1


def test_a_retrained_checkpoint_of_the_same_name_size_and_time_is_compiled(work: Workplace, asked: job.Job) -> None:
    work.export(asked)
    weights = asked.checkpoint.weight_files[0]
    same_stat(weights, lambda: flip(weights))
    again = work.export(make_job(work.folder / "checkpoint"), "again")
    assert work.compiled == 2
    assert (again / "model.neuron").read_text().startswith(asked.checkpoint.weights_sha256())
    assert len(work.cache.entries()) == 2
    same_stat(weights, lambda: flip(weights))
    assert content(work.export(asked, "back")) == content(work.folder / "out")
    assert work.compiled == 2


def test_the_key_is_made_without_torch(work: Workplace) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.jobs import Workplace, make_job\n"
        "work = Workplace(Path(sys.argv[1])); work.export(make_job(work.folder / 'checkpoint'))\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert run_python(code, work.folder) == "False False\n"


def test_random_weights_are_not_kept(work: Workplace, asked: job.Job) -> None:
    work.export(asked, random_weights=("head.weight",))
    assert work.cache.entries() == []
    assert list(work.cache.folder.rglob("*")) == []
    work.export(asked, "again")
    assert work.compiled == 2


def test_who_asks_for_the_compilers_files_gets_it_run(work: Workplace, asked: job.Job) -> None:
    work.export(asked)
    work.export(make_job(asked.checkpoint.path, compiler_workdir="files"), "again")
    assert work.compiled == 2


def test_without_a_limit_above_zero_there_is_no_cache(tmp_path: Path) -> None:
    work = Workplace(tmp_path, limit=0)
    work.export(make_job(write_checkpoint(tmp_path / "checkpoint")))
    assert names(tmp_path) == ["checkpoint", "out"]


def test_a_checkpoint_that_is_replaced_meanwhile_is_refused(work: Workplace, asked: job.Job) -> None:
    def replaced(weight: float, **settings: Any) -> None:
        folder = work.folder / f"out{weight}{len(settings)}"
        folder.mkdir()

        def make() -> entry.Build:
            write_checkpoint(asked.checkpoint.path, weight=weight, **settings)
            return work.maker(asked, folder)()

        with pytest.raises(CheckpointCorruptError, match="changed while it was exported"):
            work.cache.obtain(make_job(asked.checkpoint.path), folder, make, work.told.append)
        assert list(work.cache.folder.rglob("*")) == []

    replaced(2.0)
    replaced(2.0, hidden_act="relu")


# What was done to the folder.


DAMAGES = {
    "a flipped bit of the program": lambda place: flip(place / "files" / "model.neuron"),
    "a flipped bit of another file": lambda place: flip(place / "files" / "more" / "table.bin"),
    "a truncated program": lambda place: os.truncate(place / "files" / "model.neuron", 10),
    "a missing program": lambda place: (place / "files" / "model.neuron").unlink(),
    "a link in place of the program": lambda place: (
        (place / "files" / "model.neuron").rename(place / "files" / "away"),
        (place / "files" / "model.neuron").symlink_to("away"),
    ),
    "a pipe in place of the program": lambda place: (
        (place / "files" / "model.neuron").unlink(),
        os.mkfifo(place / "files" / "model.neuron"),
    ),
    "a flipped bit of the record": lambda place: flip(place / RECORD, 400),
    "an empty record": lambda place: (place / RECORD).write_bytes(b""),
    "a record of another form": lambda place: (place / RECORD).write_text('{"record": {"a": 1}, "sha256": ""}'),
    "a record that is a list": lambda place: (place / RECORD).write_text("[1]"),
    "a record as deep as it goes": lambda place: (place / RECORD).write_text("[" * 100_000),
    "a record without end": lambda place: os.truncate(place / RECORD, 1 << 42),
    "a record of another entry": lambda place: rewrite(place, origin={"weights": "others"}),
    "a path out of the folder": lambda place: rename_file(place, "../../../escaped"),
    "an absolute path": lambda place: rename_file(place, "/tmp/escaped"),
}


def rewrite(place: Path, **changes: Any) -> None:
    """Another record, under a digest that is right: what an attacker can make."""
    body = {**json.loads((place / RECORD).read_bytes())["record"], **changes}
    (place / RECORD).write_bytes(provenance.canonical({"record": body, "sha256": provenance.digest(body)}))


def rename_file(place: Path, name: str) -> None:
    build = json.loads((place / RECORD).read_bytes())["record"]["build"]
    build["files"][name] = build["files"].pop("model.neuron")
    rewrite(place, build=build)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_never_served(
    work: Workplace, asked: job.Job, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = content(work.export(asked))
    DAMAGES[damage](only(work).path)
    assert list(work.cache.verify()) == [only(work)]
    assert content(work.export(asked, "again")) == whole
    assert work.compiled == 2
    assert "compiling anew: the cached program" in caplog.text
    assert work.cache.verify() == {}
    assert content(work.export(asked, "third")) == whole
    assert work.compiled == 2
    assert not (work.folder / "escaped").exists()


@given(at=st.integers(min_value=0))
def test_no_flipped_bit_of_a_record_is_taken(at: int) -> None:
    record = Record.model_construct(model="m", task="t", target="cpu", origin={"a": 1}, build=None)
    whole = record.model_copy(update={"build": BUILD}).dump()
    changed = bytearray(whole)
    changed[at % len(whole)] ^= 1
    with pytest.raises(DamagedEntryError):
        Record.parse(bytes(changed))
    assert Record.parse(whole).build == BUILD


def _some_build() -> entry.Build:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        asked = make_job(write_checkpoint(place / "checkpoint"))
        (place / "out").mkdir()
        return compile_into(asked, place / "out")


BUILD = _some_build()


# A folder that can't be used.


def test_a_cache_that_can_not_be_made_is_a_note(
    work: Workplace, asked: job.Job, caplog: pytest.LogCaptureFixture
) -> None:
    work.cache.folder.write_text("a file")
    work.export(asked)
    assert work.compiled == 1
    assert f"going on without the cache: {work.cache.folder} can't be used" in caplog.text


@pytest.mark.parametrize("folder", ["/proc/neuronbert", "/dev/null/cache", "x" * 5000])
def test_no_place_of_a_cache_fails_an_export(
    work: Workplace, asked: job.Job, caplog: pytest.LogCaptureFixture, folder: str
) -> None:
    work.cache = Cache(Path(folder), 1 << 30)
    work.export(asked)
    assert work.compiled == 1
    assert "going on without the cache" in caplog.text


def test_a_full_disk_is_a_note_and_leaves_nothing_behind(work: Workplace) -> None:
    said = run_python(DISK_FULL, work.folder)
    assert f"the programs are not kept: {work.cache.folder} can't be written ([Errno 27]" in said
    assert said.endswith("\n1\n")
    assert list(work.cache.folder.rglob("*")) == []
    assert (work.folder / "out" / "model.neuron").stat().st_size > 50_000


def test_an_output_that_takes_no_copy_is_not_the_entrys_fault(work: Workplace) -> None:
    said = run_python(FULL_OUTPUT, work.folder)
    assert said == f"{work.folder} can't be written: File too large. Choose another place, or make room.\n1\n"
    assert work.cache.verify() == {}
    assert len(work.cache.entries()) == 1
    assert list((work.folder / "again").iterdir()) == []


def test_what_is_there_is_served_from_a_cache_that_can_not_be_written(
    work: Workplace, asked: job.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(work.export(asked))
    write_checkpoint(work.folder / "other", weight=2.0)
    work.export(make_job(work.folder / "other"), "other-out")
    opened = os.open

    def read_only(path: Any, flags: int, *rest: int, **named: Any) -> int:
        if Path(path).is_relative_to(work.cache.folder) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *rest, **named)

    def refused(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", refused)
    assert content(work.export(asked, "again")) == whole
    assert work.compiled == 2


# The bound.


def test_what_was_not_used_longest_goes_first(tmp_path: Path) -> None:
    work = Workplace(tmp_path, limit=40_000)
    oldest, older, new = exports_of(work, 3)
    work.export(make_job(tmp_path / "checkpoint0"), "again")
    assert work.compiled == 3
    write_checkpoint(tmp_path / "more", weight=7.0)
    work.export(make_job(tmp_path / "more"), "more-out", size=10_000)
    left = work.cache.entries()
    assert older not in left
    assert {oldest, new} <= set(left)
    assert sum(found.size for found in left) <= 40_000


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = Workplace(tmp_path, limit=20_000)
    kept = exports_of(work, 1)
    write_checkpoint(tmp_path / "large", weight=7.0)
    work.export(make_job(tmp_path / "large"), "large-out", size=30_000)
    assert work.cache.entries() == kept
    assert "the programs are not kept: they take 30" in caplog.text


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    work = Workplace(tmp_path, limit=20_000)
    mine = work.cache.folder / "notes" / ("a" * 64)
    mine.mkdir(parents=True)
    (mine / RECORD).write_text("mine")
    (work.cache.folder / "thesis.txt").write_text("mine")
    exports_of(work, 3)
    for found in work.cache.entries():
        work.cache.remove(found)
    assert content(work.cache.folder) == {"thesis.txt": b"mine", f"notes/{'a' * 64}/{RECORD}": b"mine"}


# Settings.


@pytest.mark.parametrize(
    ("text", "size"),
    [("", store.DEFAULT_LIMIT), ("0", 0), ("1000", 1000), ("20GiB", 20 << 30), ("1.5 G", 3 << 29), ("5mb", 5 << 20)],
)
def test_a_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv(store.LIMIT_VARIABLE, text)
    assert Cache().limit == size


@pytest.mark.parametrize("text", ["much", "-1", "1X", "1e9", "inf", "1 2", "\u0661GB", "9" * 400])
def test_what_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(store.LIMIT_VARIABLE, text)
    with pytest.raises(InvalidOptionError, match=store.LIMIT_VARIABLE):
        Cache()


def test_the_folder_is_the_one_that_the_user_names_or_the_desktops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for variables, folder in (
        ({"NEURONBERT_CACHE_DIR": "/here", "XDG_CACHE_HOME": "/there"}, "/here"),
        ({"XDG_CACHE_HOME": "/there"}, "/there/neuronbert"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/neuronbert"),  # the specification: to be ignored
        ({}, "/home/me/.cache/neuronbert"),
    ):
        for name in ("NEURONBERT_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert Cache().folder == Path(folder)


def test_a_key_may_be_shortened_while_it_tells_one_entry(work: Workplace) -> None:
    first, second = exports_of(work, 2)
    shared = next(count for count in range(64) if first.key[count] != second.key[count])
    assert work.cache.find(first.key[: shared + 1]) == first
    for key in (first.key[:shared], "x"):
        with pytest.raises(NoEntryError):
            work.cache.find(key)


def test_a_note_is_a_warning_so_that_the_command_line_shows_it(
    work: Workplace, asked: job.Job, caplog: pytest.LogCaptureFixture
) -> None:
    work.cache.folder.write_text("a file")
    work.export(asked)
    assert [(record.name, record.levelno) for record in caplog.records] == [("neuronbert", logging.WARNING)]
