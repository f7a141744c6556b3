"""Tensor-parallel parts of a weight to the weight: pure functions of tensors.

Owns: how Megatron-LM orders and divides weights (its own code, versions 1.0 to 23.04 and core 0.15). Knows nothing of
files or names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Division = Literal["none", "rows", "columns", "query", "key", "value"]
"""How a weight lies over the parts: whole in each, divided by rows or columns, or packed with two others by rows."""
VERSIONS: Final = (0.0, 1.0, 2.0, 3.0)
"""The values of checkpoint_version; files from before it was written count as 0."""
_PACKED: Final = ("query", "key", "value")


def extract(packed: Tensor, division: Division, heads: int, version: float) -> Tensor:
    """Query, key or value of one part.

    Args:
        packed: (3 * heads * size, ...). Its rows run over (3, heads, size) in version 0, (heads, size, 3) in version
            1.0, (heads, 3, size) from version 2.0 on.
        division: Which of them.
        heads: The number of heads in this part.
        version: One of VERSIONS.

    Returns:
        A tensor (heads * size, ...).
    """
    rest = packed.shape[1:]
    index = _PACKED.index(division)
    if version == 0.0:
        return packed.view(3, -1, *rest)[index]
    if version == 1.0:
        return packed.view(heads, -1, 3, *rest)[:, :, index].reshape(-1, *rest)
    return packed.view(heads, 3, -1, *rest)[:, index].reshape(-1, *rest)


def merge(parts: Sequence[Tensor], division: Division, heads: int, version: float) -> Tensor:
    """The whole weight.

    Packed parts are split before they are joined: in version 0 each holds three blocks of its own, so that the parts
    one after the other would be no matrix at all.

    Args:
        parts: One for each tensor-parallel rank, in order.
        division: How it lies over them.
        heads: The number of heads of the whole model.
        version: One of VERSIONS.
    """
    if division in _PACKED:
        parts = [extract(part, division, heads // len(parts), version) for part in parts]
    if division == "none" or len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts), dim=1 if division == "columns" else 0)


def part_shape(shape: Sequence[int], division: Division, parts: int) -> tuple[int, ...]:
    """The shape of each part of a weight of this shape; of a packed one, that of the three together."""
    if division == "none":
        return tuple(shape)
    if division == "columns":
        return (shape[0], shape[1] // parts, *shape[2:])
    return ((3 if division in _PACKED else 1) * shape[0] // parts, *shape[1:])
