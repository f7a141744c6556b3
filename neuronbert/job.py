"""What is to be compiled, and all that the result depends on.

Owns: what a key of the compile cache is made of. Knows nothing of where programs are kept, nor of any framework.
"""

from __future__ import annotations

import functools
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuronbert._version import __version__
from neuronbert.architectures import find_head
from neuronbert.checkpoint import Checkpoint
from neuronbert.entry import digest
from neuronbert.errors import CheckpointCorruptError

if TYPE_CHECKING:
    from neuronbert.entry import Build
    from neuronbert.spec import ExportSpec

_TOOLS: Final = ("torch", "transformers", "torch-neuronx", "neuronx-cc", "libneuronxla", "torch-xla")
_FLAGS: Final = ("NEURON_", "XLA_", "TORCH_NEURONX_")
"""How variables begin that a Neuron compiler or its front end reads."""
_NO_FLAGS: Final = ("NEURON_RT_", "NEURON_PLATFORM_TARGET_OVERRIDE")
"""Those that say where programs run; the target is in the spec."""
_NAMES: Final = frozenset({"_name_or_path", "transformers_version"})
"""Keys of config.json that say where a checkpoint is from, not what it is."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be compiled.

    Attributes:
        checkpoint: From what.
        spec: How, with its task and its target resolved.
        backend: By what.
    """

    checkpoint: Checkpoint
    spec: ExportSpec
    backend: str

    def origin(self) -> dict[str, Any]:
        """All that the programs depend on, but for the weights."""
        checkpoint, spec = self.checkpoint, self.spec
        device = self.backend != "cpu"
        return {
            "task": spec.task,
            "class": find_head(checkpoint.architecture, spec.task),
            "config": self.config(),
            "spec": spec.fingerprint(),
            "target": spec.target,
            "backend": self.backend,
            "versions": _versions(),
            "code": _code(),
            "flags": {name: os.environ[name] for name in sorted(os.environ) if device and _is_flag(name)},
        }

    def config(self) -> str:
        """The digest of what matters of config.json."""
        return digest({name: value for name, value in self.checkpoint.config.items() if name not in _NAMES})

    def check_unchanged(self, weights: str, build: Build) -> None:
        """Refuse programs of a checkpoint that was replaced while they were made: the key would be that of others.

        Raises:
            CheckpointCorruptError: it was.
        """
        now = Job(Checkpoint.open(self.checkpoint.path), self.spec, self.backend)
        if build.weights_sha256 != weights or now.config() != self.config():
            raise CheckpointCorruptError(self.checkpoint.path, "it was changed while it was exported")


def _is_flag(name: str) -> bool:
    return name.startswith(_FLAGS) and not name.startswith(_NO_FLAGS)


@functools.cache
def _versions() -> dict[str, str]:
    found = {"neuronbert": __version__}
    for name in _TOOLS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@functools.cache
def _code() -> str:
    """The digest of this package's own code: between two releases, the version says nothing."""
    known = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        known.update(path.read_bytes())
    return known.hexdigest()
