"""What a checkpoint's file may name: nothing is imported or run, whatever it says."""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import signal
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuronbert.errors import CheckpointCorruptError, UnsafePickleError
from neuronbert.megatron import pickles

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


class Hostile:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def save(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@FORMATS
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}",)),
        (subprocess.Popen, ("touch {}",)),
        (eval, ("open('{}', 'w')",)),
        (exec, ("open('{}', 'w')",)),
        (os.mkdir, ("{}",)),
        (functools.partial, (os.mkdir, "{}")),
        (torch.load, ("{}",)),
    ],
    ids=["system", "popen", "eval", "exec", "mkdir", "partial", "torch.load"],
)
@pytest.mark.parametrize("place", ["model", "args", "optimizer"])
def test_what_a_file_asks_for_is_not_run(
    tmp_path: Path, function: Any, arguments: tuple[Any, ...], place: str, legacy: bool
) -> None:
    canary = tmp_path / "canary"
    told = [text.format(canary) if isinstance(text, str) else text for text in arguments]
    path = save({"model": {}, place: Hostile(function, *told)}, tmp_path / "file.pt", legacy=legacy)
    with pytest.raises(UnsafePickleError, match=r"which is not on the list.*Nothing of it was run"):
        pickles.load(path)
    assert not canary.exists()


@FORMATS
def test_the_name_that_is_refused_is_said(tmp_path: Path, legacy: bool) -> None:
    path = save({"args": Hostile(shutil.rmtree, "nothing")}, tmp_path / "file.pt", legacy=legacy)
    with pytest.raises(UnsafePickleError, match=r"asks for shutil\.rmtree, which"):
        pickles.load(path)


@FORMATS
def test_a_class_of_megatron_becomes_plain_data_and_its_module_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "enums.py").write_text(f"open({str(canary)!r}, 'w')\n")
    module = types.ModuleType("megatron.enums")
    module.Kind = type("Kind", (), {"__module__": "megatron.enums", "__qualname__": "Kind"})
    kind = module.Kind()
    kind.value = 7
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "megatron", types.ModuleType("megatron"))
        patch.setitem(sys.modules, "megatron.enums", module)
        path = save({"model": {}, "args": argparse.Namespace(kind=kind, count=3)}, tmp_path / "f.pt", legacy=legacy)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = pickles.load(path)["args"]
    assert type(arguments) is type(arguments.kind) is pickles.Plain
    assert arguments.count == 3
    assert arguments.kind.value == 7
    assert not canary.exists()
    assert "megatron.enums" not in sys.modules


@FORMATS
def test_what_training_leaves_beside_the_weights_is_read(tmp_path: Path, legacy: bool) -> None:
    content = {
        "checkpoint_version": 3.0,
        "args": argparse.Namespace(params_dtype=torch.float16, exit_signal=signal.SIGTERM, data=Path("/data")),
        "model": OrderedDict(weight=torch.arange(6.0).view(2, 3)),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "numpy": np.float64(1.5),
        "torch_rng_state": torch.get_rng_state(),
    }
    loaded = pickles.load(save(content, tmp_path / "file.pt", legacy=legacy))
    assert torch.equal(loaded["model"]["weight"], content["model"]["weight"])
    assert loaded["args"].params_dtype is torch.float16
    assert loaded["checkpoint_version"] == 3.0


def test_an_allowed_name_stays_forbidden_to_others_afterwards(tmp_path: Path) -> None:
    path = save({"args": argparse.Namespace(a=1)}, tmp_path / "file.pt")
    pickles.load(path)
    with pytest.raises(Exception, match=r"argparse\.Namespace"):
        torch.load(path, weights_only=True)


@FORMATS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float, legacy: bool) -> None:
    path = save({"model": {"weight": torch.ones(4000)}}, tmp_path / "file.pt", legacy=legacy)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointCorruptError, match=r"Fetch or save"):
        pickles.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04", bytes(range(256)) * 20], ids=range(5)
)
def test_what_torch_never_wrote_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(CheckpointCorruptError, match=r"neither a zip nor a file of torch\.save"):
        pickles.load(tmp_path / "file.pt")


@pytest.mark.parametrize("length", [1 << 40, 1 << 62, (1 << 63) - 1])
@pytest.mark.parametrize("opcode", [b"\x8d", b"\x8e", b"\x96"], ids=["text", "bytes", "bytearray"])
def test_a_length_that_no_memory_has_is_refused(tmp_path: Path, opcode: bytes, length: int) -> None:
    content = b"\x80\x02" + opcode + length.to_bytes(8, "little")
    (tmp_path / "file.pt").write_bytes(pickles._LEGACY_START + b"." + content)
    with pytest.raises(CheckpointCorruptError, match="can't be read as plain data"):
        pickles.load(tmp_path / "file.pt")


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("content", [1, Hostile(os.system, "true")], ids=["plain", "hostile"])
def test_a_protocol_that_is_not_read_is_said_in_our_own_words(tmp_path: Path, content: object, protocol: int) -> None:
    torch.save({"args": content}, tmp_path / "file.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointCorruptError, match=rf"its pickle has protocol {protocol}, torch\.save's own is 2\."):
        pickles.load(tmp_path / "file.pt")


def test_the_older_protocol_3_is_read_without_a_warning(tmp_path: Path) -> None:
    torch.save({"count": 1}, tmp_path / "file.pt", pickle_protocol=3)
    assert pickles.load(tmp_path / "file.pt") == {"count": 1}


@FORMATS
def test_torchs_advice_to_load_without_care_is_not_passed_on(tmp_path: Path, legacy: bool) -> None:
    path = save({"count": 10**5000}, tmp_path / "file.pt", legacy=legacy)
    with pytest.raises(CheckpointCorruptError) as caught:
        pickles.load(path)
    assert "can't be read as plain data (Unsupported operand 139). Fetch" in str(caught.value)


def test_pythons_advice_on_digits_is_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(pickles._LEGACY_START + b".\x80\x02I" + b"9" * 5000 + b"\n.")
    with pytest.raises(CheckpointCorruptError, match=r"value has 5000 digits\)\. Fetch"):
        pickles.load(tmp_path / "file.pt")


@pytest.mark.parametrize("content", [[1], torch.ones(2), "text"], ids=["list", "tensor", "text"])
def test_a_file_without_a_dictionary_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointCorruptError, match="not the dictionary of a checkpoint"):
        pickles.load(save(content, tmp_path / "file.pt"))


def test_a_file_whose_members_are_compressed_is_refused(tmp_path: Path) -> None:
    path = save({"model": {"weight": torch.zeros(100_000)}}, tmp_path / "file.pt")
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(CheckpointCorruptError, match="is compressed"):
        pickles.load(packed)


def test_weights_are_mapped_not_read(tmp_path: Path) -> None:
    path = save({"model": {"weight": torch.ones(1000)}}, tmp_path / "file.pt")
    pickles.load(path)["model"]["weight"].zero_()  # a private mapping: the file stays as it is
    assert torch.equal(pickles.load(path)["model"]["weight"], torch.ones(1000))
