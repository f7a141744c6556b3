"""An encoder with the modules of a sentence-transformers folder behind it.

Owns: pooling, the dense layer and the normalization, as torch computes them. Knows nothing of files but for weights.
Source: sentence-transformers' Pooling, Dense and Normalize, whose values these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file
from torch import nn

from neuronbert.sentences import Dense, Pooling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from neuronbert.sentences import Module

_SMALLEST: Final = 1e-9
"""What sums are divided by at least, as in sentence-transformers; a norm, by 1e-12."""


class SentenceEncoder(nn.Module):
    """Token embeddings, and one vector of them.

    Args:
        model: A transformers model that gives last_hidden_state.
        modules: What follows it.
    """

    def __init__(self, model: nn.Module, modules: Sequence[Module]) -> None:
        super().__init__()
        self.model = model
        self.steps = nn.ModuleList(_Dense(module) for module in modules if isinstance(module, Dense))
        self._modules_in_order = tuple(modules)

    def forward(self, attention_mask: Tensor, **given: Any) -> dict[str, Tensor]:
        """token_embeddings (batch, sequence, hidden) and sentence_embedding (batch, embedding)."""
        tokens = self.model(attention_mask=attention_mask, **given)["last_hidden_state"]
        vector, layers = tokens, iter(self.steps)
        for module in self._modules_in_order:
            if isinstance(module, Pooling):
                vector = torch.cat([POOL[mode](tokens, attention_mask) for mode in module.modes], dim=-1)
            elif isinstance(module, Dense):
                vector = next(layers)(vector)
            else:
                vector = vector / (vector * vector).sum(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)
        return {"token_embeddings": tokens, "sentence_embedding": vector}


class _Dense(nn.Module):
    def __init__(self, module: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(module.inputs, module.outputs, bias=module.bias)
        self.activation: nn.Module = getattr(nn, module.activation)()
        weights = {name: weight.float() for name, weight in load_file(module.file).items()}
        self.load_state_dict(weights)

    def forward(self, vector: Tensor) -> Tensor:
        result: Tensor = self.activation(self.linear(vector))
        return result


def _sums(tokens: Tensor, mask: Tensor, weights: Tensor | int = 1) -> tuple[Tensor, Tensor]:
    shares = (mask * weights).unsqueeze(-1).to(tokens.dtype)
    return (tokens * shares).sum(dim=1), shares.sum(dim=1).clamp(min=_SMALLEST)


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    total, count = _sums(tokens, mask)
    return total / count


def _mean_by_root(tokens: Tensor, mask: Tensor) -> Tensor:
    total, count = _sums(tokens, mask)
    return total / count.sqrt()


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    total, count = _sums(tokens, mask, torch.arange(1, mask.shape[1] + 1))
    return total / count


def _max(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill((mask == 0).unsqueeze(-1), -1e9).max(dim=1).values


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    place = (mask * torch.arange(mask.shape[1])).max(dim=1).values
    return tokens.gather(1, place.view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])).squeeze(1)


POOL: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cls": lambda tokens, _: tokens[:, 0],
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
