"""Archives that two readers would read differently. torch's own is the one that loads them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuronbert.backends import archives, torchscript
from neuronbert.backends.archives import TorchArchive
from neuronbert.errors import ArtifactCorruptError
from tests.support.archives import members, packed, two_in_one


class Harmless(nn.Module):
    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (ids.float(),)


class ActsWhenLoaded(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (ids.float(),)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.target = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])


def scripted(module: nn.Module) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return members(buffer.getvalue())


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Where a program that runs would write."""
    return tmp_path / "canary"


@pytest.fixture
def acting(canary: Path) -> dict[str, bytes]:
    contents = scripted(ActsWhenLoaded(str(canary)))
    canary.unlink(missing_ok=True)  # making the program has written it already
    return contents


def refused(path: Path, said: str) -> None:
    with pytest.raises(ArtifactCorruptError, match=said) as caught:
        torchscript.load(path, ["forward"])
    assert "\n" not in str(caught.value)


def test_what_torch_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(Harmless()), path)
    contents = members(path.read_bytes())
    archive = TorchArchive(path, "a program")
    folder = next(iter(contents)).partition("/")[0]
    assert {f"{folder}/{name}": archive.read(name) for name in archive.names} == contents
    assert all(archive.size(name) == len(archive.read(name)) for name in archive.names)


def test_the_hook_of_these_tests_would_run(tmp_path: Path, acting: dict[str, bytes], canary: Path) -> None:
    (tmp_path / "program.pt").write_bytes(packed(acting))
    torch.jit.load(tmp_path / "program.pt")
    assert canary.exists()


@pytest.mark.parametrize("rename", [str.upper, str.swapcase, lambda name: name[:-1] + "Y"], ids=["all", "swap", "last"])
def test_code_under_a_name_of_another_case_is_found(
    tmp_path: Path, acting: dict[str, bytes], canary: Path, rename: Callable[[str], str]
) -> None:
    folder = next(iter(acting)).partition("/")[0]

    def renamed(name: str) -> str:
        return f"{folder}/{rename(name.partition('/')[2])}" if name.endswith(".py") else name

    path = tmp_path / "program.pt"
    path.write_bytes(packed({renamed(name): content for name, content in acting.items()}))
    refused(path, "run while it is loaded")
    assert not canary.exists()


def test_the_directory_that_torch_takes_is_the_one_that_is_looked_at(
    tmp_path: Path, acting: dict[str, bytes], canary: Path
) -> None:
    path = tmp_path / "program.pt"
    shown = scripted(Harmless())
    path.write_bytes(two_in_one(shown, acting))
    with zipfile.ZipFile(path) as archive:
        seen = {name: archive.read(name) for name in archive.namelist() if "/extra/" not in name}
    assert seen == shown  # what Python's reader takes for the whole of it
    refused(path, "run while it is loaded")
    assert not canary.exists()


def test_an_archive_with_other_members_for_another_reader_is_refused(tmp_path: Path) -> None:
    contents = scripted(Harmless())
    folder = next(iter(contents)).partition("/")[0]
    path = tmp_path / "program.pt"
    path.write_bytes(two_in_one({**contents, f"{folder}/more": b"1"}, {**contents, f"{folder}/other": b"2"}))
    refused(path, "other members for one reader")


@pytest.mark.parametrize("end", [".py", "data.pkl", "version"])
def test_two_members_that_a_reader_may_confuse_are_refused(tmp_path: Path, end: str) -> None:
    contents = scripted(Harmless())
    name = next(name for name in contents if name.endswith(end))
    folder, _, rest = name.partition("/")
    path = tmp_path / "program.pt"
    path.write_bytes(packed({**contents, f"{folder}/{rest.swapcase()}": b"3\n"}))
    refused(path, "two members of one name")
    path.write_bytes(packed(contents))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, b"3\n")
    refused(path, "two members of one name")


def test_a_second_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    path.write_bytes(packed({**scripted(Harmless()), "other/code/__torch__.py": b""}))
    refused(path, "is not a TorchScript archive")


def test_a_name_that_torch_would_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    contents = scripted(Harmless())
    folder = next(iter(contents)).partition("/")[0]
    path.write_bytes(packed({**contents, f"{folder}/code/{'a' * 600}.py": b"__setstate__"}))
    refused(path, "other members for one reader|more than 500 characters|is not a TorchScript")


def test_members_that_are_far_larger_than_the_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MAX_INFLATED", 1 << 20)
    path = tmp_path / "program.pt"
    contents = scripted(Harmless())
    folder = next(iter(contents)).partition("/")[0]
    for size, fits in ((1 << 19, True), (1 << 22, False)):
        path.write_bytes(packed({**contents, f"{folder}/data/9": bytes(size)}, zipfile.ZIP_DEFLATED))
        assert path.stat().st_size < 1 << 15
        if fits:
            torchscript.load(path, ["forward"])
        else:
            refused(path, "far more than it has")


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04", b"\x00" * 100])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "program.pt"
    path.write_bytes(content)
    refused(path, "is not a TorchScript archive")
    refused(tmp_path / "nowhere.pt", "is not a TorchScript archive")


def test_every_cut_and_many_flips_are_one_error_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(Harmless()), path)
    content = path.read_bytes()
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        refused(path, "not a TorchScript archive")
    for at in range(0, len(content), 61):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        with suppress(ArtifactCorruptError):  # and nothing else
            torchscript.load(path, ["forward"])


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    path.write_bytes(packed(scripted(Harmless()), zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path) as archive:
        code = next(info for info in archive.infolist() if info.filename.endswith(".py"))
    content = bytearray(path.read_bytes())
    start = code.header_offset + 30 + len(code.filename)
    content[start : start + code.compress_size] = b"\xff" * code.compress_size
    path.write_bytes(content)
    refused(path, "damaged member .*decompressing")  # torch's reader would give what lay in memory, often the code
