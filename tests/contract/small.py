"""A head as small as they come, and what the tests of the traced backend ask of the double."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuronbert import StaticShape
from neuronbert.backends import neuronx
from neuronbert.backends.base import ANYWHERE, Placement
from neuronbert.manifest import Manifest

SHAPE = StaticShape(2, 4)
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
MASK = (IDS > 0).long()


class Small(nn.Module):
    """A head, as small as they come."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, 4)
        self.dense = nn.Linear(4, 3)
        self.words.weight.data *= scale

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor]:
        return (self.dense(self.words(ids) * mask[..., None]),)


def library() -> Any:
    return sys.modules["torch_neuronx"]


def called(*wanted: str) -> list[tuple[str, dict[str, Any]]]:
    return [call for call in library().calls if call[0] in wanted]


def load(folder: Path, manifest: Manifest, placement: Placement = ANYWHERE) -> list[Any]:
    return list(neuronx.runtime().load(folder, manifest, placement).values())
