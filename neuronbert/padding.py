"""Pad a call to a static shape, slice its outputs back, and put those of several calls together.

Owns: both directions. Padding never reaches the caller. Knows nothing of tokenizers or backends.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad as _pad

from neuronbert.errors import OutputsTooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from neuronbert.manifest import InputSpec, OutputSpec


def pad(tensors: Sequence[Tensor], specs: Sequence[InputSpec], dims: tuple[int, ...]) -> list[Tensor]:
    """The inputs, padded at the end of every dimension to a static shape.

    A row that is all padding attends to its own first token: a softmax over nothing is not a number.

    Args:
        tensors: int64 tensors, all of one shape.
        specs: Their specs, in the same order.
        dims: (batch, sequence) or (batch, choices, sequence) of the static shape.
    """
    given = tuple(tensors[0].shape)
    widths: list[int] = []
    for have, want in zip(reversed(given), reversed(dims), strict=True):
        widths += [0, want - have]
    padded = [_pad(tensor, widths, value=spec.padding) for tensor, spec in zip(tensors, specs, strict=True)]
    if given[:-1] != dims[:-1]:
        for tensor, spec in zip(padded, specs, strict=True):
            if spec.name == "attention_mask":
                tensor[given[0] :, ..., 0] = 1
                if len(dims) == 3:
                    tensor[:, given[1] :, 0] = 1
    return padded


def unpad(tensors: Sequence[Tensor], specs: Sequence[OutputSpec], dims: tuple[int, ...]) -> list[Tensor]:
    """The outputs, sliced back to the caller's dimensions.

    Args:
        tensors: The outputs of a program.
        specs: Their specs, in the same order.
        dims: The caller's (batch, sequence) or (batch, choices, sequence).
    """
    sizes = {"batch": dims[0], "choices": dims[1], "sequence": dims[-1]}
    sliced = []
    for tensor, spec in zip(tensors, specs, strict=True):
        for axis, name in enumerate(spec.dims):
            if name in sizes and tensor.shape[axis] != sizes[name]:
                tensor = tensor.narrow(axis, 0, sizes[name])
        sliced.append(tensor)
    return sliced


def allocate(specs: Sequence[OutputSpec], dims: tuple[int, ...], *, filled: bool) -> list[Tensor]:
    """Room for the outputs of several calls.

    Args:
        specs: The outputs.
        dims: The caller's (batch, sequence) or (batch, choices, sequence).
        filled: Whether some positions may be given by no call: they hold zeros, or the lowest number where the answer
            is the largest of a row.

    Raises:
        OutputsTooLargeError: there isn't enough memory.
    """
    named = {"batch": dims[0], "choices": dims[1], "sequence": dims[-1]}
    sizes = [tuple(named.get(name, spec.size or 0) for name in spec.dims) for spec in specs]
    try:
        room = [torch.empty(size) for size in sizes]
    except RuntimeError as error:
        raise OutputsTooLargeError(dims[0], sum(map(prod, sizes)) * torch.float32.itemsize) from error
    if filled:
        for tensor, spec in zip(room, specs, strict=True):
            tensor.fill_(torch.finfo(tensor.dtype).min if spec.answer == "span" else 0.0)
    return room


def scatter(outputs: Sequence[Tensor], specs: Sequence[OutputSpec], rows: Tensor, room: Sequence[Tensor]) -> None:
    """Put the outputs of one call where its rows are among all.

    Args:
        outputs: Of the call, without padding.
        specs: Their specs, in the same order.
        rows: The places of its rows.
        room: What `allocate` gave.
    """
    for output, spec, whole in zip(outputs, specs, room, strict=True):
        if "sequence" in spec.dims:
            axis = spec.dims.index("sequence")
            whole = whole.narrow(axis, 0, output.shape[axis])
        whole.index_copy_(0, rows, output)
