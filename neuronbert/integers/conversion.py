"""An encoder of transformers with integers in place of its weights.

Owns: convert, which fixes every scale from the embedding to the last layer. Knows nothing of checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuronbert.errors import IntegerRangeError, UnsupportedFeatureError
from neuronbert.integers.calibrated import Calibrated
from neuronbert.integers.embeddings import IntegerEmbeddings
from neuronbert.integers.layers import IntegerAttention, IntegerIntermediate, IntegerOutput

if TYPE_CHECKING:
    from neuronbert.integers.dequantized import ForceDequant
    from neuronbert.integers.ranges import Ranges


def convert(base: Any, ranges: Ranges, force_dequant: ForceDequant = "none") -> None:
    """Put integers in the place of an encoder's weights.

    Args:
        base: transformers' model without a head, of BERT's layers; its modules are replaced.
        ranges: What its activations span.
        force_dequant: What is computed in floating point all the same.

    Raises:
        UncalibratedError: ranges are missing.
        IntegerRangeError: a weight or a range makes integers too wide.
        UnsupportedFeatureError: the activation function is another one than GELU, or the model is a decoder.
    """
    if base.config.hidden_act != "gelu":
        raise UnsupportedFeatureError("hidden_act", base.config.hidden_act, "I-BERT's polynomial is GELU's alone")
    if getattr(base.config, "is_decoder", False):
        raise UnsupportedFeatureError("is_decoder", True, "I-BERT's heads see the whole row")
    ranges.check(len(base.encoder.layer))
    place = Calibrated("embeddings", ranges, force_dequant)
    try:
        base.embeddings = IntegerEmbeddings(base.embeddings, place)
        scale = base.embeddings.scale
        for index, layer in enumerate(base.encoder.layer):
            place = Calibrated(f"encoder.layer.{index}", ranges, force_dequant)
            scale = _convert_layer(layer, scale, place)
    except OverflowError as error:  # wherever two scales meet
        problem = "a range or a weight is out of all proportion to those it is computed with"
        raise IntegerRangeError(place.name, problem) from error


def _convert_layer(layer: Any, scale: float, place: Calibrated) -> float:
    attention = IntegerAttention(layer.attention.self, scale, place)
    # transformers rounds to 8 bits twice in a row, before and between a layer's halves; here the second range counts.
    scales = (attention.scale, scale, place.scale("pre_intermediate_act", 8))
    attended = IntegerOutput(layer.attention.output, scales, place.below("attention.output"))
    inner = IntegerIntermediate(layer.intermediate, attended.scale, place)
    scales = (inner.scale, attended.scale, place.scale("output.output_activation", 8))
    output = IntegerOutput(layer.output, scales, place.below("output"))
    layer.attention.self, layer.attention.output = attention, attended
    layer.intermediate, layer.output = inner, output
    return output.scale
