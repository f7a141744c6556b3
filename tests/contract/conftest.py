"""The targets of the conformance suite: the CPU, the doubles, and on request the device of this machine."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from neuronbert import Artifact, ExportSpec, StaticShape, export, sdk
from neuronbert.backends import neuronx, torchneuron
from neuronbert.manifest import Manifest
from tests.contract.small import SHAPE, Small
from tests.support import neuron
from tests.support.distributions import lay_out_compiler
from tests.unit.builders import make_manifest

DEVICE_TESTS = "NEURONBERT_TEST_TARGET"
"""The target of the Neuron device here; `make test-neuron` sets it."""
TARGETS = ["cpu", "inf2 double", "trn2 double", "trn3 double", *(["device"] if DEVICE_TESTS in os.environ else [])]
ONE_OF_A_KIND = [target for target in TARGETS if target != "trn2 double"]
"""Where the library matters and not the device: the double of trn2's is that of inf2's."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., ModuleType | None]]:
    """Makes this process a machine with the vendor's packages (their doubles), and perhaps a device."""

    def make(
        device: str | None = None,
        *,
        version: str = neuron.TRACE,
        compiler: str = neuron.COMPILER,
        source: str = "torch_neuronx",
        **settings: Any,
    ) -> None:
        site = tmp_path / "site"
        site.mkdir()
        neuron.install(site, version, source)
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PATH", f"{lay_out_compiler(site, compiler)}:{os.environ['PATH']}")
        set_machine(device=device, compiler=compiler, **settings)

    def set_machine(**settings: Any) -> None:
        device = settings["device"]
        monkeypatch.setattr(sdk, "find_device", lambda *_: sdk.Device(device, 1) if device else None)
        monkeypatch.setenv("NEURON_DOUBLE", json.dumps(settings))

    for name in ("NEURON_PLATFORM_TARGET_OVERRIDE", "NEURON_LOGICAL_NC_CONFIG", "NEURON_CC_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    make.set_machine = set_machine  # type: ignore[attr-defined]
    forget()
    yield make
    forget()
    os.environ.pop("NEURON_PLATFORM_TARGET_OVERRIDE", None)
    importlib.invalidate_caches()


def forget() -> None:
    """Take the vendor's library out of this process, as a new one starts without it."""
    library = sys.modules.get("torch_neuronx")
    if hasattr(library, "unload"):  # only a double has it: a real one stays, as no process can import it twice
        del sys.modules["torch_neuronx"]
        library.unload()


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A target that this process can compile for and run on."""
    name, _, double = request.param.partition(" ")
    if name == "device":
        return os.environ[DEVICE_TESTS]
    host = request.getfixturevalue("host")
    if double:
        native = name == "trn3"
        host(
            name,
            version=neuron.NATIVE if native else neuron.TRACE,
            source="torch_native" if native else "torch_neuronx",
        )
        monkeypatch.setattr(torchneuron, "DEVICE", "cpu")  # the double has no device of its own
    return name


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., tuple[Path, Manifest]]:
    """Compiles the small head without an export around it."""

    def make(*shapes: StaticShape, target: str = "inf2", **options: Any) -> tuple[Path, Manifest]:
        spec = ExportSpec("m", shapes or (SHAPE,), "fill-mask", target=target, **options)
        folder = tmp_path / "compiled"
        folder.mkdir(exist_ok=True)
        examples = {shape: (torch.ones(shape.dims, dtype=torch.int64),) * 2 for shape in spec.shapes}
        done = neuronx.compiler().compile(Small().eval(), examples, spec, folder)
        fields = {"programs": done.programs, "compiler": done.compiler, "dynamic_batch": spec.dynamic_batch}
        return folder, make_manifest(target=target, backend="neuronx", **fields)

    return make


@pytest.fixture
def exporting(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Artifact]:
    """Exports a checkpoint to a folder "out" in a folder of its own."""

    def make(target: str = "inf2", *shapes: StaticShape, **options: Any) -> Artifact:
        overwrite = options.pop("overwrite", False)
        shapes = shapes or (StaticShape(1, 8),)
        spec = ExportSpec(str(tiny("text-classification")), shapes, "text-classification", target=target, **options)
        (tmp_path / "exports").mkdir(exist_ok=True)
        return export(spec, tmp_path / "exports" / "out", overwrite=overwrite)

    return make


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def edit(tmp_path: Path) -> Callable[[Callable[[str], str]], None]:
    """Makes the library that `host` installed another one."""

    def change(new: Callable[[str], str]) -> None:
        code = tmp_path / "site" / "torch_neuronx" / "__init__.py"
        before = code.read_text()
        assert new(before) != before
        code.write_text(new(before))

    return change
