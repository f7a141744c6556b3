"""What a checkpoint's config.json says of its quantization.

Owns: Descriptor, Scheme, their place in config.json, and reading them as the data from elsewhere that they are. Knows
nothing of torch or of files. transformers has a `quantization_config` of its own, and fails on methods that it doesn't
know; so these stand under a key of their own, which transformers keeps and ignores.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from neuronbert.data import Data
from neuronbert.errors import SchemeError
from neuronbert.spec import Method

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTION: Final = "neuronbert_quantization"
"""The key in config.json."""
OLD_MODEL_TYPE: Final = "qdqbert"
"""What transformers up to 4.56 wrote as the model_type of its QDQBERT."""

CalibrationMethod = Literal["max", "percentile", "mse", "entropy"]
CALIBRATION_METHODS: Final[tuple[CalibrationMethod, ...]] = get_args(CalibrationMethod)
RangeMethod = Literal["learned", "max", "percentile", "mse", "entropy"]
"""Each that chooses a range from what one quantizer saw, and learning them all from what the model answers."""
RANGE_METHODS: Final[tuple[RangeMethod, ...]] = get_args(RangeMethod)
QuantizerName = Annotated[str, Field(pattern=r"^layer\.[0-9]{1,4}(\.[a-z_]+)+$", max_length=120)]

_PER_ROW: Final = "only weights have a range for each output channel, so inputs must have axis null"


class Descriptor(Data):
    """How one kind of tensors is quantized. The names are those of the pytorch-quantization toolkit."""

    num_bits: Annotated[int, Field(ge=2, le=16)] = 8
    """On the integer kernels 8 only; others are simulated."""
    axis: Literal[0] | None = None
    """0: a range for each output channel of a weight. None: one for the tensor."""
    unsigned: bool = False
    """From 0 up, for values that are never negative."""
    narrow_range: bool = False
    """Leave out the lowest value, so that the rest lies evenly around 0."""

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest integer."""
        top = 2 ** (self.num_bits - (not self.unsigned)) - 1
        return (0 if self.unsigned else -top - (not self.narrow_range)), top


INPUTS: Final = Descriptor()
PER_CHANNEL: Final = Descriptor(axis=0)


class Calibration(Data):
    """Where the ranges are from."""

    method: RangeMethod
    percentile: Annotated[float, Field(gt=0, le=100)] | None = None
    rows: Annotated[int, Field(ge=1)]


class Scheme(Data):
    """What is quantized, and how."""

    method: Method
    version: Literal[1] = 1
    inputs: Descriptor = INPUTS
    weights: Descriptor = PER_CHANNEL
    kept_float: tuple[QuantizerName, ...] = ()
    """The quantizers that let their tensors through, as layer.0.output.dense._input_quantizer."""
    calibration: Calibration | None = None
    """None for ranges that were learned or converted."""

    @model_validator(mode="after")
    def _check_axis(self) -> Self:
        if self.inputs.axis is not None:
            raise ValueError(_PER_ROW)
        return self


def read(config: Mapping[str, Any], path: object) -> Scheme | None:
    """What a config.json says, or None if it says nothing.

    Raises:
        SchemeError: it says what no version of this library wrote.
    """
    if SECTION not in config:
        return None
    try:
        return Scheme.model_validate_json(json.dumps(config[SECTION]))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (SECTION, *first["loc"])))
        raise SchemeError(path, place, first["msg"]) from error


def modernized(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an old QDQBERT as BERT's, with the scheme that it stood for; any other as it is.

    An I-BERT's that says `quant_mode` gets the scheme that transformers means by it.
    """
    if config["model_type"] == "ibert" and config.get("quant_mode") is True:
        return {SECTION: Scheme(method="ibert").model_dump(mode="json"), **config}
    if config["model_type"] != OLD_MODEL_TYPE:
        return dict(config)
    scheme = {SECTION: Scheme(method="qdq").model_dump(mode="json")}
    names = config.get("architectures")
    renamed = [re.sub("^QDQ", "", str(name)) for name in names] if isinstance(names, list) else names
    # QDQBertConfig's default was 1, BertConfig's is 0.
    return {"pad_token_id": 1, **config, "model_type": "bert", "architectures": renamed, **scheme}
