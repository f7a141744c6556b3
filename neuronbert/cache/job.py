"""What is to be compiled, and all that the result depends on.

Owns: what a key of the compile cache is made of. Knows nothing of where programs are kept, nor of any framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert import provenance, sentences
from neuronbert.architectures import find_head
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import CheckpointCorruptError
from neuronbert.provenance import digest

if TYPE_CHECKING:
    from neuronbert.cache.entry import Build
    from neuronbert.spec import ExportSpec

_VARIABLES: Final = {"neuronx": provenance.COMPILING}
"""Backend to the environment variables that its export goes by; the others' compile nothing for a Neuron device."""
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
        return {
            "task": spec.task,
            "class": find_head(checkpoint.architecture, spec.task),
            "config": self.config(),
            "spec": spec.fingerprint(),
            "target": spec.target,
            "backend": self.backend,
            "versions": provenance.versions(),
            "code": provenance.code(),
            "flags": provenance.variables(_VARIABLES.get(self.backend, ())),
        }

    def config(self) -> str:
        """The digest of what matters of config.json."""
        named = {name: value for name, value in self.checkpoint.config.items() if name not in _NAMES}
        modules = [module.described() for module in self.checkpoint.modules]
        return digest({"config": named, "modules": modules} if modules else named)

    def check_unchanged(self, weights: str, build: Build) -> None:
        """Refuse programs of a checkpoint that was replaced while they were made: the key would be that of others.

        Raises:
            CheckpointCorruptError: it was.
        """
        opened = sentences.with_modules(Checkpoint.open(self.checkpoint.path), self.spec.task)
        now = Job(opened, self.spec, self.backend)
        if build.weights_sha256 != weights or now.config() != self.config():
            raise CheckpointCorruptError(self.checkpoint.path, "it was changed while it was exported")
