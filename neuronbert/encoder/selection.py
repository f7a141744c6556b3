"""Which tokens go on after a layer's attention, and how those that don't come back at the end.

Owns: the choice by attention received, gathering and restoring. Knows nothing of what a layer computes, nor
what with. The algorithm is that of dynamic BERT (the Length-Adaptive Transformer): a token's significance is the
attention that it receives from all queries of all heads; the k most significant go on to the feed-forward and to the
layers after it. One that is dropped keeps what the layer before made of it. Nothing is sorted: attention sees no order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from neuronbert.adaptive.configuration import Lengths
    from neuronbert.adaptive.keeping import Keeping


class Survivors:
    """The tokens that are still there, in the course of one call.

    Args:
        keeping: How tokens are dropped.
        lengths: What each layer keeps.
        embedded: The embedded tokens, [B, S, H], for their shape.
        mask: What is added to the scores, [B, 1, S or 1, S]; or None.
    """

    def __init__(self, keeping: Keeping, lengths: Lengths, embedded: Tensor, mask: Tensor | None) -> None:
        self.mask = mask
        self._keeping = keeping
        self._lengths = lengths
        self._width = int(embedded.shape[1])  # a tracer gives a tensor
        self._moves: _Moves = (_OneHot if keeping.selection == "one-hot" else _Gather)(self._width)
        self._restored: Tensor | None = None
        self._passed: Tensor | None = None

    def drops(self, layer: int) -> bool:
        """Whether a layer drops any."""
        return self._lengths[layer] < self._width

    def drop(self, layer: int, probabilities: Tensor, before: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
        """Choose the tokens that go on after a layer's attention.

        Args:
            layer: The layer's number.
            probabilities: Its attention, [B, N, c, c].
            before: Gives what the layer was given, in fp32: [B, c, H].

        Returns:
            What moves the rows of any [B, c, ...] that go on to the front, and leaves the others out.
        """
        received = significance(probabilities)
        if self._keeping.restored:
            self._restored = self._put(self._restored, before())
        self._passed = self._put(self._passed, self._count(received, layer))
        self._width = self._lengths[layer]
        scores = self._ranked(received)
        move = self._moves.choose(most_significant(scores, self._width, keep_first=self._keeping.always_keep_cls_token))
        if self.mask is not None:
            self.mask = self._moves.mask(self.mask)
        return move

    def restored(self, hidden: Tensor) -> Tensor:
        """All tokens again, [B, S, H], the dropped ones as they were; from those that are left, [B, k, H]."""
        return self._put(self._restored, hidden)

    def passed(self, hidden: Tensor, layers: int) -> Tensor:
        """How many layers each token has passed, [B, S]: it was kept by the layers of lower numbers."""
        return self._put(self._passed, self._count(hidden, layers)).squeeze(-1)

    def _ranked(self, scores: Tensor) -> Tensor:
        # Padding receives nothing, but what stays of it asks in the next layer: which is not left to the kernel.
        if self.mask is None or self.mask.shape[2] != 1:
            return scores
        return torch.where(self.mask[:, 0, 0] < 0, -1.0 - self._moves.places(scores), scores)

    def _put(self, whole: Tensor | None, rows: Tensor) -> Tensor:
        # Before the first choice all tokens are in the rows.
        return rows if whole is None else self._moves.put(whole, rows)

    def _count(self, like: Tensor, layer: int) -> Tensor:
        return torch.full((like.shape[0], self._width, 1), float(layer), dtype=torch.float32, device=like.device)


def significance(probabilities: Tensor) -> Tensor:
    """The attention that each token receives, summed in fp32 over heads and queries: [B, N, c, c] to [B, c]."""
    return torch.sum(probabilities.flatten(1, 2), dim=1, dtype=torch.float32)


def most_significant(scores: Tensor, count: int, *, keep_first: bool) -> Tensor:
    """The places of so many tokens, in no order: [B, c] to [B, k]. The first token's, if it is kept, comes first."""
    if not keep_first:
        return torch.topk(scores, count, dim=1, sorted=False).indices
    others = torch.topk(scores[:, 1:], count - 1, dim=1, sorted=False).indices + 1
    return torch.cat([torch.zeros_like(others[:, :1]), others], dim=1)


class _Moves(Protocol):
    """Tokens chosen once or several times, and where each stood at first."""

    def choose(self, kept: Tensor) -> Callable[[Tensor], Tensor]:
        """Leave all tokens but these out, [B, k] of c; what is returned does the same to the rows of [B, c, ...]."""

    def mask(self, mask: Tensor) -> Tensor:
        """What is left of a mask, [B, 1, c or 1, c], after the last choice."""

    def places(self, like: Tensor) -> Tensor:
        """Where the tokens that are left stood at first, [B, c], in a float type."""

    def put(self, whole: Tensor, rows: Tensor) -> Tensor:
        """A new [B, S, ...], with rows of those that are left in their first places."""


class _Gather:
    """By index: whole vectors are selected, and copied to their places.

    Args:
        tokens: How many there are at first.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = self._width = tokens
        self._kept: Any = None
        self._places: Any = None

    def choose(self, kept: Tensor) -> Callable[[Tensor], Tensor]:
        """See _Moves."""
        self._kept = kept
        self._places = kept if self._places is None else self._places.gather(1, kept)
        chosen, self._width = _flat(kept, self._width), int(kept.shape[1])
        return lambda rows: rows.flatten(0, 1).index_select(0, chosen).view(*kept.shape, -1)

    def mask(self, mask: Tensor) -> Tensor:
        """See _Moves."""
        index = self._kept[:, None, None, :]
        if mask.shape[2] != 1:
            mask = mask.gather(2, index.transpose(2, 3).expand(-1, mask.shape[1], -1, mask.shape[3]))
        left: Tensor = mask.gather(3, index.expand(-1, mask.shape[1], mask.shape[2], -1))
        return left

    def places(self, like: Tensor) -> Tensor:
        """See _Moves."""
        return _in_order(like) if self._places is None else self._places.to(like.dtype)

    def put(self, whole: Tensor, rows: Tensor) -> Tensor:
        """See _Moves."""
        places = _flat(self._places, self._tokens)
        return whole.flatten(0, 1).index_copy(0, places, rows.flatten(0, 1)).view(whole.shape)


class _OneHot:
    """By product with matrices of zeros and ones, where moving by index is a risk.

    Args:
        tokens: How many there are at first.
    """

    def __init__(self, tokens: int) -> None:
        self._width = tokens
        self._chosen: Any = None
        self._all: Any = None

    def choose(self, kept: Tensor) -> Callable[[Tensor], Tensor]:
        """See _Moves."""
        chosen = (kept[:, :, None] == torch.arange(self._width, device=kept.device)).to(torch.float32)
        self._chosen, self._width = chosen, int(kept.shape[1])
        self._all = chosen if self._all is None else torch.matmul(chosen, self._all)
        return lambda rows: torch.matmul(chosen.to(rows.dtype), rows)

    def mask(self, mask: Tensor) -> Tensor:
        """See _Moves."""
        # As zeros and ones: the lowest number times zero is no number, once it has been rounded to infinity.
        low = torch.finfo(mask.dtype).min
        hidden = (mask < 0).to(mask.dtype)
        columns = self._chosen[:, None].transpose(2, 3).to(mask.dtype)
        if hidden.shape[2] != 1:
            hidden = torch.matmul(columns.transpose(2, 3), hidden)
        left: Tensor = torch.matmul(hidden, columns) * low
        return left

    def places(self, like: Tensor) -> Tensor:
        """See _Moves."""
        return _in_order(like) if self._all is None else (self._all * _in_order(self._all[:, 0])[:, None]).sum(dim=2)

    def put(self, whole: Tensor, rows: Tensor) -> Tensor:
        """See _Moves."""
        chosen = self._all.to(rows.dtype)
        gone = 1.0 - chosen.sum(dim=1)[:, :, None]
        overwritten: Tensor = torch.matmul(chosen.transpose(1, 2), rows) + gone * whole
        return overwritten


def _flat(places: Tensor, tokens: int) -> Tensor:
    """Places among the tokens of a row, [B, k], as places among those of all rows."""
    rows = int(places.shape[0])  # a tracer gives a tensor
    if rows > 1:
        places = places + torch.arange(0, rows * tokens, tokens, device=places.device)[:, None]
    return places.flatten()


def _in_order(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], dtype=like.dtype, device=like.device).expand_as(like)
