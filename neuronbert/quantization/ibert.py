"""I-BERT's quantization of a checkpoint: its ranges from data, and its integers from its ranges.

Owns: which range of it is chosen how, and where they are read. The arithmetic is the integers package's.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from safetensors.torch import safe_open

from neuronbert.encoder.model import Encoder, install
from neuronbert.errors import CheckpointCorruptError
from neuronbert.folders import CONFIG
from neuronbert.integers import ranges
from neuronbert.integers.arithmetic import INTEGERS
from neuronbert.integers.calibration import Observing
from neuronbert.integers.conversion import convert
from neuronbert.integers.dequantized import FORCE_DEQUANT
from neuronbert.integers.ranges import Ranges
from neuronbert.integers.scales import limit
from neuronbert.integers.training import Training
from neuronbert.quantization import calibration, sensitivity
from neuronbert.quantization.histograms import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from neuronbert.checkpoint import Checkpoint
    from neuronbert.integers.dequantized import ForceDequant
    from neuronbert.quantization.sensitivity import Noise
    from neuronbert.schemes import CalibrationMethod


def calibrate(
    encoder: Any,
    batches: Iterable[Mapping[str, Tensor]],
    method: CalibrationMethod,
    *,
    percentile: float,
    progress: Callable[[int], None],
) -> tuple[Ranges, int, tuple[Noise, ...]]:
    """Run batches through an encoder in float; its ranges, how many rows there were, and what each range does to them.

    Raises:
        CalibrationError: there is no batch, or a range can't be chosen.
        IntegerRangeError: an activation isn't finite.
    """
    observing = Observing(encoder, Histogram)
    before, encoder.arithmetic = encoder.arithmetic, observing

    def tell_mask(mask: Tensor) -> None:
        observing.mask = mask

    try:
        rows = calibration.run(encoder, batches, tell_mask, progress)
    finally:
        encoder.arithmetic = before
    found = observing.ranges(partial(_extent, method, percentile))
    return found, rows, tuple(_noise(name, found, watcher) for name, watcher in observing.seen.items())


def simulate(model: Any, checkpoint: Checkpoint) -> Any:
    """A model of transformers on the integers of its checkpoint: the reference of its programs.

    Raises:
        UncalibratedError: a range is missing.
        IntegerRangeError: a weight or a range makes integers too wide.
        UnsupportedFeatureError: the activation function isn't GELU, or the model is a decoder.
        CheckpointCorruptError: `force_dequant` has a value that it can't have.
    """
    convert(model.base_model, read(checkpoint.weight_files), force_dequant(checkpoint))
    return install(model, INTEGERS)


def force_dequant(checkpoint: Checkpoint) -> ForceDequant:
    """What a checkpoint leaves in floating point.

    Raises:
        CheckpointCorruptError: it has a value that it can't have.
    """
    found: ForceDequant = checkpoint.config.get("force_dequant", "none")
    if found not in FORCE_DEQUANT:
        problem = f"force_dequant is {found!r}, none of {', '.join(FORCE_DEQUANT)}"
        raise CheckpointCorruptError(checkpoint.path / CONFIG, problem)
    return found


def check(encoder: Any, found: Ranges, force_dequant: ForceDequant) -> None:
    """Refuse ranges that don't make a program, before they are written.

    Raises:
        IntegerRangeError: a weight or a range makes integers too wide.
        UnsupportedFeatureError: the activation function isn't GELU, or the model is a decoder.
    """
    convert(copy.deepcopy(encoder), found, force_dequant)


def prepare(model: Any, checkpoint: Checkpoint) -> Any:
    """Put our encoder, with the rounding of a checkpoint's ranges in it, into its float model: it can be trained then.

    Raises:
        UncalibratedError: a range is missing.
        CheckpointCorruptError: `force_dequant` has a value that it can't have.
    """
    found = read(checkpoint.weight_files)
    found.check(len(model.base_model.encoder.layer))
    model = install(model)
    for encoder in model.modules():
        if isinstance(encoder, Encoder):
            install_rounding(encoder, found, force_dequant(checkpoint))
    return model


def install_rounding(encoder: Encoder, found: Ranges, force_dequant: ForceDequant) -> None:
    """Let an encoder in float compute as its integers will, with gradients."""
    encoder.arithmetic = Training(encoder, found, force_dequant)


def learned(model: Any) -> Ranges | None:
    """The ranges of a model that was prepared for training, as they are now; None of another model."""
    arithmetics = (module.arithmetic for module in model.modules() if isinstance(module, Encoder))
    found = next((item for item in arithmetics if isinstance(item, Training)), None)
    return None if found is None else found.learned()


def read(files: Iterable[Path]) -> Ranges:
    """The ranges in weight files.

    Raises:
        IntegerRangeError: one of them is none.
    """
    held: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if ranges.is_range(name)]  # noqa: SIM118  not a dict
            held |= {name: file.get_tensor(name) for name in names}
    return Ranges.of({_own(name): value for name, value in held.items()})


def _own(name: str) -> str:
    # Heads put the encoder below a prefix such as "bert.", which the base model doesn't have.
    first, _, rest = name.partition(".")
    return name if first in ("embeddings", "encoder") else rest


def _extent(method: CalibrationMethod, percentile: float, name: str, histogram: Histogram) -> float:
    width = ranges.bits(name)
    how: CalibrationMethod = method if width == ranges.NARROW else "max"
    return calibration.choose(name, histogram, limit(width), (how, percentile))


def _noise(name: str, found: Ranges, histogram: Any) -> Noise:
    return sensitivity.noise(name, found.extents[name], limit(ranges.bits(name)), histogram)
