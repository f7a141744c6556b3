"""What the steps of the encoder compute with.

Owns: Arithmetic, the port between the flow of a layer and a way to compute it, and FLOAT, torch's own operators. Knows
nothing of the order of the steps. A `site` is the module of transformers that a step belongs to: its weights, and
whatever a quantization has hung into it. A `value` is whatever an arithmetic's own steps hand to each other: a tensor,
or a tensor with its scale; nothing but the arithmetic looks into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

V = TypeVar("V")


class Arithmetic(Protocol[V]):
    """How a layer's steps are computed. B rows, S tokens, N heads of D; hidden size H = N * D."""

    def embed(self, site: Any, given: Mapping[str, Tensor | None]) -> V:
        """The embedded tokens, normalized: [B, S, H].

        Args:
            site: BertEmbeddings, or another with its signature.
            given: input_ids, token_type_ids, position_ids and inputs_embeds.
        """

    def project(self, site: Any, hidden: V) -> tuple[V, V, V]:
        """Query, key and value of a self-attention, by head: each [B, N, S, D]."""

    def scores(self, site: Any, query: V, key: V) -> V:
        """Their scaled products: [B, N, S, S]."""

    def softmax(self, site: Any, scores: V, mask: Tensor | None) -> V:
        """The attention probabilities, after a float mask is added: [B, N, S, S]."""

    def context(self, site: Any, probabilities: V, value: V) -> V:
        """What the tokens gather, heads side by side: [B, S, H]."""

    def linear(self, site: Any, hidden: V) -> V:
        """An nn.Linear."""

    def activate(self, site: Any, hidden: V) -> V:
        """The activation function of BertIntermediate."""

    def add_norm(self, site: Any, hidden: V, residual: V) -> V:
        """The sum, normalized, of BertSelfOutput or BertOutput."""

    def over_tokens(self, value: V, move: Callable[[Tensor], Tensor]) -> V:
        """A value whose tensors were moved alike: `move` only selects or reorders along dimension 1, the tokens."""

    def leave(self, value: V) -> Tensor:
        """The value in fp32, for what follows the encoder."""


class FloatArithmetic:
    """Torch's operators, in the order and the form in which transformers' eager attention calls them."""

    def embed(self, site: Any, given: Mapping[str, Tensor | None]) -> Tensor:
        """See Arithmetic."""
        embedded: Tensor = site(**given)
        return embedded

    def project(self, site: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See Arithmetic."""
        query, key, value = (self.linear(part, hidden) for part in (site.query, site.key, site.value))
        return by_head(site, query), by_head(site, key), by_head(site, value)

    def scores(self, site: Any, query: Tensor, key: Tensor) -> Tensor:
        """See Arithmetic."""
        scaled: Tensor = torch.matmul(query, key.transpose(2, 3)) * site.scaling
        return scaled

    def softmax(self, site: Any, scores: Tensor, mask: Tensor | None) -> Tensor:
        """See Arithmetic."""
        masked = scores if mask is None else scores + mask
        dropped: Tensor = site.dropout(nn.functional.softmax(masked, dim=-1))
        return dropped

    def context(self, site: Any, probabilities: Tensor, value: Tensor) -> Tensor:  # noqa: ARG002  the port's
        """See Arithmetic."""
        return side_by_side(torch.matmul(probabilities, value))

    def linear(self, site: Any, hidden: Tensor) -> Tensor:
        """See Arithmetic."""
        product: Tensor = site(hidden)
        return product

    def activate(self, site: Any, hidden: Tensor) -> Tensor:
        """See Arithmetic."""
        activated: Tensor = site.intermediate_act_fn(hidden)
        return activated

    def add_norm(self, site: Any, hidden: Tensor, residual: Tensor) -> Tensor:
        """See Arithmetic."""
        normalized: Tensor = site.LayerNorm(site.dropout(hidden) + residual)
        return normalized

    def over_tokens(self, value: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
        """See Arithmetic."""
        return move(value)

    def leave(self, value: Tensor) -> Tensor:
        """See Arithmetic."""
        return value


class FusedArithmetic(FloatArithmetic):
    """As FloatArithmetic, with scores that are scaled and masked in their product: values differ in the last bits.

    Where the probabilities themselves are needed, no fused attention gives them. Each tensor of their size that is made
    beside them costs more than what is computed in it: its memory is fetched from the system anew.
    """

    def scores(self, site: Any, query: Tensor, key: Tensor) -> Any:  # noqa: ARG002  the port's
        """See Arithmetic; nothing is multiplied yet."""
        return query, key

    def softmax(self, site: Any, scores: Any, mask: Tensor | None) -> Tensor:
        """See Arithmetic."""
        query, key = scores
        rows, heads, tokens, _ = query.shape
        added = query.new_zeros(1, 1, 1)
        if mask is not None:
            added = mask.expand(rows, heads, -1, -1).flatten(0, 1)
        products = torch.baddbmm(added, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=site.scaling)
        weights = nn.functional.softmax(products, dim=-1)
        dropped: Tensor = site.dropout(weights.view(rows, heads, tokens, tokens))
        return dropped


FLOAT: Final = FloatArithmetic()
FUSED: Final = FusedArithmetic()


def by_head(site: Any, hidden: Tensor) -> Tensor:
    """[B, S, H] to [B, N, S, D], with the heads of a self-attention."""
    return hidden.view(*hidden.shape[:-1], -1, site.attention_head_size).transpose(1, 2)


def side_by_side(heads: Tensor) -> Tensor:
    """[B, N, S, D] to [B, S, H]."""
    moved = heads.transpose(1, 2).contiguous()
    return moved.reshape(*moved.shape[:-2], -1)
