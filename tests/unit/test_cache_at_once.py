"""The compile cache with several at it: one compiles, nobody loses what it reads, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuronbert.cache import entry, job
from neuronbert.cache.entry import ALONE, AT_ONCE, SHARED, Entry, Record
from tests.unit.builders import BlockError, content, start_python
from tests.unit.jobs import Workplace, exports_of, make_job, write_checkpoint

WORK = """
import sys
from pathlib import Path
from tests.unit.jobs import Workplace, make_job
place, output = Path(sys.argv[1]), sys.argv[2]
work = Workplace(place)
whole = work.maker
def maker(job, folder):
    def make():
        print("compiling", flush=True)
        sys.stdin.readline()
        return whole(job, folder)()
    return make
work.maker = maker
work.told = type("", (), {"append": lambda self, text: print(text, flush=True)})()
work.export(make_job(place / "checkpoint"), output)
print("done", flush=True)
"""


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    write_checkpoint(tmp_path / "checkpoint")
    return Workplace(tmp_path)


@pytest.fixture
def asked(work: Workplace) -> job.Job:
    return make_job(work.folder / "checkpoint")


@pytest.mark.parametrize("error", [BlockError(), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_whatever_ends_a_compilation_leaves_nothing_behind(
    work: Workplace, asked: job.Job, error: BaseException
) -> None:
    def make() -> entry.Build:
        raise error

    folder = work.folder / "out"
    folder.mkdir()
    with pytest.raises(type(error)):
        work.cache.obtain(asked, folder, make, work.told.append)
    assert list(work.cache.folder.rglob("*")) == []
    work.export(asked, "again")
    assert work.compiled == 1


def test_what_interrupts_the_keeping_leaves_nothing_behind(
    work: Workplace, asked: job.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Record) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "dump", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work.export(asked)
    assert list(work.cache.folder.rglob("*")) == []


def test_of_two_that_ask_for_the_same_one_compiles_and_the_other_waits(work: Workplace) -> None:
    with start_python(WORK, work.folder, "one") as first, start_python(WORK, work.folder, "two") as second:
        assert first.stdout is not None
        assert second.stdout is not None
        said = {first: "", second: ""}
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "looking into the cache\n"
            said[process] = process.stdout.readline().strip()
        assert sorted(said.values()) == ["compiling", "waiting for another export of the same program"]
        compiling, waiting = sorted(said, key=lambda process: said[process])
        assert compiling.communicate("\n")[0].endswith("done\n")
        assert waiting.communicate()[0] == "done\n"
    assert content(work.folder / "one") == content(work.folder / "two")
    assert len(work.cache.entries()) == 1


def test_a_killed_process_lets_the_one_that_waits_go_on(work: Workplace, asked: job.Job) -> None:
    with start_python(WORK, work.folder, "one") as first:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(2)][1] == "compiling\n"
        with start_python(WORK, work.folder, "two") as second:
            assert second.stdout is not None
            assert "waiting" in [second.stdout.readline() for _ in range(2)][1]
            os.kill(first.pid, signal.SIGKILL)
            assert second.communicate("\n")[0] == "compiling\ndone\n"
    work.export(asked, "three")
    assert work.compiled == 0


def test_what_a_killed_process_left_goes_with_the_next_entry(work: Workplace, asked: job.Job) -> None:
    left = Entry(work.cache.folder / ("a" * 16) / ("b" * 64))
    left.lock(ALONE).close()
    (left.path / "files").mkdir()
    (left.path / "files" / "model.neuron").write_bytes(b"half of it")
    busy = Entry(work.cache.folder / ("c" * 16) / ("d" * 64))
    with busy.lock(ALONE):
        work.export(asked)
        assert not left.path.parent.exists()
        assert busy.path.exists()


def test_threads_that_ask_for_the_same_compile_it_once(work: Workplace, asked: job.Job) -> None:
    with ThreadPoolExecutor(6) as threads:
        outputs = list(threads.map(lambda number: work.export(asked, f"out{number}"), range(6)))
    assert work.compiled == 1
    assert len({str(content(output)) for output in outputs}) == 1


def test_exports_and_removals_at_once_serve_whole_programs_or_compile(work: Workplace, asked: job.Job) -> None:
    whole = content(work.export(asked, "first"))

    def export(name: str) -> None:
        for number in range(15):
            assert content(work.export(asked, f"{name}{number}")) == whole

    def remove() -> None:
        while not all(exporting.done() for exporting in exports):
            for found in work.cache.entries():
                work.cache.remove(found)

    with ThreadPoolExecutor(4) as threads:
        exports = [threads.submit(export, name) for name in "abc"]
        for running in (threads.submit(remove), *exports):
            running.result()
    for found in work.cache.entries():
        work.cache.remove(found)
    assert list(work.cache.folder.rglob("*")) == []


def test_an_entry_that_is_read_is_not_taken_away(tmp_path: Path) -> None:
    work = Workplace(tmp_path, limit=20_000)
    (read,) = exports_of(work, 1)
    with read.lock(SHARED):
        write_checkpoint(tmp_path / "more", weight=7.0)
        work.export(make_job(tmp_path / "more"), "more-out", size=10_000)
        assert read.exists
        read.fetch()
        taken = threading.Thread(target=work.cache.remove, args=(read,))
        taken.start()
        taken.join(0.1)
        assert read.exists
    taken.join()
    assert not read.path.exists()


def test_who_has_waited_for_an_entry_that_is_gone_gets_a_new_one(tmp_path: Path) -> None:
    place = Entry(tmp_path / "shelf" / "key")
    got: list[bool] = []

    def wait() -> None:
        with place.lock(ALONE) as held:
            got.append(os.path.samestat(os.fstat(held.fileno()), (place.path / "lock").stat()))

    with place.lock(ALONE):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.1)
        place.clear()
    waiting.join()
    assert got == [True]


def test_readers_share_and_a_writer_is_alone(tmp_path: Path) -> None:
    place = Entry(tmp_path / "shelf" / "key")
    with pytest.raises(FileNotFoundError):
        place.lock(SHARED)
    place.lock(ALONE).close()
    with place.lock(SHARED), place.lock(SHARED | AT_ONCE), pytest.raises(BlockingIOError):
        place.lock(ALONE | AT_ONCE)
    with place.lock(ALONE), pytest.raises(BlockingIOError):
        place.lock(SHARED | AT_ONCE)
