"""Rows of a dataset: each is in one stretch, and read from there; those that can't be used are named."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuronbert.dataset import parts, source
from neuronbert.dataset.files import Contents
from neuronbert.dataset.parts import Job, Output
from neuronbert.dataset.source import Columns, Source
from neuronbert.errors import (
    BadRowsError,
    DataFileError,
    DatasetBusyError,
    DatasetChangedError,
    DatasetExistsError,
    InvalidOptionError,
    MissingFileError,
    NeuronBertError,
    OutputExistsError,
)

TEXT, ID = Columns("text", None), Columns("text", "id")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
JOB = Job(artifact="a", files={"f": "b"}, text="text", id=None, rows=3, rows_per_part=2, auto_truncate=True)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def found(read: Source) -> tuple[list[Any], list[str]]:
    ids, texts, contents = [], [], Contents()
    for stretch in read.stretches:
        some, other = source.load(stretch, read.columns, contents)
        assert len(some) == len(other) == stretch.rows
        ids += some.to_pylist()
        texts += other
    return ids, texts


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    files=st.lists(st.lists(TEXTS, max_size=9), min_size=1, max_size=3).filter(any),
    size=st.integers(1, 6),
    group=st.integers(1, 4),
    ending=st.sampled_from(["jsonl", "parquet"]),
    numbered=st.booleans(),
)
def test_every_row_is_read_once_and_in_order(
    tmp_path: Path, files: list[list[str]], size: int, group: int, ending: str, numbered: bool
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    texts = [text for file in files for text in file]
    names = [f"k{place}" for place in range(len(texts))]
    given = iter(names)
    for number, file in enumerate(files):
        rows = [{"text": text, "id": next(given)} for text in file]
        path = tmp_path / f"{number}.{ending}"
        if ending == "jsonl":
            write(path, "\ufeff" if number else "\n", *rows, " \n")
        else:
            schema = pa.schema({"text": pa.string(), "id": pa.large_string()})
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    read = Source.read(tmp_path, TEXT if numbered else ID, size)
    assert found(read) == (list(range(len(texts))) if numbered else names, texts)
    assert read.rows == len(texts)
    assert max(stretch.rows for stretch in read.stretches) <= size
    assert len(read.stretches) == sum(-(-len(file) // size) for file in files)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": 2}, "line 2: it has no 'text'"),
        ({"id": 2, "text": None}, "line 2: 'text' is null"),
        ({"id": 2, "text": 5}, "line 2: 'text' is a int, and no text"),
        ({"id": 2, "text": ["a"]}, "line 2: 'text' is a list, and no text"),
        ({"id": 2, "text": " "}, "line 2: The text is empty"),
        ({"id": 2, "text": "\ud800"}, "line 2: The text is not valid Unicode"),
        ({"text": "b"}, "line 2: it has no 'id'"),
        ({"text": "b", "id": None}, "line 2: 'id' is null"),
        ({"text": "b", "id": 2.5}, "line 2: 'id' is a float, and no text or whole number"),
        ({"text": "b", "id": True}, "line 2: 'id' is a bool, and no text or whole number"),
        ({"text": "b", "id": 2**63}, "line 2: 'id' is a int, and no text or whole number of 64 bits"),
        ({"text": "b", "id": "1"}, "line 2: 'id' is a str, and those before it are not"),
        ({"text": "b", "id": 1}, "line 2: 'id' is 1, as in"),
        ("[1]\n", "line 2: it is not a JSON object"),
        ("{\n", "line 2: it is not JSON"),
        ("[" * 100_000 + "\n", "line 2: it is not JSON"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, said: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"id": 1, "text": "a"}, row, {"id": 3, "text": "c"})
    with pytest.raises(BadRowsError) as caught:
        Source.read(path, ID, 10)
    assert f"{path}, {said}" in str(caught.value)
    assert str(caught.value).endswith("Nothing was run: every row must have a vector.")


def test_bad_rows_beyond_five_are_counted(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": None}] * 9
    with pytest.raises(BadRowsError, match=r"line 5: 'text' is null; and 4 more\."):
        Source.read(write(tmp_path / "rows.jsonl", *rows), TEXT, 2)
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "rows.parquet")
    with pytest.raises(BadRowsError, match=r"rows\.parquet, row 1: 'text' is null"):
        Source.read(tmp_path / "rows.parquet", TEXT, 2)


def test_an_id_that_is_there_twice_is_found_in_any_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": ["x"] * 3}), tmp_path / "1.parquet")
    write(tmp_path / "2.jsonl", "\n", {"id": "d", "text": "x"}, {"id": "c", "text": "x"}, {"id": "d", "text": "x"})
    with pytest.raises(BadRowsError) as caught:
        Source.read(tmp_path, ID, 2)
    first, second = f"{tmp_path}/1.parquet", f"{tmp_path}/2.jsonl"
    said = f"{second}, line 3: 'id' is 'c', as in {first} row 2; {second}, line 4: 'id' is 'd', as in {second} line 2."
    assert str(caught.value).startswith(said)


def test_ids_take_no_more_memory_where_paths_are_long(tmp_path: Path) -> None:
    folder, count = tmp_path / ("long" * 50), 20_000
    folder.mkdir()
    write(folder / "1.jsonl", *({"id": f"{number:012}", "text": "x"} for number in range(count)))
    scan = source._Scan(ID, count)
    tracemalloc.start()
    try:
        scan.file(folder / "1.jsonl", "")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(scan.seen) == count
    assert held / count < 160


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(path: Path, columns: Columns = TEXT) -> NeuronBertError:
        with pytest.raises(NeuronBertError) as caught:
            Source.read(path, columns, 2)
        return caught.value

    pq.write_table(pa.table({"text": ["a"], "id": [1]}), tmp_path / "rows.parquet")
    wrong = refused(tmp_path / "rows.parquet", Columns("body", None))
    assert str(wrong) == f"{tmp_path}/rows.parquet: it has 0 columns 'body'; it has text, id."
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-9])
    assert isinstance(refused(tmp_path / "cut.parquet"), DataFileError)
    assert isinstance(refused(tmp_path / "nothing.jsonl"), MissingFileError)
    (tmp_path / "empty").mkdir()
    assert isinstance(refused(tmp_path / "empty"), MissingFileError)
    assert isinstance(refused(write(tmp_path / "rows.csv", "text\n")), InvalidOptionError)
    assert "it holds no rows" in str(refused(write(tmp_path / "none.jsonl", "\n")))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    assert "line 1: it is not UTF-8" in str(refused(tmp_path / "latin.jsonl"))


def test_links_are_read_by_their_own_names(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots"
    blobs.mkdir()
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a", "b"]}), blobs / "0f")
    write(blobs / "1e", {"text": "c"})
    for name, blob in {"1.parquet": "0f", "2.jsonl": "1e", "3.parquet": "0f"}.items():
        (folder / name).symlink_to(blobs / blob)
    read = Source.read(folder, TEXT, 2)
    assert found(read) == ([0, 1, 2, 3, 4], ["a", "b", "c", "a", "b"])
    assert list(read.digests) == ["1.parquet", "2.jsonl", "3.parquet"]
    assert found(Source.read(folder / "1.parquet", TEXT, 2))[1] == ["a", "b"]


def test_a_file_that_is_changed_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, contents = write(tmp_path / "rows.jsonl", {"text": "a"}, {"text": "b"}), Contents()
    first, second = Source.read(path, TEXT, 1).stretches
    source.load(first, TEXT, contents)
    write(path, {"text": "a"}, {"text": "c"})
    with pytest.raises(DataFileError, match="it was changed after"):
        source.load(second, TEXT, contents)
    write(path, {"text": "a"})
    with pytest.raises(DataFileError, match="it was changed after"):
        source.load(second, TEXT, Contents())
    path.unlink()
    with pytest.raises(DataFileError, match="it can't be read"):
        source.load(first, TEXT, contents)

    lines = source._lines

    def rewritten(*given: Any) -> Any:
        rows = [*lines(*given)]
        write(path, {"text": "a"}, {"text": "d"})
        yield from rows

    for read in (lambda: Source.read(path, TEXT, 2), lambda: source.load(first, TEXT, Contents())):
        write(path, {"text": "a"}, {"text": "b"})
        with monkeypatch.context() as patch:
            patch.setattr(source, "_lines", rewritten)
            with pytest.raises(DataFileError, match="it was changed"):
                read()


def test_an_output_is_gone_on_with_only_by_the_same_job(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    with Output.opened(folder, JOB, 2, resume=False) as output:
        output.write(0, pa.array([0, 1]), vectors)
        with pytest.raises(DatasetBusyError), Output.opened(folder, JOB, 2, resume=True):
            pass
    table = pq.read_table(folder / "part-00000.parquet")
    assert table.column_names == ["id", "embedding"]
    assert table["embedding"].to_pylist() == vectors.tolist()
    (folder / ".part-1-left").write_text("x")
    with Output.opened(folder, JOB, 2, resume=True) as output:
        assert [output.has(number, 2) for number in (0, 1)] == [True, False]
        assert not output.has(0, 3)
        assert not (folder / ".part-1-left").exists()
        output.path(1).write_bytes(output.path(0).read_bytes()[:-9])
        assert not output.has(1, 2)
    with pytest.raises(DatasetExistsError, match="--resume"), Output.opened(folder, JOB, 2, resume=False):
        pass
    other = JOB.model_copy(update={"rows": 4, "text": "body"})
    with pytest.raises(DatasetChangedError, match="in text, rows, so"), Output.opened(folder, other, 2, resume=True):
        pass
    with pytest.raises(OutputExistsError), Output.opened(tmp_path, JOB, 2, resume=True):
        pass


def test_what_another_process_did_before_the_lock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, flock = tmp_path / "out", parts.fcntl.flock

    def open_late(before: Any, *, resume: bool) -> None:
        def late(*given: Any) -> None:
            monkeypatch.setattr(parts.fcntl, "flock", flock)
            before()
            flock(*given)

        monkeypatch.setattr(parts.fcntl, "flock", late)
        with Output.opened(folder, JOB, 2, resume=resume):
            pass

    def another() -> None:
        with Output.opened(folder, JOB.model_copy(update={"rows": 9}), 2, resume=False) as output:
            output.write(0, pa.array([7]), np.zeros((1, 3), np.float32))

    folder.mkdir()
    with pytest.raises(DatasetBusyError):
        open_late(folder.rmdir, resume=False)
    with pytest.raises(DatasetExistsError):
        open_late(another, resume=False)
    (folder / "job.json").unlink()
    (folder / "part-00000.parquet").unlink()
    with pytest.raises(DatasetChangedError):
        open_late(another, resume=True)
    assert pq.read_table(folder / "part-00000.parquet")["id"].to_pylist() == [7]
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(OutputExistsError), Output.opened(tmp_path / name, JOB, 2, resume=False):
            pass


def test_an_output_in_which_nothing_came_to_be_is_a_folder_with_its_job(tmp_path: Path) -> None:
    def fail() -> None:
        with Output.opened(tmp_path / "out", JOB, 2, resume=False) as output:
            (output.folder / ".part-0-left").write_text("x")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["job.json"]


def test_a_clusters_token_is_gone_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pytest.importorskip("neuronbert.dataset.cluster", reason="the extra `ray` is not installed")
    seen: list[str | None] = []
    for name in cluster._TOKENS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **_: seen.append(os.environ.get("RAY_AUTH_TOKEN")))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: seen.append(os.environ.get("RAY_AUTH_TOKEN")))
    with cluster.connected(None):
        pass
    assert seen[0]
    assert seen[0] == seen[1]
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    with cluster.connected(None):
        pass
    assert seen[2:] == ["theirs", "theirs"]
    assert os.environ["RAY_AUTH_TOKEN"] == "theirs"
