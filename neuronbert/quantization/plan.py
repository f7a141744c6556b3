"""How a checkpoint is to be quantized.

Owns: QuantizationPlan, and which of its options go together. Knows nothing of files or models.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from neuronbert.errors import InvalidOptionError
from neuronbert.integers.dequantized import FORCE_DEQUANT
from neuronbert.schemes import (
    CALIBRATION_METHODS,
    INPUTS,
    PER_CHANNEL,
    RANGE_METHODS,
    CalibrationMethod,
    Descriptor,
    RangeMethod,
)
from neuronbert.spec import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.integers.dequantized import ForceDequant
    from neuronbert.spec import Method

_METHODS: Final[Mapping[Method, RangeMethod]] = {"qdq": "learned", "ibert": "mse"}
_START: Final[CalibrationMethod] = "percentile"
"""What ranges that are learned begin with."""
_ONLY_QDQ: Final = ("keep_float", "inputs", "weights", "learn_ranges", "sensitivity")


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """How a checkpoint is quantized.

    Attributes:
        method: How the ranges of inputs are chosen: "learned" (by gradients, from percentile on; qdq's alone), "max",
            "percentile", "mse" or "entropy"; by default what suits the quantization, learned for qdq and mse for ibert.
        percentile: The share of values, in percent, that the method of that name leaves unclipped.
        rows: The most rows of text that are looked at.
        sequence_length: Their tokens are cut to so many.
        keep_float: Layers, modules or quantizers that stay in float, as layer.0 or layer.*.output.dense.
        qat_steps: How many batches the weights then learn from, to bring the quantized model near the one in float; 0
            leaves them as they are.
        learn_ranges: The ranges learn with them; those of ibert stay as they were calibrated.
        sensitivity: Find what each place costs, and what to leave in float for no more than this loss: the squared
            difference of the last hidden states over their variance.
        inputs: How inputs are quantized.
        weights: How weights are quantized.
        quantization: "qdq" for 8 bits with float in between, "ibert" for integers alone.
        force_dequant: I-BERT's functions that stay in float: "none", "gelu", "softmax", "layernorm" or "nonlinear".

    Raises:
        InvalidOptionError: an option has a value that it can't take.
    """

    method: RangeMethod | None = None
    percentile: float = 99.99
    rows: int = 512
    sequence_length: int = 128
    keep_float: tuple[str, ...] = ()
    qat_steps: int = 0
    learn_ranges: bool = False
    sensitivity: float | None = None
    inputs: Descriptor = INPUTS
    weights: Descriptor = PER_CHANNEL
    quantization: Method = "qdq"
    force_dequant: ForceDequant = "none"

    @property
    def chosen(self) -> RangeMethod:
        """The method, or the quantization's own."""
        return self.method or _METHODS[self.quantization]

    @property
    def start(self) -> CalibrationMethod:
        """What chooses ranges from what each quantizer saw, before any learning."""
        return _START if self.chosen == "learned" else self.chosen

    def __post_init__(self) -> None:
        self._check_quantization()
        methods = RANGE_METHODS if self.quantization == "qdq" else CALIBRATION_METHODS
        if self.method is not None and self.method not in methods:
            raise InvalidOptionError("method", self.method, "one of " + ", ".join(map(repr, methods)))
        if not 0 < self.percentile <= 100:
            raise InvalidOptionError("percentile", self.percentile, "more than 0 and at most 100")
        if self.qat_steps < 0:
            raise InvalidOptionError("qat_steps", self.qat_steps, "0 or more")
        if self.sensitivity is not None and not self.sensitivity > 0:
            raise InvalidOptionError("sensitivity", self.sensitivity, "more than 0")
        for name in ("rows", "sequence_length"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(name, getattr(self, name), "1 or more")
        self._check_used()

    def _check_used(self) -> None:
        if self.start != "percentile" and self.percentile != _default("percentile"):
            raise InvalidOptionError(
                "percentile", self.percentile, f"left out: {self.chosen} leaves no share unclipped"
            )
        if self.learn_ranges and not self.qat_steps:
            raise InvalidOptionError("learn_ranges", True, "left out, or given with qat_steps: nothing is trained")

    def _check_quantization(self) -> None:
        for name, allowed in (("quantization", METHODS), ("force_dequant", FORCE_DEQUANT)):
            if getattr(self, name) not in allowed:
                raise InvalidOptionError(name, getattr(self, name), "one of " + ", ".join(map(repr, allowed)))
        if self.quantization == "qdq":
            if self.force_dequant != "none":
                problem = "left out: only ibert computes these functions on integers"
                raise InvalidOptionError("force_dequant", self.force_dequant, problem)
            return
        for name in _ONLY_QDQ:
            if getattr(self, name) != _default(name):
                raise InvalidOptionError(
                    name, getattr(self, name), "left out: the integers of ibert have no such setting"
                )


def _default(name: str) -> object:
    return next(item.default for item in fields(QuantizationPlan) if item.name == name)
