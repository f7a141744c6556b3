"""A double of TorchNeuron (torch_neuronx 2.13): the backend "neuron" of torch.compile, as its reference describes it.

- `torch.compile(backend="neuron")`; dynamic shapes are rejected; a graph for each signature, compiled at its first call
  (torch/compile/reference-torch-compile, about-torch-compile)
- a compile failure raises (TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION, torch/reference/env-vars)
- NEFFs are kept in TORCH_NEURONX_NEFF_CACHE_DIR, one file for each graph and flags (the same page)
- there is no `trace`

It has no device of its own: tensors stay on the CPU, so moving them to "neuron" is not covered. It casts as our own
AutoCastMode does: what --auto-cast does to the numbers of a real device isn't shown by it.
"""

from __future__ import annotations

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import torch
from torch._dynamo import register_backend
from torch._dynamo.backends import registry

from neuronbert.backends.autocast import AutoCastMode
from tests.support.neff_files import build

__version__ = "2.13.3.0"
CACHE = Path(os.environ.get("TORCH_NEURONX_NEFF_CACHE_DIR", "/tmp/neff_cache"))  # read once, at import
compiled: list[str] = []
"""The NEFFs that were compiled, not taken from the cache."""
flags: list[str] = []
"""The compiler's flags of each graph."""


def neuron(graph: torch.fx.GraphModule, example_inputs):
    if any(isinstance(value, torch.SymInt) for value in example_inputs):
        raise RuntimeError("dynamic shapes are not supported")
    machine = json.loads(os.environ.get("NEURON_DOUBLE", "{}"))
    if machine.get("fail"):
        raise RuntimeError("neuronx-cc failed with 70")
    words = os.environ.get("NEURON_CC_FLAGS", "").split()
    flags.append(" ".join(words))
    given = {name: value for name, value in pairwise(words) if name.startswith("--")}
    if given.get("--target") != machine.get("device"):
        raise RuntimeError("the target is not this device")
    shapes = [tuple(value.shape) for value in example_inputs if isinstance(value, torch.Tensor)]
    text = f"{graph.code}{shapes}{words}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    neff = Path(CACHE, digest[:2], digest[2:4], f"{digest}.neff")
    if not neff.exists():
        neff.parent.mkdir(parents=True, exist_ok=True)
        neff.write_bytes(build(lnc=int(given.get("--logical-nc-config", "2"))))
        compiled.append(digest)
    mode = {"matmult": "matmul", "all": "all"}.get(given.get("--auto-cast", "none"))

    def run(*inputs):
        if mode is None:
            return graph.forward(*inputs)
        with AutoCastMode(mode, given["--auto-cast-type"]):
            return graph.forward(*inputs)

    return run


register_backend(neuron, name="neuron")


def unload() -> None:
    """Undo what the import did to torch, for the next test."""
    registry._BACKENDS.pop("neuron", None)
    registry._COMPILER_FNS.pop("neuron", None)
    torch._dynamo.reset()
