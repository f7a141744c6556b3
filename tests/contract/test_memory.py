"""Programs that can't fit on a core together are refused before one is compiled."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from neuronbert import Cache, ExportSpec, StaticShape, export
from neuronbert.backends.neuronx import NeuronxCompiler
from neuronbert.errors import DeviceMemoryError
from neuronbert.preflight import footprint
from neuronbert.targets import TARGETS
from tests.support import neuron

SHAPES = (StaticShape(1, 16), StaticShape(2, 16), StaticShape(4, 32))
OUTPUTS = 4 * 32 * (4 * 30522 + 3 * 8)
"""With the inputs, of the largest."""


@pytest.fixture
def spec(tiny) -> ExportSpec:
    return ExportSpec(str(tiny("fill-mask")), SHAPES, "fill-mask", target="inf2", auto_cast="none")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the cores of a target smaller."""

    def make(size: int, target: str = "inf2") -> None:
        smaller = MappingProxyType({**TARGETS, target: replace(TARGETS[target], hbm_bytes=size)})
        monkeypatch.setattr(footprint, "TARGETS", smaller)

    return make


def weights_of(model: str) -> int:
    return (Path(model) / "model.safetensors").stat().st_size


def test_too_many_are_refused_with_how_many_fit(host, room, spec: ExportSpec, tmp_path: Path) -> None:
    host("inf2")
    weights = weights_of(spec.model)
    room(int(2.5 * weights) + footprint.CODE_BYTES + OUTPUTS)
    with pytest.raises(DeviceMemoryError, match=r"use at most 2 \("):
        export(spec, tmp_path / "out", cache=False)
    assert list(tmp_path.glob("*out*")) == []
    room(int(3.5 * weights) + footprint.CODE_BYTES + OUTPUTS)
    export(spec, tmp_path / "out", cache=False)


def test_nothing_is_compiled_before(
    host, room, spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host("inf2")
    room(footprint.CODE_BYTES)
    monkeypatch.setattr(NeuronxCompiler, "compile", lambda *_: pytest.fail("compiled"))
    with pytest.raises(DeviceMemoryError, match="another --target"):
        export(spec, tmp_path / "out", cache=False)


def test_what_they_take_is_said_from_the_cache_too(host, spec: ExportSpec, tmp_path: Path, caplog) -> None:
    host("inf2")
    cache = Cache(tmp_path / "cache", 1 << 30)
    for output in ("made", "copied"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "neuronbert"):
            export(spec, tmp_path / output, cache=cache)
        assert [record.getMessage() for record in caplog.records if "3 programs take up to" in record.getMessage()]


def test_weights_that_programs_share_count_once(host, room, spec: ExportSpec, tmp_path: Path) -> None:
    host("trn3", version=neuron.NATIVE, source="torch_native")
    room(int(1.5 * weights_of(spec.model)) + 2 * footprint.CODE_BYTES + OUTPUTS, "trn3")
    export(replace(spec, target="trn3"), tmp_path / "out", cache=False)


def test_nothing_is_said_of_one_program_or_of_the_cpu(host, spec: ExportSpec, tmp_path: Path, caplog) -> None:
    host("inf2")
    export(replace(spec, shapes=SHAPES[:1]), tmp_path / "one", cache=False)
    export(replace(spec, target="cpu"), tmp_path / "cpu", cache=False)
    assert "NeuronCore" not in caplog.text
