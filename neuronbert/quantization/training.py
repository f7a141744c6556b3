"""A quantized encoder that learns to answer as the one in float does: its ranges alone, or its weights with them.

Owns: the steps of that. Its texts need no labels. Quantizers that are given one tensor learn one range, so that a
program rounds it once, and multiplies it in one product. Rounding passes gradients straight through (quantizers.py), so
any other loop of PyTorch trains a quantized model as well. Two runs on one machine give the same. The gradient of a
range is that of Esser, McKinstry, Bablani, Appuswamy and Modha, Learned Step Size Quantization (arXiv 1902.08153);
ranges are fitted to the answers in float, with weights as they are, as Li et al. do in BRECQ (arXiv 2102.05426).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import CalibrationError
from neuronbert.quantization import placement
from neuronbert.quantization.quantizers import Quantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    Batch = Mapping[str, Tensor]
    Teacher = Callable[[Batch], Tensor]

STEPS: Final = 64
"""Batches that ranges learn from, at least: one pass over 512 rows."""
_RATE: Final = 2e-5
"""Of AdamW, falling along a cosine: a hundredth of what such models are pre-trained with."""
_RANGE_RATE: Final = 0.1
"""The same for the logarithms of ranges, so that all move by alike shares, however large they are."""
_BETAS: Final = (0.9, 0.99)
"""The second is lower than usual, for few steps."""
_TRAINING: Final = "the training"
_LARGEST: Final = 1.0
"""The norm that the gradients of weights are cut to."""
_LEAST: Final = 2.0**-24
"""The least range that has a logarithm here: at it, a quantizer makes everything zero."""
_HELD: Final = 8
"""Batches that the ranges before and after are compared on."""


def learn_ranges(
    model: Any, batches: Sequence[Batch], progress: Callable[[int, int], None] = lambda _done, _total: None
) -> tuple[float, float]:
    """Move the ranges of inputs so that an encoder's last hidden states come near its own in float; weights stay.

    A range that suits its own tensor may not suit the model: where a few tokens have one very large value, on which
    all others turn their attention, clipping it costs little there and much behind it.

    Args:
        model: An encoder with calibrated quantizers; where it ends no nearer, its ranges are left as they were.
        batches: What it takes, by name; gone through again if there are few.
        progress: Told after each step how many are done, and of how many.

    Returns:
        The loss on the first batches with the ranges as they were, and as they are now: the squared difference over the
        variance in float.

    Raises:
        CalibrationError: the loss is not a number.
    """
    steps = max(STEPS, len(batches))
    held = batches[:_HELD]

    def teach(batch: Batch) -> Tensor:
        with placement.switches(model) as quantizers, torch.no_grad():
            for quantizer in quantizers.values():
                quantizer.enabled = False
            return _states(model, batch)

    inputs = [
        item for name, item in placement.of(model).items() if item.enabled and not name.endswith(placement.WEIGHT)
    ]
    before = [quantizer.amax() for quantizer in inputs]
    with _fixed(model):
        first = _mean_loss(model, teach, held)
        if not inputs:
            return first, first
        _descend(model, teach, batches, steps, ([], inputs), progress)
        last = _mean_loss(model, teach, held)
    if last < first:
        return first, last
    for quantizer, amax in zip(inputs, before, strict=True):
        quantizer.set_amax(amax)
    return first, first


def distill(
    student: Any,
    teacher: Any,
    batches: Sequence[Batch],
    steps: int,
    *,
    learn_ranges: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> float:
    """Move a quantized encoder's weights so that its last hidden states come near those of the one in float.

    Args:
        student: An encoder with calibrated quantizers; it is changed.
        teacher: The same in float.
        batches: What both take, by name; gone through again as often as needed.
        steps: How many batches to learn from.
        learn_ranges: Move the ranges as well, those of weights among them.
        progress: Told after each step how many are done, and of how many.

    Returns:
        The loss of the last step: the squared difference over the teacher's own variance.

    Raises:
        CalibrationError: the loss is not a number.
    """

    def teach(batch: Batch) -> Tensor:
        with torch.no_grad():
            return _states(teacher, batch)

    weights = [parameter for parameter in student.parameters() if parameter.requires_grad]
    ranges = [quantizer for quantizer in placement.of(student).values() if learn_ranges and quantizer.enabled]
    return _descend(student, teach, batches, steps, (weights, ranges), progress)


def _descend(
    model: Any,
    teach: Teacher,
    batches: Sequence[Batch],
    steps: int,
    learned: tuple[Sequence[Any], Sequence[Quantizer]],
    progress: Callable[[int, int], None],
) -> float:
    weights, ranges = learned[0], placement.tied(learned[1])
    logs = [_widest(group).clamp(min=_LEAST).log().requires_grad_() for group in ranges]
    groups = [{"params": weights, "lr": _RATE}, {"params": logs, "lr": _RANGE_RATE}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=_BETAS, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    last = math.inf
    for step in range(steps):
        batch = batches[step % len(batches)]
        wanted = teach(batch)
        _set(Quantizer.follow, ranges, logs)
        loss = _loss(model, batch, wanted)
        last = float(loss.detach())
        if not math.isfinite(last):
            raise CalibrationError(_TRAINING, f"has a loss of {last} after {step} steps")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, _LARGEST)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    _set(Quantizer.set_amax, ranges, logs)
    return last


def _widest(group: Sequence[Quantizer]) -> Tensor:
    # Calibration gives all of a group the same.
    return torch.stack([quantizer.amax() for quantizer in group]).amax(dim=0)


def _set(
    how: Callable[[Quantizer, Tensor], None], ranges: Iterable[Sequence[Quantizer]], logs: Sequence[Tensor]
) -> None:
    """Give all quantizers of a group the range that is learned for them."""
    for group, log in zip(ranges, logs, strict=True):
        amax = log.exp()
        for quantizer in group:
            how(quantizer, amax)


def _loss(model: Any, batch: Batch, wanted: Tensor) -> Tensor:
    loss: Tensor = (_states(model, batch) - wanted).square().mean() / wanted.var()
    return loss


def _mean_loss(model: Any, teach: Teacher, batches: Iterable[Batch]) -> float:
    with torch.no_grad():
        return float(torch.stack([_loss(model, batch, teach(batch)) for batch in batches]).mean())


def _states(model: Any, batch: Batch) -> Tensor:
    """The last hidden states of the real tokens: [tokens, H]."""
    states: Tensor = model(**batch).last_hidden_state
    return states[batch["attention_mask"].bool()]


@contextmanager
def _fixed(model: Any) -> Iterator[None]:
    """No parameter has a gradient in the block."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_()
