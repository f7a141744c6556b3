"""What a program comes from besides its checkpoint and its spec: libraries, this package's code, the environment.

Owns: which of them count, and the one digest of a value. Knows nothing of what is kept under it, nor of any framework.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuronbert import reference
from neuronbert._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

TOOLS: Final = ("torch", "transformers", "torch-neuronx", "neuronx-cc", "libneuronxla", "torch-xla")
"""The distributions that take part in compiling."""
COMPILING: Final = (
    reference.COMPILER_FLAGS,
    "NEURON_CUSTOM_SILU",
    "NEURON_FUSE_SOFTMAX",
    reference.LOGICAL_CORES,
    "XLA_DENSE_GATHER_FACTOR",
    "XLA_DISABLE_FUNCTIONALIZATION",
    "XLA_FLAGS",
    "XLA_HANDLE_SPECIAL_SCALAR",
    "XLA_USE_32BIT_LONG",
    *reference.XLA_BF16,
)
"""The variables of the SDK's documentation that change what torch_neuronx.trace compiles. By name: most others only say
where something is put or how much is said of it, and would have everything compiled anew."""
RUNNING: Final = (reference.ROUNDING, reference.NO_FALLBACK)
"""Those that change what a program answers when it is run, or whether it is a compiled one that does."""


def canonical(value: object) -> bytes:
    """The one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest(value: object) -> str:
    """The sha256 of the one JSON text of a value."""
    return hashlib.sha256(canonical(value)).hexdigest()


def versions(names: Iterable[str] = TOOLS) -> dict[str, str]:
    """The versions of this package and of those distributions that are installed."""
    found = {"neuronbert": __version__}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def variables(names: Iterable[str]) -> dict[str, str]:
    """Those environment variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


@functools.cache
def code() -> str:
    """The digest of this package's own code: between two releases, the version says nothing."""
    known = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        known.update(path.read_bytes())
    return known.hexdigest()
