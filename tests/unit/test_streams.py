"""Rows one by one: JSON Lines, CSV and plain text, from a file or from stdin."""

from __future__ import annotations

import io
import itertools
import sys
import tracemalloc
from pathlib import Path

import pytest

from neuronbert import rows
from neuronbert.errors import DataFileError, MissingFileError


def read(path: Path) -> list[tuple[int, object]]:
    return list(rows.stream(str(path)))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}', [(1, {"text": "one"}), (3, {"text": "two"})]),
        ("a.jsonl", '\ufeff{"text": "one"}\r\n', [(1, {"text": "one"})]),
        ("a.txt", "one\n \n{two}\n", [(1, {"text": "one"}), (3, {"text": "{two}"})]),
        ("a.txt", "one\u2028still one\n", [(1, {"text": "one\u2028still one"})]),
        ("a", "one\n{two}", [(1, {"text": "one"}), (2, {"text": "{two}"})]),
        ("a.csv", "id,text\n1,one\n2,two\n", [(2, {"id": "1", "text": "one"}), (3, {"id": "2", "text": "two"})]),
        ("A.CSV", 'text\n"one\ntwo"\n"a ""b"""\n', [(3, {"text": "one\ntwo"}), (4, {"text": 'a "b"'})]),
        ("a.jsonl", "", []),
        ("a.csv", "", []),
    ],
)
def test_a_file_is_read_as_its_name_or_its_first_line_says(
    tmp_path: Path, name: str, content: str, expected: list[tuple[int, object]]
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read(path) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"text": "one"}\n', {"text": "one"}), (b"one\n", {"text": "one"}), ("\ufeffeins\n".encode(), {"text": "eins"})],
)
def test_stdin_is_either(monkeypatch: pytest.MonkeyPatch, content: bytes, expected: object) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert list(rows.stream("-")) == [(1, expected)]
    assert not stdin.closed, "it isn't this function's to close"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "one"}\nplain text\n', "line 2: it is not JSON"),
        ("a.jsonl", b'{"text": "one"}\n[1]\n', "line 2: it is not a JSON object"),
        ("a.jsonl", b'{"text": "one"}\n{"a": ' + b"[" * 100_000, "line 2: it is not JSON"),
        ("a.txt", b"one\n\xff\xfe\n", "UTF-8"),
        ("a.jsonl", b"\x80\x04\x95", "UTF-8"),
        ("a.csv", b"id,text\n1\n", "line 2: it doesn't have 2 columns"),
        ("a.csv", b"id,text\n1,2,3\n", "line 2: it doesn't have 2 columns"),
        ("a.csv", b'text\n"one\n', "it is not CSV"),
        ("a.csv", b"text\n" + b"x" * 200_000 + b"\n", "it is not CSV"),
    ],
)
def test_what_is_no_row_is_refused_by_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=said):
        read(path)


def test_a_line_without_an_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_MAX_LINE", 100)
    path = tmp_path / "a.txt"
    path.write_text("x" * 99 + "\n" + "x" * 101)
    with pytest.raises(DataFileError, match="line 2: it is longer than 100 characters"):
        read(path)


def test_a_missing_file_and_a_folder_are_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(MissingFileError):
            read(path)


def test_many_rows_take_no_more_memory_than_few(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a text of some length\n" * 200_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows.stream(str(path))) == 200_000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20, "the file has 4.4 MB"


def test_rows_are_given_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' * 3 + "broken")
    assert len(list(itertools.islice(rows.stream(str(path)), 3))) == 3
