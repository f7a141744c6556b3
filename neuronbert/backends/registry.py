"""Which backend serves which target.

Owns: the table of backends, imported on first use, and the choice that "auto" makes. Knows nothing of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from neuronbert import sdk, targets
from neuronbert.errors import BackendUnavailableError, InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.backends.base import Compiler, Runtime

BACKENDS: Final[Mapping[str, str]] = {
    "cpu": "neuronbert.backends.cpu",
    "neuronx": "neuronbert.backends.neuronx",
    "torchneuron": "neuronbert.backends.torchneuron",
}
"""Backend name to the module that has its `compiler()` and `runtime()`."""

_BACKEND_OF: Final[Mapping[str, str]] = {"trace": "neuronx", "native": "torchneuron"}
"""Which backend stands on which of the vendor's libraries."""

TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "cpu": ("cpu",),
    **{target: tuple(_BACKEND_OF[kind] for kind in facts.kinds) for target, facts in targets.TARGETS.items()},
}
"""Target to the backends that serve it, the one that compiles without a device first."""


def resolve_target(target: str) -> tuple[str, str]:
    """The target meant by a name, and its backend.

    "auto" is the Neuron device of this machine, or the CPU if it has none that is served. Where two backends serve a
    target, the one whose library is installed is taken; or, where none is, the one that can export here.

    Raises:
        InvalidOptionError: there is no such target.
    """
    name = target
    if target == "auto":
        device = sdk.find_device()
        name = device.target if device and device.target and device.target in TARGETS else "cpu"
    if name not in TARGETS:
        raise InvalidOptionError("target", target, "one of auto, " + ", ".join(TARGETS))
    backends = TARGETS[name]
    if len(backends) == 1:
        return name, backends[0]
    return name, _BACKEND_OF[sdk.choose_kind(name, sdk.find_library(), sdk.find_torch())]


def compiler(backend: str, target: str) -> Compiler:
    """The compiler of a backend, if it can work here.

    Raises:
        BackendUnavailableError: it can't; the message says why.
    """
    return cast("Compiler", _find("compiler", backend, target))


def runtime(backend: str, target: str) -> Runtime:
    """The runtime of a backend, if it can work here.

    Raises:
        BackendUnavailableError: it can't; the message says why.
    """
    return cast("Runtime", _find("runtime", backend, target))


def _find(part: str, backend: str, target: str) -> Compiler | Runtime:
    if backend not in BACKENDS:
        raise BackendUnavailableError(target, f"the artifact needs the backend {backend!r}, which this version lacks")
    if backend not in TARGETS.get(target, ()):
        raise BackendUnavailableError(target, f"the backend {backend} doesn't serve it")
    found: Compiler | Runtime = getattr(import_module(BACKENDS[backend]), part)()
    state = found.availability(target)
    if not state.ok:
        raise BackendUnavailableError(target, state.reason)
    return found
