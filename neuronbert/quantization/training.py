"""A quantized encoder that learns to answer as the one in float does.

Owns: the steps of that training. Its texts need no labels. Rounding passes gradients straight through (quantizers.py),
so any other loop of PyTorch trains a quantized model as well. Two runs on one machine give the same weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import CalibrationError
from neuronbert.quantization import placement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

_RATE: Final = 2e-5
"""Of AdamW, falling along a cosine: a hundredth of what such models are pre-trained with."""
_TRAINING: Final = "the training"
_LARGEST: Final = 1.0
"""The norm that gradients are cut to."""


def distill(
    student: Any,
    teacher: Any,
    batches: Sequence[Mapping[str, Tensor]],
    steps: int,
    *,
    learn_ranges: bool = False,
    progress: Callable[[int], None] = lambda _step: None,
) -> float:
    """Move a quantized encoder's weights so that its last hidden states come near those of the one in float.

    Args:
        student: An encoder with calibrated quantizers; it is changed.
        teacher: The same in float.
        batches: What both take, by name; gone through again as often as needed.
        steps: How many batches to learn from.
        learn_ranges: Move the ranges as well.
        progress: Told after each step how many are done.

    Returns:
        The loss of the last step: the squared difference over the teacher's own variance.

    Raises:
        CalibrationError: the loss is not a number.
    """
    for quantizer in placement.of(student).values():
        if learn_ranges and quantizer.enabled:
            quantizer.learn()
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    last = math.inf
    for step in range(steps):
        batch = batches[step % len(batches)]
        loss = _loss(student, teacher, batch)
        last = float(loss.detach())
        if not math.isfinite(last):
            raise CalibrationError(_TRAINING, f"has a loss of {last} after {step} steps")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learned, _LARGEST)
        optimizer.step()
        schedule.step()
        progress(step + 1)
    return last


def _loss(student: Any, teacher: Any, batch: Mapping[str, Tensor]) -> Tensor:
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        wanted = teacher(**batch).last_hidden_state[real]
    found = student(**batch).last_hidden_state[real]
    loss: Tensor = (found - wanted).square().mean() / wanted.var()
    return loss
