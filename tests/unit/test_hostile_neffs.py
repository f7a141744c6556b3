"""NEFFs and archives that are damaged or made to do harm: each reads or is the one error."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import neff
from neuronbert.errors import ArtifactCorruptError
from neuronbert.neff import find_neffs
from tests.support.neff_files import build

SMALL = build(payload=b"\x1f\x8b payload")
DIRECTORY, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def mixed() -> bytes:
    """An archive as torch makes them: stored data, compressed code."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data/0", SMALL)
        file.writestr("a/code/a.py", b"def forward(self):\n" * 9, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def patched(content: bytes, record: bytes, at: int, form: str, value: int) -> bytes:
    """An archive with another number in every record of a kind."""
    changed, start = bytearray(content), -1
    while (start := content.find(record, start + 1)) >= 0:
        struct.pack_into(form, changed, start + at, value)
    return bytes(changed)


def survives(path: Path, content: bytes) -> bool:
    """Whether it reads; anything but the one error fails the test."""
    path.write_bytes(content)
    try:
        find_neffs(path)
    except ArtifactCorruptError:
        return False
    return True


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ArtifactCorruptError) as raised:
        find_neffs(path)
    return str(raised.value)


def test_a_neff_is_whole_or_refused(tmp_path: Path) -> None:
    whole = [survives(tmp_path / "f", SMALL[:length]) for length in range(len(SMALL) + 1)]
    assert not any(whole[:-1])
    assert whole[-1]


def test_an_archive_is_whole_or_refused(tmp_path: Path) -> None:
    content = mixed()
    whole = [survives(tmp_path / "f", content[:length]) for length in range(len(content) + 1)]
    assert not any(whole[:-1])
    assert whole[-1]


@pytest.mark.parametrize("content", [SMALL, mixed()], ids=["neff", "archive"])
def test_no_changed_byte_is_another_error(tmp_path: Path, content: bytes) -> None:
    for at in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            survives(tmp_path / "f", content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])


@given(
    st.lists(st.tuples(st.integers(0, len(mixed()) - 1), st.integers(0, 255)), min_size=2, max_size=12),
    st.integers(0, 3),
)
def test_no_changed_bytes_are_another_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(mixed())
    for at, value in changes:
        content[-at] = value  # most of them in the directory, at the end
    survives(tmp_path_factory.getbasetemp() / "fuzzed", bytes(content[: len(content) - cut]))


@given(st.binary(max_size=3000))
def test_no_bytes_are_another_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    survives(path, content)
    survives(path, LOCAL + content)
    survives(path, zipped({"a": content}))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert "decode" in refusal(tmp_path / "f", patched(zipped({"\xe9": b"content"}), DIRECTORY, 46, "<B", 0xFF))


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    content = zipped({"a": bytes(100_000)})
    start, end = content.index(DIRECTORY), content.index(b"PK\x05\x06")
    entries, tail = content[start:end] * 50, bytearray(content[end:])
    struct.pack_into("<HHII", tail, 8, 50, 50, len(entries), start)
    assert "its members overlap" in refusal(tmp_path / "f", content[:start] + entries + tail)


def test_an_archive_that_torch_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    """zipfile takes the directory that lies last, torch the one that the archive's end points at."""
    read_by_torch, read_here = zipped({"a": build("runs")}), zipped({"a": build("seen")})
    end = read_by_torch.index(b"PK\x05\x06")
    assert len(read_here) == len(read_by_torch)
    assert "two directories" in refusal(tmp_path / "f", read_by_torch[:end] + read_here[:end] + read_by_torch[end:])


def test_members_that_grow_without_limit_are_refused(tmp_path: Path) -> None:
    content = zipped({"a": bytes(1000)}, zipfile.ZIP_DEFLATED)
    content = patched(content, DIRECTORY, 24, "<I", neff._MAX_INFLATED + 1)
    assert "would grow too large" in refusal(tmp_path / "f", content)


def test_a_member_that_grows_more_than_it_says_is_not_read_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped({"a": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)
    given: list[int] = []
    real = zipfile.ZipExtFile.read

    def read(self: zipfile.ZipExtFile, size: int | None = -1) -> bytes:
        held = real(self, size)
        given.append(len(held))
        return held

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    assert "Bad CRC" in refusal(tmp_path / "f", patched(content, DIRECTORY, 24, "<I", 10))
    assert sum(given) <= 10


@pytest.mark.parametrize(
    ("record", "at", "form", "value", "said"),
    [
        (DIRECTORY, 10, "<H", zipfile.ZIP_LZMA, "compressed in a way"),  # its dictionary may take gigabytes
        (DIRECTORY, 10, "<H", zipfile.ZIP_BZIP2, "compressed in a way"),
        (DIRECTORY, 24, "<I", 5, "two sizes"),
        (DIRECTORY, 8, "<H", 1, "encrypted"),
        (DIRECTORY, 46, "<B", 0xFF, "differ"),
        (DIRECTORY, 42, "<I", 7, "two directories"),
        (DIRECTORY, 42, "<I", 0xFFFFFF, "archive"),
        (DIRECTORY, 16, "<I", 1, "Bad CRC"),
        (LOCAL, 26, "<H", 0xFFFF, "differ"),
        (b"PK\x05\x06", 16, "<I", 0, "two directories"),
    ],
)
def test_an_archive_that_contradicts_itself_is_refused(
    tmp_path: Path, record: bytes, at: int, form: str, value: int, said: str
) -> None:
    assert said in refusal(tmp_path / "f", patched(zipped({"a": b"content"}), record, at, form, value))


@pytest.mark.parametrize("at", [40, 48])  # the directory's size and its place
def test_a_directory_further_away_than_a_file_can_reach_is_refused(tmp_path: Path, at: int) -> None:
    content = zipped({"a": b"content"})
    start, end = content.index(DIRECTORY), content.index(b"PK\x05\x06")
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - start, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    marker = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert survives(tmp_path / "f", content[:end] + wide + locator + marker)
    hostile = patched(wide, b"PK\x06\x06", at, "<Q", 2**64 - 1)
    assert "f is not a TorchScript archive" in refusal(tmp_path / "f", content[:end] + hostile + locator + marker)


def test_a_directory_as_large_as_it_likes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    huge = neff._MAX_DIRECTORY + 1
    with path.open("wb") as file:
        file.write(LOCAL)
        file.truncate(huge)
        file.seek(huge)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, huge, 0, 0))
    with pytest.raises(ArtifactCorruptError, match="its directory is too large"):
        find_neffs(path)


def test_more_lookalikes_than_any_file_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neff, "_MAX_LOOKALIKES", 50)
    lookalike = build(payload=b"no tarball")
    assert survives(tmp_path / "f", zipped({"a": lookalike * 25, "b": lookalike * 25}))
    assert "looks like headers" in refusal(tmp_path / "f", zipped({"a": lookalike * 25, "b": lookalike * 26}))


def test_more_neffs_than_any_file_has_are_refused(tmp_path: Path) -> None:
    assert survives(tmp_path / "f", zipped({"a": SMALL * neff._MAX_NEFFS}))
    assert "holds more than 1024 NEFFs" in refusal(tmp_path / "f", zipped({"a": SMALL * neff._MAX_NEFFS, "b": SMALL}))


def test_names_of_members_are_not_obeyed_by_a_terminal(tmp_path: Path) -> None:
    assert "\\x1b" in refusal(tmp_path / "f", zipped({"\x1b[2J": SMALL[:-1]}))
