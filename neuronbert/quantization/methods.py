"""The table of quantizations: how each makes the model that is simulated, and those that are compiled.

Owns: METHODS. Knows nothing of targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert.encoder.model import install
from neuronbert.errors import NotQuantizedError
from neuronbert.integers.carriers import carry
from neuronbert.quantization import ibert, placement
from neuronbert.quantization.program import integers
from neuronbert.quantization.qdq import QdqArithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from neuronbert.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Method:
    """One quantization.

    Attributes:
        simulate: A model of transformers and its checkpoint, to the model in quantized arithmetic on fp32 tensors.
        integers: What contains a simulated model, to the same with integer products.
        floats: And to the same for a compiler that has none: on fp32 tensors.
    """

    simulate: Callable[[Any, Checkpoint], Any]
    integers: Callable[[Any], Any]
    floats: Callable[[Any], Any]


def _qdq(model: Any, checkpoint: Checkpoint) -> Any:
    if checkpoint.scheme is None:
        raise NotQuantizedError(checkpoint.path, "qdq", "")
    model = install(model, QdqArithmetic())
    placement.attach(model, checkpoint.scheme)
    placement.set_ranges(model, placement.read_ranges(checkpoint.weight_files), checkpoint.path)
    return model


METHODS: Final[Mapping[str, Method]] = {
    "qdq": Method(_qdq, integers, lambda head: head),
    "ibert": Method(ibert.simulate, lambda head: head, carry),
}
