from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.matrix.document import DocumentError, read

ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("a: [1\n", "line 2: expected"),
        ("a: 1\na: 2\n", "line 2: the key 'a' is given twice"),
        ("x: {a: 1, b: 2, a: 3}\n", "line 1: the key 'a' is given twice"),
        ("? [a]\n: 1\n", "line 1: a key must be a word"),
        ("a: !!python/object/apply:os.system ['touch owned']\n", "line 1: the tag"),
        ("a: !!python/name:os.system\n", "line 1: the tag"),
        ("a: !!timestamp nonsense\n", "line 1: the tag"),
        ("a: !!bool nonsense\n", "line 1: the tag"),
        ("a: !!int ''\n", "line 1: the tag"),
        ("!!set {a, b}\n", "line 1: the tag"),
        ("a: !mine 1\n", "line 1: the tag"),
        (ALIASES, "stands for more than 20000 values"),
        (MERGES, "stands for more than 20000 values"),
        ("a: &a [*a]\n", "stands for more than 20000 values"),
        ("a: &a {b: *a}\n", "stands for more than 20000 values"),
        ("a: *nowhere\n", "line 1: found undefined alias"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "{b: " * 3000 + "}" * 3000, "nested too deeply"),
        ("x: " + "9" * 5000, "it is not YAML"),
        ("x: 0x_", "it is not YAML"),
        ("a: 1\n\0", "it is not YAML"),
        ("=: =", "could not determine a constructor"),
        ("a: '" + "x" * (256 << 10) + "'", "more than 262144 bytes"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_no_plain_data_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError, match=said) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert [item.name for item in tmp_path.iterdir()] == ["matrix.yaml"]


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(DocumentError, match="more than 262144 bytes"):
        read(Path("/dev/zero"))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_bytes(b"a: \xff\xfe\xfd")
    with pytest.raises(DocumentError, match="it is not YAML"):
        read(path)


def test_dates_stay_as_they_are_written_and_aliases_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text("a: &a {x: 2026-11-21, y: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    first = {"x": "2026-11-21", "y": 1}
    assert read(path) == {"a": first, "b": {**first, "y": 2}, "c": [first, first]}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(plain.filter(lambda value: value is not None))
def test_plain_data_comes_back_as_it_was(tmp_path: Path, value: object) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(value), newline="\n")
    assert read(path) == value


@given(st.text(st.sampled_from("a1&*!<>|-?:[]{},'\"\\#%@` \n\t=~."), max_size=40))
def test_no_text_raises_anything_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(text, newline="\n")
    with suppress(DocumentError):
        read(path)


def test_nothing_of_a_hostile_file_is_run(tmp_path: Path) -> None:
    # The same text, read by the loader that is not safe, does run: the test would notice.
    text = f"!!python/object/apply:subprocess.check_call [[touch, {tmp_path / 'owned'}]]\n"
    path = tmp_path / "matrix.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError):
        read(path)
    assert not (tmp_path / "owned").exists()
    assert subprocess  # what it would have called
    yaml.unsafe_load(text)
    assert (tmp_path / "owned").exists()
