"""NEFF headers: the documented layout, and what hostile files make of it."""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import neff
from neuronbert.errors import ArtifactCorruptError, MissingFileError
from neuronbert.neff import Header, find_neffs, read_header
from tests.support.neff_files import HEADER_SIZE, build, subgraphs, tarball

texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
DOCUMENTED = """
uint64_t pkg_version; uint64_t header_size; uint64_t data_size; uint64_t neff_version_major;
uint64_t neff_version_minor; uint8_t neff_build_version[128]; uint32_t num_tpb; uint8_t hash[32]; uint8_t uuid[16];
char name[256]; uint32_t requested_tpb_count; uint8_t tpb_per_node[64]; uint64_t feature_bits; uint32_t lnc_size;
"""
"""The struct of "Work with NEFF Files", without its padding."""


def offsets() -> dict[str, tuple[int, int]]:
    """Where each documented field lies and how long it is, from the C declarations."""
    fields, at = {}, 0
    for declaration in DOCUMENTED.replace("\n", " ").split(";")[:-1]:
        kind, name = declaration.split()
        name, _, count = name.rstrip("]").partition("[")
        size = {"uint64_t": 8, "uint32_t": 4}.get(kind, 1) * int(count or 1)
        fields[name] = at, size
        at += size
    assert at == HEADER_SIZE - 468  # what the documentation calls pad
    return fields


def write(folder: Path, content: bytes, name: str = "file.neff") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ArtifactCorruptError) as raised:
        find_neffs(path)
    return str(raised.value)


@given(
    name=texts,
    lnc=st.integers(0, 8),
    cores=st.integers(0, 255),
    version=st.tuples(st.integers(0, 255), st.integers(0, 65535)),
    build_version=texts,
    payload=st.binary(min_size=1, max_size=64),
    feature_bits=st.integers(0, 2**64 - 1),
    pkg_version=st.integers(0, 255),
)
def test_a_header_reads_back(tmp_path_factory: pytest.TempPathFactory, **fields: Any) -> None:
    path = write(tmp_path_factory.mktemp("neff"), build(**fields))
    header = read_header(path)
    assert (header.neff_version_major, header.neff_version_minor) == fields["version"]
    assert (header.name, header.neff_build_version) == (fields["name"], fields["build_version"])
    assert (header.lnc_size, header.num_tpb, header.requested_tpb_count) == (fields["lnc"], *[fields["cores"]] * 2)
    assert (header.header_size, header.data_size) == (1024, len(fields["payload"]))
    assert (header.feature_bits, header.pkg_version) == (fields["feature_bits"], fields["pkg_version"])
    assert header.tpb_per_node == ((fields["cores"],) if fields["cores"] else ())


def test_every_field_lies_where_the_documentation_says() -> None:
    """SDK, neuron-runtime/explore/work-with-neff-files.rst: the struct neff_header_t."""
    plain = Header.parse(build("n", payload=b"data"))
    for name, (at, size) in offsets().items():
        content = bytearray(build("n", payload=b"data"))
        content[at : at + size] = struct.pack("<Q", 1024)[:size] if name == "header_size" else b"\x31" + bytes(size - 1)
        changed = Header.parse(bytes(content))
        differing = {field for field in Header.__slots__ if getattr(plain, field) != getattr(changed, field)}
        assert differing == ({name} if name != "header_size" else set())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("header_size", 1023, "header_size is 1023 in place of 1024"),
        ("header_size", 2**64 - 1, "header_size"),
        ("data_size", 0, "data_size is 0"),
        ("data_size", 2**64 - 1, "data_size"),
        ("data_size", 5, "4 of 5 bytes are there"),
        ("neff_version_major", 256, "neff_version_major"),
        ("neff_version_minor", 65536, "neff_version_minor"),
        ("pkg_version", 256, "pkg_version"),
        ("num_tpb", 2**32 - 1, "num_tpb is 4294967295 in place of 0 to 4096"),
        ("requested_tpb_count", 4097, "requested_tpb_count"),
        ("lnc_size", 2**31, "lnc_size"),
        ("name", b"\xff\xfe", "name"),
        ("name", b"\x1b[2J", "name"),
        ("neff_build_version", b"2.26\n", "neff_build_version"),
        ("neff_build_version", b"\xff" * 128, "neff_build_version"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, field: str, value: int | bytes, said: str) -> None:
    content = bytearray(build(payload=b"data"))
    at, size = offsets()[field]
    content[at : at + size] = (value if isinstance(value, bytes) else value.to_bytes(size, "little")).ljust(size, b"\0")
    path = write(tmp_path, bytes(content))
    message = refused(path)
    assert said in message
    assert message.isprintable()
    with pytest.raises(ArtifactCorruptError):
        read_header(path)


def test_text_ends_at_its_first_nul_and_may_fill_its_field() -> None:
    content = bytearray(build("name", build_version="b" * 128))
    at, size = offsets()["name"]
    content[at + 5 : at + size] = b"\xff" * (size - 5)
    header = Header.parse(bytes(content))
    assert (header.name, header.neff_build_version) == ("name", "b" * 128)


def test_a_header_of_a_huge_file_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.neff"
    with path.open("wb") as file:
        file.write(build(payload=b"data", data_size=(1 << 30) - HEADER_SIZE))
        file.truncate(1 << 30)
    asked = []
    real = neff._File.read
    monkeypatch.setattr(neff._File, "read", lambda self, size=-1: asked.append(size) or real(self, size))
    assert read_header(path).data_size == (1 << 30) - HEADER_SIZE
    assert asked == [HEADER_SIZE]


def test_a_header_is_read_at_an_offset(tmp_path: Path) -> None:
    path = write(tmp_path, b"before" + build("second"))
    assert read_header(path, 6).name == "second"
    for offset in (0, 7, 10_000):
        with pytest.raises(ArtifactCorruptError, match=f"no NEFF header at byte {offset}"):
            read_header(path, offset)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/zero"), tmp_path / "nul\0"):
        with pytest.raises(MissingFileError):
            find_neffs(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_neffs_are_found_wherever_they_lie_in_an_archive(tmp_path: Path, method: int) -> None:
    padding = [0, 1, 8, 9, 1023, neff._WINDOW - 1, neff._WINDOW - 1024, neff._WINDOW, 2 * neff._WINDOW - 9]
    members = {f"a/data/{at}": bytes(at) + build(f"at {at}") + build("behind", lnc=2) for at in padding}
    found = find_neffs(archive(tmp_path / "a.pt", members, method))
    names = [f"at {at}" for at in padding]
    assert [one.header.name for one in found] == [name for at in names for name in (at, "behind")]
    assert [one.member for one in found] == [name for name in members for _ in range(2)]
    for one in found:
        if method == zipfile.ZIP_STORED:
            assert read_header(tmp_path / "a.pt", one.offset) == one.header
        else:
            assert one.offset is None


@pytest.mark.parametrize(
    ("payload", "form"),
    [
        (tarball(subgraphs()), "gzip"),
        (tarball(subgraphs(), compressed=False), "tar"),
        (bz2.compress(tarball(subgraphs(), compressed=False)), "bzip2"),
        (lzma.compress(tarball(subgraphs(), compressed=False)), "xz"),
    ],
)
def test_a_payload_is_a_tarball_in_some_form(tmp_path: Path, payload: bytes, form: str) -> None:
    """How NEFFs are compressed isn't documented; --enable-fast-loading-neuron-binaries leaves them uncompressed."""
    content = build(payload=payload)
    assert [one.payload for one in find_neffs(write(tmp_path, content))] == [form]
    assert [one.payload for one in find_neffs(archive(tmp_path / "a.pt", {"a": content}))] == [form]


def test_what_only_looks_like_a_header_is_passed_over(tmp_path: Path) -> None:
    real = build("real")
    decoys = {
        "no tarball": build("decoy", payload=b"no tarball at all"),
        "header alone": build("decoy")[:HEADER_SIZE],
        "integers": struct.pack("<9q", 1, 1024, 5, 2, 0, 0, 0, 0, 0) * 2000,
        "text": build("decoy", build_version="\x07"),
        "cores": build("decoy", cores=255)[:170] + b"\xff" + build("decoy", cores=255)[171:],
        "overlapping": build("decoy")[:20],
    }
    for name, decoy in decoys.items():
        found = find_neffs(archive(tmp_path / "a.pt", {"a": decoy + real + decoy}))
        assert [one.header.name for one in found] == ["real"], name


def test_a_payload_is_not_searched_for_more(tmp_path: Path) -> None:
    inner = build("inner", payload=tarball({"a": b"x" * 3000}, compressed=False))
    outer = build("outer", payload=tarball({"a.neff": inner}, compressed=False))
    found = find_neffs(archive(tmp_path / "a.pt", {"a": outer + build("next")}))
    assert [one.header.name for one in found] == ["outer", "next"]


def test_a_neff_cut_off_in_an_archive_is_an_error(tmp_path: Path) -> None:
    assert "a.pt: a/data.pkl is a NEFF that is cut off" in refused(
        archive(tmp_path / "a.pt", {"a/data.pkl": b"X" + build()[:-1]})
    )


def test_an_archive_without_a_neff_holds_none(tmp_path: Path) -> None:
    assert find_neffs(archive(tmp_path / "a.pt", {"a/version": b"3\n", "a/empty": b"", "a/folder/": b""})) == ()
