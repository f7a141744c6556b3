"""The targets of the conformance suite: the CPU, the doubles, and on request the device of this machine."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neuronbert import sdk
from tests.support import neuron

DEVICE_TESTS = "NEURONBERT_TEST_TARGET"
"""The target of the Neuron device here; `make test-neuron` sets it."""


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
        neuron.install(site, "torch-neuronx", version, source)
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PATH", f"{neuron.install_compiler(site, compiler)}:{os.environ['PATH']}")
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
    library = sys.modules.pop("torch_neuronx", None)
    if library is not None and hasattr(library, "unload"):
        library.unload()
