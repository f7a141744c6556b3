"""What is done to a transformers model so that a static shape answers like a call of its own length.

Owns: keeping the loader's padding out of what reaches across columns, the lengths that XLM would read on the host, and
MPNet's logarithm of 0.
Knows nothing of tasks or programs: what a model needs is in its row of the architecture table.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from neuronbert.families import Leak


class CallMask:
    """Which columns are the call's, while a model runs: the others are as if they weren't there.

    transformers pads a convolution with zeros where a row ends. A program's row ends later, and what stands there is
    made of padding: it is set to zero wherever it could reach other columns.
    """

    def __init__(self) -> None:
        self._mask: Tensor | None = None

    def attach(self, model: nn.Module, leaks: Sequence[Leak]) -> None:
        """Stop a model's leaks, for calls within `held`; others run as they are."""
        for name, module in model.named_modules():
            for leak in leaks:
                if name.endswith(leak.module) and leak.side == "summary":
                    module.register_forward_pre_hook(lambda it, given: (self._gather(it.summary_type, *given),))
                elif name.endswith(leak.module) and leak.side == "input":
                    module.register_forward_pre_hook(lambda _, given, axis=leak.axis: (self._cut(given[0], axis),))
                elif name.endswith(leak.module):
                    module.register_forward_hook(lambda _, __, result, axis=leak.axis: self._cut(result, axis))

    @contextmanager
    def held(self, mask: Tensor | None) -> Iterator[None]:
        """Cut to a mask: 1 in the columns of the call, of its ids' shape."""
        self._mask = mask
        try:
            yield
        finally:
            self._mask = None

    def _cut(self, tensor: Tensor, axis: int) -> Tensor:
        if self._mask is None:
            return tensor
        return tensor * self._rows(self._mask).unsqueeze(3 - axis).to(tensor.dtype)

    def _gather(self, kind: str, hidden: Tensor, _: None = None) -> Tensor:
        # One column that stands for all: the last of the call's, or their mean.
        if self._mask is None or kind == "first":
            return hidden
        mask = self._rows(self._mask)
        if kind == "mean":
            shares = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * shares).sum(dim=1, keepdim=True) / shares.sum(dim=1, keepdim=True).clamp(min=1)
        last = (mask.sum(dim=-1) - 1).clamp(min=0)
        return hidden.gather(1, last.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1]))

    @staticmethod
    def _rows(mask: Tensor) -> Tensor:
        return mask.view(-1, mask.shape[-1])  # a choice is a row


def tell_lengths(model: Any) -> None:
    """Tell XLM that every row is as long as the call: its mask says what is padding.

    Left alone, it counts the ids that aren't padding, and asserts on the host that there are few enough of them.
    """

    def tell(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = args[0] if args else given["input_ids"]
        return args, {**given, "lengths": torch.full((ids.shape[0],), ids.shape[1])}

    model.base_model.register_forward_pre_hook(tell, with_kwargs=True)


def keep_distances(model: nn.Module) -> None:
    """Keep MPNet from taking the logarithm of a distance of 0; its buckets stay the same.

    Left alone, it computes the bucket of each distance in two ways and selects one. The one that isn't selected for 0
    becomes a constant beyond 32 bits, which the Neuron compiler cuts.
    """
    for module in model.modules():
        if hasattr(module, "relative_position_bucket"):
            find: Any = module.relative_position_bucket
            module.relative_position_bucket = partial(_bucket, find)  # type: ignore[assignment]


def _bucket(find: Callable[..., Tensor], distances: Tensor, **given: int) -> Tensor:
    same = distances == 0
    return find(distances + same, **given).masked_fill(same, 0)
