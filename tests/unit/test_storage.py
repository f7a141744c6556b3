from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from neuronbert.backends.storage import reserve


def test_the_weights_and_some_more_are_asked_for_before_the_block(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    with reserve(path, 1000):
        assert path.stat().st_size >= 1000 + (1 << 20)
        assert path.stat().st_blocks * 512 >= path.stat().st_size  # there, and not only said to be
        path.write_bytes(b"short")
    assert path.read_bytes() == b"short"


def test_without_room_the_block_never_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"), reserve(tmp_path / "program.pt", 1):
        pytest.fail("it was written")


def test_a_folder_that_is_not_there_is_the_error_of_opening(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), reserve(tmp_path / "no" / "program.pt", 1):
        pytest.fail("it was written")
