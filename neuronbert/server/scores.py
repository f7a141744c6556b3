"""Numbers as clients want them.

Owns: the arithmetic after a program: chances, lengths, angles. Knows nothing of models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuronbert.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence


def chances(logits: np.ndarray, *, independent: bool = False) -> np.ndarray:
    """Of labels: each for itself if they don't exclude each other or there is one, else together.

    Args:
        logits: (labels).
        independent: Whether they don't exclude each other.
    """
    if independent or len(logits) == 1:
        result: np.ndarray = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return finite(result)
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return finite(powers / powers.sum())


def vectors(found: Sequence[np.ndarray], *, normalize: bool = True, dimensions: int | None = None) -> np.ndarray:
    """Vectors of texts as one array (texts, size), cut to so many dimensions first and to length 1 then.

    Raises:
        Refusal: they have fewer dimensions.
    """
    stacked = np.stack(found)
    size = stacked.shape[1]
    if dimensions is not None:
        if dimensions > size:
            raise Refusal(422, "Validation", f"`dimensions` must be at most {size}. Given: {dimensions}")
        stacked = np.ascontiguousarray(stacked[:, :dimensions])
    if normalize:
        stacked = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)
    return finite(stacked)


def finite(values: np.ndarray) -> np.ndarray:
    """The same values.

    Raises:
        Refusal: one is no number: JSON has nothing for it, and it is no answer.
    """
    if not np.isfinite(values).all():
        raise Refusal(424, "Backend", "The model's answer holds a value that is no number.")
    return values
