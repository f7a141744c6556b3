"""Traced programs that come from elsewhere.

Each test names the page of the Neuron SDK's documentation that it holds the backend to. `trace`, `core-placement`,
`async-lazy-load` and `replace-weights` stand for
frameworks/torch/torch-neuronx/api-reference-guide/inference/api-torch-neuronx-*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuronbert import errors
from neuronbert.backends import registry, torchscript
from tests.contract.small import load
from tests.support.archives import change

Host = Callable[..., None]


def test_only_this_backend_runs_a_neurons_operator(host: Host, compiled: Any) -> None:
    """trace: the program "appears as a neuron::Model component with an associated neuron::forward* operation"."""
    host("inf2")
    folder, manifest = compiled()
    load(folder, manifest)
    with pytest.raises(errors.ArtifactCorruptError, match="contains the operator neuron::forward_v2"):
        torchscript.load(folder / "model.neuron", ["forward"])


class Reads(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor]:
        return (torch.from_file("/dev/zero", False, 4),)


class WithoutForward(nn.Module):
    @torch.jit.export
    def other(self, ids: Tensor) -> Tensor:
        return ids


@pytest.mark.parametrize(
    ("module", "said"),
    [(Reads(), "aten::from_file"), (WithoutForward(), "is not a traced program")],
    ids=["reads", "none"],
)
def test_a_program_that_acts_outside_itself_is_refused(host: Host, compiled: Any, module: nn.Module, said: str) -> None:
    host("inf2")
    folder, manifest = compiled()
    torch.jit.save(torch.jit.script(module), folder / "model.neuron")
    with pytest.raises(errors.ArtifactCorruptError, match=said):
        load(folder, manifest)


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        (b"torch.classes.other.Runner", True),
        (b"torch.classes.neuronish.Model", True),
        (b"torch.classtorch.classes.neuron.es.other", True),
        (b"def __setstate__(self)", True),
        (b"torch.classes.neuron.Model", False),
    ],
)
def test_code_that_would_act_while_it_is_loaded_is_refused(
    host: Host, compiled: Any, code: bytes, refused: bool
) -> None:
    """trace: of classes, an archive of this library has "neuron::Model"."""
    host("inf2")
    folder, manifest = compiled()

    def plant(contents: dict[str, bytes]) -> None:
        name = next(name for name in contents if "/code/" in name and name.endswith(".py"))
        contents[name] += b"\n# " + code + b"\n"

    change(folder / "model.neuron", plant)
    if not refused:
        assert load(folder, manifest)
        return
    with pytest.raises(errors.ArtifactCorruptError, match="run while it is loaded"):
        load(folder, manifest)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(host: Host, compiled: Any, part: float) -> None:
    host("inf2")
    folder, manifest = compiled()
    path = folder / "model.neuron"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(errors.ArtifactCorruptError, match="not a TorchScript archive"):
        load(folder, manifest)


@pytest.mark.parametrize(
    ("target", "backend"), [("cpu", "neuronx"), ("inf2", "torchneuron"), ("moon", "neuronx"), ("inf2", "cpu")]
)
def test_a_backend_that_does_not_serve_the_target_is_refused(host: Host, target: str, backend: str) -> None:
    host("inf2")
    for find in (registry.runtime, registry.compiler):
        with pytest.raises(errors.BackendUnavailableError, match=f"the backend {backend} doesn't serve it"):
            find(backend, target)
