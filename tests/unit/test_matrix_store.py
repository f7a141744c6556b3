from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuronbert import provenance
from neuronbert.errors import InvalidOptionError, StorageError
from neuronbert.matrix import runner, store
from neuronbert.matrix.messages import ANSWER, Probe, Status
from neuronbert.matrix.process import Ended
from neuronbert.matrix.results import Result
from neuronbert.matrix.session import Session, _CellWork
from neuronbert.matrix.settings import Listener, Settings
from neuronbert.matrix.sources import Source
from neuronbert.matrix.store import Store
from tests.unit.builders import names
from tests.unit.matrix_builders import HOSTILE, make_cell, make_outcome, make_result


def test_a_result_is_found_again_by_its_cell(tmp_path: Path) -> None:
    result = make_result(key="k")
    with Store(tmp_path / "deep" / "out") as place:
        assert place.find(result.cell) is None
        place.keep(result, "log")
        assert place.find(result.cell) == result
        assert place.find(make_cell(model="n")) is None
    with Store(tmp_path / "deep" / "out") as place:
        assert place.find(result.cell) == result


def test_two_cells_whose_names_read_alike_are_kept_apart(tmp_path: Path) -> None:
    with Store(tmp_path / "out") as place:
        cells = [make_cell(model=model) for model in ("a b", "a/b", "a-b", "../a", "x" * 4000, "x" * 4001, HOSTILE)]
        for number, cell in enumerate(cells):
            place.keep(make_result("failed", cell=cell, key=str(number)), "log")
        assert [found.key for cell in cells if (found := place.find(cell))] == list("0123456")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["cells"]


def test_a_log_is_kept_of_what_failed_and_goes_when_it_passes(tmp_path: Path) -> None:
    with Store(tmp_path / "out") as place:
        place.keep(make_result("failed"), "what it printed")
        (log,) = (tmp_path / "out" / "cells").glob("*.log")
        assert log.read_text() == "what it printed"
        place.keep(make_result("passed"), "what it printed")
        assert not log.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 9000, b'{"cell": 1}'], ids=repr)
def test_what_was_damaged_does_not_count(tmp_path: Path, content: bytes) -> None:
    with Store(tmp_path / "out") as place:
        place.keep(make_result(), "")
        (file,) = (tmp_path / "out" / "cells").iterdir()
        file.write_bytes(content)
        assert place.find(make_cell()) is None


def test_two_runs_never_share_a_folder_and_what_was_abandoned_goes(tmp_path: Path) -> None:
    with Store(tmp_path / "out") as place:
        (place.scratch() / "half").write_text("x")
        with pytest.raises(InvalidOptionError, match="no other run is writing to"):
            Store(tmp_path / "out")
        assert (tmp_path / "out" / "work").is_dir(), "the other run's work is left alone"
    assert names(tmp_path / "out") == ["cells"]
    (tmp_path / "out" / "work").mkdir()
    with Store(tmp_path / "out"):
        assert names(tmp_path / "out") == ["cells"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidOptionError, match="it must be a new folder"):
        Store(tmp_path)
    assert names(tmp_path) == ["notes.txt"]
    with pytest.raises(StorageError):
        Store(tmp_path / "notes.txt")


def test_a_report_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "out") as place:
        place.write("report.md", "old")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            place.write("report.md", "new")
        assert (tmp_path / "out" / "report.md").read_text() == "old"
        assert names(tmp_path / "out") == ["cells", "report.md"]


def test_a_key_changes_with_everything_that_decides_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    here = store.environment()
    keys = [
        store.key(make_cell(), "s", here),
        store.key(make_cell(shape="1x8"), "s", here),
        store.key(make_cell(config={"hidden_size": 1}), "s", here),
        store.key(make_cell(), "other weights", here),
    ]
    assert store.key(make_cell(), "s", store.environment()) == keys[0]
    for name in ("NEURON_RT_LOG_LEVEL", "TORCH_NEURONX_DEBUG_DIR"):
        monkeypatch.setenv(name, "INFO")
        assert store.environment() == here
    for name in ("NEURON_CC_FLAGS", "XLA_FLAGS", *provenance.RUNNING):
        monkeypatch.setenv(name, "1")
        keys.append(store.key(make_cell(), "s", store.environment()))
    monkeypatch.setattr(provenance, "version", lambda name: "0.0")
    keys.append(store.key(make_cell(), "s", store.environment()))
    monkeypatch.setattr(provenance, "code", lambda: "other")
    keys.append(store.key(make_cell(), "s", store.environment()))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        ((), ["passed", "compiled", "skipped"]),
        (("inf2",), ["passed", "compiled", "failed"]),
        (("cpu", "cpu:run"), ["passed", "compiled", "skipped"]),
        (("trn1",), ["passed", "compiled", "skipped"]),
        (("trn1:run",), ["passed", "failed", "skipped"]),
        (("inf2:run",), ["passed", "compiled", "failed"]),
        (("all",), ["passed", "compiled", "failed"]),
        (("all:run",), ["passed", "failed", "failed"]),
    ],
    ids=str,
)
def test_what_is_required_of_a_target(require: tuple[str, ...], expected: list[Status]) -> None:
    results = [
        make_result("passed"),
        make_result("compiled", cell=make_cell(target="trn1"), outcome=make_outcome("compiled", reason="no device")),
        make_result("skipped", cell=make_cell(target="inf2"), outcome=make_outcome("skipped", reason="no compiler")),
    ]
    found: list[Result] = [runner._hold_to(require, result) for result in results]
    assert [result.status for result in found] == expected
    for result, held in zip(results, found, strict=True):
        if held != result:
            assert held.outcome.reason == f"{result.cell.target} is required here, but {result.outcome.reason}"


@pytest.mark.parametrize(
    ("runtime", "status", "expected"),
    [
        ("", "passed", "passed"),
        ("", "skipped", "failed"),
        ("", "compiled", "failed"),
        ("no device", "skipped", "failed"),
        ("no device", "compiled", "compiled"),
    ],
)
def test_a_cell_does_without_nothing_that_the_probe_found(
    tmp_path: Path, runtime: str, status: Status, expected: Status
) -> None:
    class Answered:
        def log(self) -> str:
            return ""

    cell = make_cell(target="inf2")
    told: list[Result] = []
    with Store(tmp_path / "out") as place:
        listener = Listener(progress=lambda _: None, finished=lambda result, done, total: told.append(result))
        session = Session(place, Settings(), listener, (cell,))
        work = _CellWork(session, cell, Probe(runtime=runtime), Source(None, "", {}, 1000), "k")
        work._scratch = place.scratch()
        (work._scratch / ANSWER).write_text(make_outcome(status).model_dump_json())
        work.finish(Answered(), Ended(0, 1.0, 0))  # type: ignore[arg-type]
        assert [result.status for result in told] == [expected]
        assert place.find(cell) == told[0]


@pytest.mark.parametrize("whole", [False, True], ids=["log", "folder"])
def test_what_a_compiler_left_stays_until_the_cell_passes(tmp_path: Path, whole: bool) -> None:
    cell = make_cell()
    with Store(tmp_path / "out") as place:
        for text in ("first", "second"):
            files = place.scratch() / "compiler"
            files.mkdir()
            (files / "log.txt").write_text(text)
            kept = place.rescue(cell, files if whole else files / "log.txt")
            place.keep(make_result("failed", outcome=make_outcome("failed", log=str(kept))), "")
        place.discard(files.parent)
        assert (kept / "log.txt" if whole else kept).read_text() == "second"
        place.keep(make_result("passed"), "")
        assert not list((tmp_path / "out" / "cells").glob("*.compiler"))


def test_a_target_that_the_matrix_does_not_have_cannot_be_required() -> None:
    runner._check_required(("all", "all:run", "cpu:run"), [make_cell()])
    for name in ("inf2", "cpu:walk", ""):
        with pytest.raises(InvalidOptionError, match=r"all, or a target of this matrix \(cpu\)"):
            runner._check_required((name,), [make_cell()])


def test_cells_are_chosen_by_id_or_pattern() -> None:
    cells = (make_cell(model="a[1]"), make_cell(model="b"), make_cell(model="b", target="inf2"))
    assert runner._choose(cells, ()) == cells
    assert runner._choose(cells, (cells[0].id,)) == cells[:1]
    assert runner._choose(cells, ("b/*/cpu/*", "*/inf2/*")) == cells[1:]
    with pytest.raises(InvalidOptionError, match="the id of a cell or a pattern"):
        runner._choose(cells, ("b/*", "nobody"))


@pytest.mark.parametrize(
    ("kept", "runtime", "fresh", "key", "again"),
    [
        ("passed", "", False, "", False),
        ("passed", "", True, "", True),
        ("passed", "", False, "other", True),
        ("failed", "", False, "", True),
        ("compiled", "no device", False, "", False),
        ("compiled", "", False, "", True),
    ],
)
def test_what_an_earlier_run_left_counts_only_if_nothing_could_be_otherwise_now(
    tmp_path: Path, kept: Status, runtime: str, fresh: bool, key: str, again: bool
) -> None:
    cell = make_cell(target="trn1")
    told: list[Result] = []
    with Store(tmp_path / "out") as place:
        place.keep(make_result(kept, cell=cell, key=key or "k"), "")
        listener = Listener(progress=lambda _: None, finished=lambda result, done, total: told.append(result))
        session = Session(place, Settings(fresh=fresh), listener, (cell,))
        work = _CellWork(session, cell, Probe(runtime=runtime), Source(None, "", {}, 1000), "k")
        assert work.settle() == (not again)
        assert [result.kept for result in told] == ([] if again else [True])
        assert work.need() < 8 << 30, "what it took then is known"
