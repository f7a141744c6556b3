"""What a caller passes, checked: named tensors to a program's inputs in order.

Owns: check, and how long rows are. Knows nothing of programs or shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from neuronbert.errors import (
    EmptyInputError,
    InputDeviceError,
    InputDtypeError,
    InputRangeError,
    InputRankError,
    InputShapeError,
    InputTypeError,
    MaskedRowError,
    MissingInputError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neuronbert.manifest import InputSpec

MASK: Final = "attention_mask"
_INTEGERS: Final = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool})
_AXES: Final = ("batch", "choices", "sequence")
_BLOCK: Final = 4096
"""Rows whose lengths are found at once: the memory for it doesn't grow with the call."""


def check(inputs: Mapping[str, Any], specs: Sequence[InputSpec], rank: int) -> list[Tensor]:
    """A program's inputs in order, all of one shape, as int64, each value one that the model has an entry for.

    Args:
        inputs: Integer tensors on the CPU, or numpy arrays, by name. Others than the specs' are ignored.
        specs: What the program takes. Those that have a default are filled where they are missing.
        rank: Of the tensors: 2, or 3 with choices.

    Raises:
        InputError: they can't be run; the message says which and why.
    """
    tensors: list[Tensor] = []
    for spec in specs:
        value = inputs.get(spec.name)
        if value is None:
            if spec.default is None:
                raise MissingInputError(spec.name, sorted(name for name, given in inputs.items() if given is not None))
            tensors.append(torch.full_like(tensors[0], spec.default))
            continue
        plain = type(value) is Tensor and value.dtype is torch.int64 and value.layout is torch.strided
        tensor = value if plain else _as_int64(spec, value)
        if not tensor.is_cpu:
            raise InputDeviceError(spec.name, tensor.device)
        if not tensors:
            _check_dims(spec, tensor, rank)
        elif tensor.shape != tensors[0].shape:
            raise InputShapeError(spec.name, tuple(tensor.shape), specs[0].name, tuple(tensors[0].shape))
        _check_values(spec, tensor)
        tensors.append(tensor)
    return tensors


def lengths(mask: Tensor) -> list[int]:
    """The place of each row's last attended token, plus one; for multiple choice that of its longest choice.

    What stands before it is kept as it is: left padding and holes in the mask count.

    Args:
        mask: The attention mask, (batch, sequence) or (batch, choices, sequence).
    """
    places = torch.arange(1, mask.shape[-1] + 1)
    found: list[int] = []
    for rows in torch.split(mask, _BLOCK):
        found += (rows * places).flatten(1).amax(dim=1).tolist()
    return found


def _as_int64(spec: InputSpec, value: object) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iub":
            raise InputDtypeError(spec.name, value.dtype)
        return torch.tensor(value.astype(np.int64, order="C"))
    if not isinstance(value, Tensor):
        raise InputTypeError(spec.name, type(value).__name__)
    if value.layout is not torch.strided:
        raise InputTypeError(spec.name, f"{value.layout} tensor")
    if value.dtype not in _INTEGERS:
        raise InputDtypeError(spec.name, value.dtype)
    return value.to(torch.int64)


def _check_dims(spec: InputSpec, tensor: Tensor, rank: int) -> None:
    if tensor.dim() != rank:
        raise InputRankError(spec.name, tuple(tensor.shape), _AXES if rank == len(_AXES) else (_AXES[0], _AXES[-1]))
    if tensor.numel() == 0:
        raise EmptyInputError(spec.name)


def _check_values(spec: InputSpec, tensor: Tensor) -> None:
    lowest, highest = torch.aminmax(tensor)
    low, high = int(lowest), int(highest)
    if low < 0 or high > spec.maximum:
        raise InputRangeError(spec.name, low, high, spec.maximum)
    if spec.name == MASK and low == 0:
        attended = tensor.amax(dim=-1)
        if not attended.all():
            raise MaskedRowError(int((attended == 0).nonzero()[0, 0]))
