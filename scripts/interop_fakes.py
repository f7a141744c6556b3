"""The Neuron SDK's Python packages as far as optimum-neuron imports them: enough to run its own code on a CPU.

Owns: what stands in for `neuronx_distributed`, and on request for `torch_neuronx`, `torch_xla` and `neuronxcc`. They do
nothing that a device or the compiler would do: a trace is torch's own, so it proves optimum-neuron's side of the
exchange and nothing about Neuron. Runs in optimum-neuron's environment only; knows nothing of neuronbert.
"""

from __future__ import annotations

import sys
import types
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COMPILER_VERSION = "2.21.33363.0"
"""What optimum-neuron 0.4.5 pins."""
_SDK = {
    "torch_neuronx": "2.8.0.2.10.16998",
    "neuronxcc": COMPILER_VERSION,
    "torch_xla": "2.8.0",
    "libneuronxla": "2.2.12677.0",
}


class _Package(types.ModuleType):
    """A package that has every submodule and every name; each name is an empty class, to be inherited from."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class _Installed(Distribution):
    """What importlib.metadata says of a package that stands in."""

    def __init__(self, name: str, version: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        """The package's METADATA; it has no other file."""
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        """There is no file to be found."""
        raise FileNotFoundError(path)


class _Finder(Loader, DistributionFinder):
    """Finds the packages that stand in, and what is said to be installed of them."""

    def __init__(self, packages: Mapping[str, str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """The spec of any module below one of the packages."""
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self._packages else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """A permissive package, with what optimum-neuron calls of torch_neuronx."""
        module = _Package(spec.name)
        if spec.name in self._packages:
            vars(module)["__version__"] = self._packages[spec.name]
        if spec.name == "torch_neuronx":
            vars(module).update(trace=_trace, dynamic_batch=_dynamic_batch, experimental=_Experimental)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is left to run."""

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """The distribution of the package that is asked about."""
        name = getattr(context, "name", None)
        return [_Installed(name, self._packages[name])] if name in self._packages else []


class _Experimental:
    @staticmethod
    def set_neuron_cores(model: object, start_nc: int, nc_count: int) -> None:
        """Programs stay on the CPU."""


def _dynamic_batch(model: Any) -> Any:
    return model


def _trace(  # noqa: PLR0913  the keywords that optimum-neuron passes, and no others
    model: Any,
    example_inputs: Any,
    *,
    compiler_args: str,  # noqa: ARG001
    input_output_aliases: Mapping[Any, int],  # noqa: ARG001
    inline_weights_to_neff: bool,  # noqa: ARG001
    cpu_backend: bool,  # noqa: ARG001
    compiler_workdir: str | None,  # noqa: ARG001
) -> Any:
    import torch

    with torch.no_grad():
        return torch.jit.trace(model, example_inputs, check_trace=False, strict=False)


def install(*, sdk: bool) -> None:
    """Make the packages importable.

    Args:
        sdk: torch_neuronx and the compiler as well: without them optimum-neuron loads programs, but exports none.
    """
    packages = {"neuronx_distributed": "0.15.22404"} | (_SDK if sdk else {})
    sys.meta_path.insert(0, _Finder(packages))
