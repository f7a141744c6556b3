"""The steps of the encoder on pairs: integers, and the scale that they are to be multiplied by.

Owns: IntegerArithmetic. Knows nothing of how the modules that it calls were made, nor of what holds their
integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.encoder.arithmetic import by_head
from neuronbert.errors import UnsupportedFeatureError
from neuronbert.integers.dequantized import PROBABILITY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Integers:
    """Integers with their scale.

    Attributes:
        values: int8, uint8 or int32; or whole numbers in fp32, where they are carried so (carriers.py).
        scale: What one of them stands for.
    """

    values: Tensor
    scale: float


class IntegerArithmetic:
    """I-BERT's arithmetic; its sites are the modules of layers.py, or of carriers.py."""

    def embed(self, site: Any, given: Mapping[str, Tensor | None]) -> Integers:
        """See Arithmetic."""
        if given["input_ids"] is None:
            raise UnsupportedFeatureError(
                "inputs_embeds", "given", "an integer encoder looks tokens up in its own table"
            )
        values = site(given["input_ids"], given["token_type_ids"], given["position_ids"])
        return Integers(values, site.scale)

    def project(self, site: Any, hidden: Integers) -> tuple[Integers, Integers, Integers]:
        """See Arithmetic."""
        parts = [by_head(site, part) for part in site(hidden.values).chunk(3, -1)]
        scales = (site.query, site.key, site.value)
        query, key, value = (Integers(part, scale) for part, scale in zip(parts, scales, strict=True))
        return query, key, value

    def scores(self, site: Any, query: Integers, key: Integers) -> Integers:
        """See Arithmetic."""
        return Integers(site.products_of(query.values, key.values), site.scores)

    def softmax(self, site: Any, scores: Integers, mask: Tensor | None) -> Integers:
        """See Arithmetic. A token is attended to where the mask adds nothing to its score."""
        attended = torch.ones(1, dtype=torch.bool) if mask is None else mask == 0
        return Integers(site.probabilities(scores.values, attended), PROBABILITY)

    def context(self, site: Any, probabilities: Integers, value: Integers) -> Integers:
        """See Arithmetic."""
        return Integers(site.gathered(probabilities.values, value.values), site.scale)

    def linear(self, site: Any, hidden: Integers) -> Integers:  # noqa: ARG002  the port's
        """See Arithmetic. It is what is given: the step that follows multiplies, too, so that no sum leaves it."""
        return hidden

    def activate(self, site: Any, hidden: Integers) -> Integers:
        """See Arithmetic."""
        return Integers(site(hidden.values), site.scale)

    def add_norm(self, site: Any, hidden: Integers, residual: Integers) -> Integers:
        """See Arithmetic."""
        return Integers(site(hidden.values, residual.values), site.scale)

    def over_tokens(self, value: Integers, move: Callable[[Tensor], Tensor]) -> Integers:
        """See Arithmetic."""
        return replace(value, values=move(value.values))

    def leave(self, value: Integers) -> Tensor:
        """See Arithmetic."""
        return value.values.to(torch.float32) * value.scale


INTEGERS: Final = IntegerArithmetic()
