"""The tables of an encoder's embeddings as integers.

Owns: IntegerEmbeddings, and which positions a row has if it isn't told. Knows nothing of the layers that follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from neuronbert.integers import steps
from neuronbert.integers.norms import Norm
from neuronbert.integers.scales import dyadic, quantize, scale_of

if TYPE_CHECKING:
    from neuronbert.integers.calibrated import Calibrated


class IntegerEmbeddings(nn.Module):
    """BertEmbeddings or RobertaEmbeddings: the sum of three tables of 8 bits, normalized.

    Args:
        site: transformers' module.
        place: Where it is.
    """

    word: Tensor
    token_type: Tensor
    position: Tensor
    by_word: Tensor
    by_token_type: Tensor
    by_position: Tensor

    def __init__(self, site: Any, place: Calibrated) -> None:
        super().__init__()
        self.padding: int | None = getattr(
            site, "padding_idx", None
        )  # RoBERTa counts positions from there, and leaves padding out
        sum_scale = place.scale("embeddings_act1", 16)
        for name in ("word", "token_type", "position"):
            table = getattr(site, f"{name}_embeddings").weight.detach()
            scale = scale_of(float(table.abs().max()), 8)
            self.register_buffer(name, quantize(table, scale, 8))
            self.register_buffer(f"by_{name}", dyadic(torch.tensor([scale / sum_scale]), 8))
        self.register_buffer("unchanged", dyadic(torch.ones(1), 16))
        self.scale = place.scale("output_activation", 8)
        self.norm = Norm(site.LayerNorm, (sum_scale, self.scale), place)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """int8 (batch, sequence, hidden), at `scale`."""
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if position_ids is None:
            position_ids = self._positions(input_ids)
        words = nn.functional.embedding(input_ids, self.word)
        types = nn.functional.embedding(token_type_ids, self.token_type)
        places = nn.functional.embedding(position_ids, self.position)
        together = steps.add(words, self.by_word, types, self.by_token_type, 16)
        result: Tensor = self.norm(steps.add(together, self.unchanged, places, self.by_position, 16))
        return result

    def _positions(self, input_ids: Tensor) -> Tensor:
        if self.padding is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        told = (input_ids != self.padding).to(torch.int64)
        return torch.cumsum(told, 1) * told + self.padding
