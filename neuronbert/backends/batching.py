"""A program of a fixed batch, called with any number of rows.

Owns: splitting and filling up. Knows nothing of any vendor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from neuronbert.backends.base import Program


@dataclass(frozen=True, slots=True)
class DynamicBatch:
    """A program that takes any number of rows, in calls of its compiled batch size; the last one is filled up.

    Attributes:
        program: The program of a fixed batch.
        batch_size: Its rows.
    """

    program: Program
    batch_size: int

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it; inputs and outputs have the rows in the first dimension."""
        rows = inputs[0].shape[0]
        if rows == self.batch_size:
            return self.program(*inputs)
        calls = zip(*(torch.split(tensor, self.batch_size) for tensor in inputs), strict=True)
        parts = [self.program(*map(self._fill, call)) for call in calls]
        return tuple(torch.cat(outputs)[:rows] for outputs in zip(*parts, strict=True))

    def _fill(self, tensor: Tensor) -> Tensor:
        missing = self.batch_size - tensor.shape[0]
        if not missing:
            return tensor
        # A copy of a real row: whatever a made-up one held could be out of range or attend to nothing.
        return torch.cat((tensor, tensor[-1:].expand(missing, *tensor.shape[1:])))
