"""The key of the compile cache: whatever changes a program is in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from neuronbert import StaticShape, provenance
from neuronbert.cache import job
from neuronbert.spec import ExportSpec
from tests.unit.jobs import make_job, write_checkpoint


@pytest.fixture
def asked(tmp_path: Path) -> job.Job:
    return make_job(write_checkpoint(tmp_path / "checkpoint"))


CHANGES: dict[str, dict[str, Any]] = {
    "shape": {"shapes": (StaticShape(2, 9),)},
    "order of shapes": {"shapes": (StaticShape(2, 9), StaticShape(2, 8))},
    "task": {"task": "feature-extraction"},
    "target": {"target": "inf2"},
    "backend": {"backend": "neuronx"},
    "auto-cast": {"auto_cast": "all"},
    "auto-cast type": {"auto_cast_type": "fp16"},
    "any rows": {"dynamic_batch": True},
    "effort": {"optlevel": "1"},
    "logical cores": {"lnc": 1},
    "quantization": {"quantization": "qdq"},
    "tokens that go on": {"length_config": (4, 2)},
    "layers that run": {"layer_config": (0,)},
    "the first token": {"always_keep_cls_token": False},
    "how tokens are moved": {"selection": "one-hot"},
    "flags": {"compiler_args": ("--fast",)},
    "weights outside": {"inline_weights": False},
    "lazy": {"lazy_load": True},
    "async": {"async_load": True},
}
ELSEWHERE = {"model", "revision", "allow_random_weights", "compiler_workdir"}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_program_is_in_the_key(asked: job.Job, change: str) -> None:
    assert make_job(asked.checkpoint.path, **CHANGES[change]).origin() != asked.origin()


def test_every_field_of_a_spec_is_in_the_key_or_known_to_change_no_program() -> None:
    varied = {name for change in CHANGES.values() for name in change} - {"backend"}
    assert varied | ELSEWHERE == {field.name for field in dataclasses.fields(ExportSpec)}


def test_every_setting_of_the_config_is_in_the_key(tmp_path: Path, asked: job.Job) -> None:
    for settings in ({"layer_norm_eps": 1e-6}, {"hidden_act": "relu"}, {"id2label": {"0": "yes"}}):
        write_checkpoint(tmp_path / "other", **settings)
        assert make_job(tmp_path / "other").origin() != asked.origin()


def test_every_version_and_the_code_itself_is_in_the_key(asked: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    known = asked.origin()
    assert {"neuronbert", "torch", "transformers"} <= set(known["versions"])
    monkeypatch.setattr(provenance, "versions", lambda: {**known["versions"], "torch": "2.99"})
    assert asked.origin() != known
    monkeypatch.undo()
    monkeypatch.setattr(provenance, "code", lambda: "other")
    assert asked.origin() != known


def test_the_versions_of_a_neuron_compiler_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "version", {"neuronx-cc": "2.27.1", "torch": "2.9.1"}.get)
    found = provenance.versions()
    assert found["neuronx-cc"] == "2.27.1"


def test_what_the_environment_tells_a_neuron_compiler_is_in_the_key(
    asked: job.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_job(asked.checkpoint.path, target="inf2", backend="neuronx")
    here, there = asked.origin(), device.origin()
    loaded = make_job(asked.checkpoint.path, target="trn2", backend="torchneuron")
    later = loaded.origin()
    for name in ("NEURON_RT_VISIBLE_CORES", "NEURON_PROCESS_TAG", "NEURON_COMPILE_CACHE_URL"):
        monkeypatch.setenv(name, "a")
    monkeypatch.setenv("TORCH_NEURONX_NEFF_CACHE_DIR", "set by loading a program")
    assert device.origin() == there
    for name in provenance.COMPILING:
        monkeypatch.setenv(name, "--fast-math none")
        assert device.origin() != there, name
        there = device.origin()
    assert (asked.origin(), loaded.origin()) == (here, later)


def test_every_variable_of_the_key_is_on_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
    assert all(f"`{name}`" in page for name in provenance.COMPILING)
