from __future__ import annotations

import pytest

from neuronbert import sdk
from neuronbert.backends import registry
from neuronbert.errors import BackendUnavailableError, InvalidOptionError

DEVICES = ["inf2", "trn1", "trn1n", "trn2", "trn3"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Makes this a machine with a device and a library, or without."""

    def make(device: sdk.Device | None = None, library: sdk.Library | None = None, torch: str = "2.9.1") -> None:
        monkeypatch.setattr(sdk, "find_device", lambda *_: device)
        monkeypatch.setattr(sdk, "find_library", lambda *_: library)
        monkeypatch.setattr(sdk, "find_torch", lambda: torch)

    return make


@pytest.mark.parametrize(
    ("target", "backend"),
    [("cpu", "cpu"), ("inf2", "neuronx"), ("trn1", "neuronx"), ("trn1n", "neuronx"), ("trn3", "torchneuron")],
)
def test_a_target_of_one_backend_has_it_whatever_is_installed(machine, target: str, backend: str) -> None:
    for library in (None, sdk.Library("trace", "2.9.0"), sdk.Library("native", "2.13.3.0"), sdk.Library("stub", "1.0")):
        machine(library=library)
        assert registry.resolve_target(target) == (target, backend)


@pytest.mark.parametrize(
    ("library", "backend"),
    [
        (None, "neuronx"),
        (sdk.Library("trace", "2.9.0.2.15.32035"), "neuronx"),
        (sdk.Library("native", "2.13.3.0"), "torchneuron"),
        (sdk.Library("stub", "1.0.post1"), "neuronx"),
    ],
)
def test_trn2_has_the_backend_of_the_library_that_is_installed(
    machine, library: sdk.Library | None, backend: str
) -> None:
    machine(library=library)
    assert registry.resolve_target("trn2") == ("trn2", backend)


def test_trn2_has_the_backend_that_can_export_here_where_no_library_is_installed(machine) -> None:
    machine(torch="2.13.0+cpu")
    assert registry.resolve_target("trn2") == ("trn2", "torchneuron")
    machine(torch="2.12.0")
    assert registry.resolve_target("trn2") == ("trn2", "neuronx")


@pytest.mark.parametrize("kind", DEVICES)
def test_auto_is_the_device_of_this_machine(machine, kind: str) -> None:
    machine(sdk.Device(kind, 1))
    assert registry.resolve_target("auto")[0] == kind


@pytest.mark.parametrize("device", [None, sdk.Device(None, 1), sdk.Device("inf1", 4)], ids=["none", "unknown", "older"])
def test_auto_is_the_cpu_where_there_is_no_device_that_is_served(machine, device: sdk.Device | None) -> None:
    machine(device)
    assert registry.resolve_target("auto") == ("cpu", "cpu")


@pytest.mark.parametrize("target", ["inf1", "INF2", "", "trn4", "neuronx"])
def test_other_targets_are_refused_with_those_there_are(machine, target: str) -> None:
    machine()
    with pytest.raises(InvalidOptionError, match="one of auto, cpu, inf2, trn1, trn1n, trn2, trn3"):
        registry.resolve_target(target)


@pytest.mark.parametrize("find", [registry.compiler, registry.runtime], ids=["compiler", "runtime"])
@pytest.mark.parametrize(
    ("backend", "target", "said"),
    [
        ("tpu", "cpu", "the artifact needs the backend 'tpu'"),
        ("neuronx", "cpu", "the backend neuronx doesn't serve it"),
        ("neuronx", "trn3", "the backend neuronx doesn't serve it"),
        ("torchneuron", "inf2", "the backend torchneuron doesn't serve it"),
        ("cpu", "inf2", "the backend cpu doesn't serve it"),
        ("neuronx", "moon", "the backend neuronx doesn't serve it"),
    ],
)
def test_what_an_artifact_says_of_backend_and_target_must_fit(find, backend: str, target: str, said: str) -> None:
    with pytest.raises(BackendUnavailableError, match=said):
        find(backend, target)


def test_every_backend_of_a_target_is_one_that_there_is() -> None:
    assert {backend for backends in registry.TARGETS.values() for backend in backends} == set(registry.BACKENDS)
    assert set(registry.TARGETS) == {"cpu", *DEVICES}
