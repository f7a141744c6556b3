"""Which backend serves which target.

Owns: the table of backends, imported on first use, and the choice that "auto" makes. Knows nothing of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from neuronbert.errors import BackendUnavailableError, InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.backends.base import Compiler, Runtime

BACKENDS: Final[Mapping[str, str]] = {"cpu": "neuronbert.backends.cpu"}
"""Backend name to the module that has its `compiler()` and `runtime()`."""

TARGETS: Final[Mapping[str, str | None]] = {
    "cpu": "cpu",
    "inf2": None,
    "trn1": None,
    "trn1n": None,
    "trn2": None,
    "trn3": None,
}
"""Target to the backend that serves it; None where there is none yet."""

_NO_BACKEND: Final = "this version of neuronbert has no backend for Neuron devices yet"


def resolve_target(target: str) -> tuple[str, str]:
    """The target meant by a name, and its backend; "auto" is the CPU while no other backend exists.

    Raises:
        InvalidOptionError: there is no such target.
        BackendUnavailableError: no backend serves it.
    """
    name = "cpu" if target == "auto" else target
    if name not in TARGETS:
        raise InvalidOptionError("target", target, "one of auto, " + ", ".join(TARGETS))
    backend = TARGETS[name]
    if backend is None:
        raise BackendUnavailableError(name, _NO_BACKEND)
    return name, backend


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
    found: Compiler | Runtime = getattr(import_module(BACKENDS[backend]), part)()
    state = found.availability(target)
    if not state.ok:
        raise BackendUnavailableError(target, state.reason)
    return found
