"""NEFFs in archives that torch wrote, and what `neuronbert inspect` shows of them."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuronbert import Artifact
from neuronbert.artifact import seal
from neuronbert.neff import find_neffs, read_header
from tests.support.neff_files import HEADER, HEADER_SIZE, build, tarball


class Holder(nn.Module):
    """A module that holds one NEFF as a tensor of bytes, and one as text."""

    def __init__(self, buffer: bytes, text: str) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(100, 100))
        self.register_buffer("neff", torch.frombuffer(bytearray(buffer), dtype=torch.uint8))
        self.register_buffer("decoy", torch.tensor([1, 1024, 5, 2, 0, 0, 0, 0] * 100))
        self.text = text

    def forward(self, ids: Tensor) -> Tensor:
        return ids + self.neff.sum() + len(self.text)


def as_text(name: str) -> str:
    """A NEFF that is text as well: torch writes the bytes of a string as they are, but Python's strings are Unicode."""
    content = build(name, payload=tarball({"sg00/def.json": b"{}"}, compressed=False))
    fields = list(HEADER.unpack(content[:HEADER_SIZE]))
    fields[7] = fields[8] = b"0"  # hash and uuid
    return (HEADER.pack(*fields) + content[HEADER_SIZE:]).decode("ascii")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(Holder(build("in a tensor", lnc=2), as_text("in a string"))), path)
    return path


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """What `neuronbert inspect` prints."""
    import signal

    from cli.app import main

    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["neuronbert", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert int(ended.value.code or 0) == code, captured.err
        return captured.err if code else captured.out

    held = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, held)


def test_neffs_are_found_in_what_torch_saves(program: Path) -> None:
    found = find_neffs(program)
    assert {one.header.name: (one.member, one.payload, one.header.lnc_size) for one in found} == {
        "in a tensor": ("model/data/1", "gzip", 2),
        "in a string": ("model/data.pkl", "tar", 1),
    }
    assert all(read_header(program, one.offset or 0) == one.header for one in found)


def test_nothing_of_an_archive_is_unpickled(program: Path, tmp_path: Path) -> None:
    target = tmp_path / "written"
    attack = b"cposix\nsystem\n(S'touch " + str(target).encode() + b"'\ntR." + build("behind an attack")
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(tmp_path / "hostile.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, attack if name.endswith(".pkl") else old.read(name))
    assert "behind an attack" in {one.header.name for one in find_neffs(tmp_path / "hostile.pt")}
    assert not target.exists()


def test_inspect_shows_the_neffs_of_an_artifact(inspect, exported, copied, program: Path) -> None:
    artifact = copied(exported("fill-mask"))
    assert "neff" not in inspect(artifact)
    assert json.loads(inspect(artifact, "--json"))["neffs"] == []

    program.replace(artifact / "model.neuron")
    seal(artifact, Artifact.open(artifact, verify=False).manifest)
    lines = [line.split() for line in inspect(artifact).splitlines()]
    row = next(line for line in lines if line[-3:] == ["in", "a", "tensor"])
    assert row[:6] == ["model.neuron", "2.0", "2.26.6360.0", "1", "2", "1024"]
    body = json.loads(inspect(artifact, "--json"))
    assert [one["header"]["name"] for one in body["neffs"]] == ["in a tensor", "in a string"]
    assert {one["file"] for one in body["neffs"]} == {"model.neuron"}
    assert body["task"] == "fill-mask"


def test_inspect_shows_the_header_of_a_file_alone(inspect, exported, program: Path, tmp_path: Path) -> None:
    (tmp_path / "file.neff").write_bytes(build("alone", version=(2, 1), cores=4))
    heading, _, row = inspect(tmp_path / "file.neff").splitlines()
    assert heading.split()[:5] == ["neff", "in", "version", "build", "cores"]
    assert row.split()[:4] == ["file.neff", "2.1", "2.26.6360.0", "4"]
    assert len(json.loads(inspect(program, "--json"))["neffs"]) == 2
    plain = exported("fill-mask") / "model.neuron"
    assert inspect(plain) == ""
    assert json.loads(inspect(plain, "--json")) == {"neffs": []}


def test_inspect_refuses_a_broken_neff_in_one_line(inspect, tmp_path: Path) -> None:
    (tmp_path / "file.neff").write_bytes(build()[:-1])
    said = inspect(tmp_path / "file.neff", code=2)
    assert said.count("\n") == 1
    assert "cut off" in said
