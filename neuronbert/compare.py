"""Two outputs to a verdict: which measures, how near, and why that near.

Owns: the measures and the tolerances. Knows nothing of models or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from torch.nn.functional import cosine_similarity

from neuronbert.report import Measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from neuronbert.manifest import OutputSpec


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How near a program must be to the fp32 reference.

    Attributes:
        cosine: The lowest cosine of any vector of an embedding.
        embedding_error: The largest difference of any value of an embedding, over the reference's range.
        logit_error: The same for a logit. Heads are trained on few values, so their range is narrower.
        reason: Why.
        overlap: The least share of the tokens kept in the reference that are kept in the program, too.
        scale: The least range that an error is measured by: that of the reference over all calls. One call of one row
            may give a single value near zero, and say nothing of how large such values are.
    """

    cosine: float
    embedding_error: float
    logit_error: float
    reason: str
    overlap: float = 0.99
    scale: float = 0.0

    def for_other_tokens(self) -> Tolerance:
        """For a row that lost other tokens than the reference's, as near ties let it: some times less strict."""
        return replace(
            self,
            cosine=1 - _OTHER_TOKENS * (1 - self.cosine),
            embedding_error=_OTHER_TOKENS * self.embedding_error,
            logit_error=_OTHER_TOKENS * self.logit_error,
            reason=f"{self.reason}; {_OTHER_TOKENS} times that, as other tokens were kept",
        )


_OTHER_TOKENS: Final = 4
_FP32: Final = Tolerance(0.99999, 1e-5, 1e-5, "fp32 on both sides: only the order of additions differs")

QUANTIZATION_COST: Final = Tolerance(
    0.8, 0.5, 0.25, "what 8 bits may cost; the task's own metric says more: give labelled rows with --data", overlap=0.8
)
"""How near a quantized program must be to the model in float."""

_UNITS: Final = 2.0
_SIGNIFICANT_BITS: Final[Mapping[str, int]] = {"bf16": 8, "fp16": 11, "tf32": 11, "fp8_e4m3": 4}
_COSINE: Final[Mapping[str, float]] = {
    "bf16": 0.999,
    "fp16": 0.99999,
    "tf32": 0.99999,
    "fp8_e4m3": 0.9,
}


def tolerance(auto_cast: str, auto_cast_type: str) -> Tolerance:
    """What a program with this auto-cast is held to.

    Rounding every matrix product's operands moves a logit of BERT by some times the type's half unit in the last place;
    rounding every operation, by about twice as many (measured over all heads: scripts/tolerances.py).
    """
    if auto_cast == "none":
        return _FP32
    bits = _SIGNIFICANT_BITS[auto_cast_type]
    units = 8 if auto_cast == "matmul" else 16
    error = min(0.5, units * 2.0**-bits)
    reason = f"{bits} significant bits, {auto_cast}: {units} half units in the last place; for embeddings {units // 2}"
    overlap = min(_FP32.overlap, 1 - 2 * error)  # near ties fall the other way
    return Tolerance(_COSINE[auto_cast_type], error / 2, error, reason, overlap)


def fidelity(pairs: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tolerance:
    """What an output of a program of integers is held to, against the simulation of its model.

    Where the two round a value differently, by the order of additions, it moves by a whole step, and other values with
    it. What follows is noise of the same kind as quantization's own, and is held to twice as much of it.

    Args:
        pairs: Of every call: the simulation's output, that of the model in float, and the mask as for `measure`.
    """
    scale = max(size(exact, mask) for _, exact, mask in pairs)
    error = max(_error(ours, exact, mask, scale) for ours, exact, mask in pairs)
    limit = max(_UNITS * error, _FP32.logit_error)
    cosines = [
        cosine_similarity(_real(ours, mask).double(), _real(exact, mask).double(), dim=-1, eps=1e-30).min()
        for ours, exact, mask in pairs
    ]
    cosine = min(1.0 - _UNITS * (1.0 - float(min(cosines))), _FP32.cosine)
    reason = "the program may differ from the quantized model by twice what that differs from float"
    return Tolerance(cosine, limit, limit, reason, QUANTIZATION_COST.overlap, scale)


def exactness(pairs: Sequence[tuple[Tensor, Tensor, Tensor | None]], cast: Tolerance) -> Tolerance:
    """What an output of a program of integers alone is held to, against its reference: the same integers.

    Args:
        pairs: Of every call: the reference's output, that of the model in float, and the mask as for `measure`.
        cast: What a head in float is held to under the program's auto-cast.
    """
    scale = max(size(exact, mask) for _, exact, mask in pairs)
    reason = "the integers are the same; a head behind them is of floats, which other kernels add in another order"
    return replace(cast, reason=reason, scale=scale)


def problem(output: Tensor, reference: Tensor) -> str:
    """What makes two outputs incomparable, or an empty text."""
    if output.shape != reference.shape:
        return f"its shape is {list(output.shape)}, the reference's {list(reference.shape)}"
    if output.dtype != reference.dtype:
        return f"its dtype is {output.dtype}, the reference's {reference.dtype}"
    if not bool(torch.isfinite(reference).all()):
        return "the reference's own values are not finite"
    bad = int((~torch.isfinite(output)).sum())
    return f"{bad} of {output.numel()} values are not finite" if bad else ""


def measure(
    output: Tensor, reference: Tensor, mask: Tensor | None, spec: OutputSpec, limits: Tolerance
) -> tuple[Measure, ...]:
    """The measures of one output against the reference.

    Args:
        output: fp32, finite, of the reference's shape.
        reference: fp32.
        mask: (batch, sequence), true at real tokens; None if the output has no sequence. Padding is not compared.
        spec: What the output means.
        limits: The tolerance.
    """
    error = _error(output, reference, mask, limits.scale)
    if spec.answer == "embedding":
        measures = [Measure(name="error", value=error, limit=limits.embedding_error, reason=limits.reason)]
        cosine = cosine_similarity(_real(output, mask).double(), _real(reference, mask).double(), dim=-1, eps=1e-30)
        measures.append(Measure(name="cosine", value=float(cosine.min()), limit=limits.cosine, reason=limits.reason))
    else:
        measures = [Measure(name="error", value=error, limit=limits.logit_error, reason=limits.reason)]
        agreement = _agreement(output, reference, mask, spec, limits)
        reason = "the answer may differ only where the reference's own margin is within the error allowed"
        measures.append(Measure(name="agreement", value=agreement, limit=1.0, reason=reason))
    return tuple(measures)


def measure_by_tokens(
    output: Tensor,
    reference: Tensor,
    mask: Tensor | None,
    spec: OutputSpec,
    limits: Tolerance,
    same: Tensor,
) -> tuple[Measure, ...]:
    """The measures of an output of a program that drops tokens.

    Rows that lost other tokens than the reference did are held less strictly, and of them only the tokens that came as
    far on both sides are compared: what is given of the others is of different layers.

    Args:
        output: See `measure`.
        reference: See `measure`.
        mask: See `measure`.
        spec: See `measure`.
        limits: See `measure`.
        same: Whether a token came as far on both sides, or is padding: (batch, sequence), or with choices.
    """
    whole = same.flatten(1).all(1)
    found: list[Measure] = []
    for rows, held in ((whole, limits), (~whole, limits.for_other_tokens())):
        if bool(rows.any()):
            inside = None if mask is None else (mask & same)[rows]
            found += measure(output[rows], reference[rows], inside, spec, held)
    return tuple(found)


def overlaps(output: Tensor, reference: Tensor, mask: Tensor, limits: Tolerance) -> tuple[Measure, ...]:
    """For each layer that drops any, how many of the real tokens that the reference kept the program kept, too.

    Of few tokens, one for each layer so far may be another: near ties fall either way, and what follows goes with them.

    Args:
        output: How many layers each token has passed in the program; fp32, (batch, sequence) or with choices.
        reference: The same of the reference.
        mask: True at real tokens.
        limits: The tolerance.
    """
    layers = sorted(set(map(int, reference.flatten().tolist())))[:-1]
    found = []
    for dropped, layer in enumerate(layers, start=1):
        kept = (reference > layer) & mask
        share = float((output[kept] > layer).float().mean()) if bool(kept.any()) else 1.0
        tokens = max(1.0, float(kept.sum(-1).float().mean()))
        limit = min(limits.overlap, max(0.0, 1 - dropped / tokens))
        found.append(Measure(name="overlap", value=share, limit=limit, reason=limits.reason, layer=layer))
    return tuple(found)


def _real(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else tensor[mask]


def _error(output: Tensor, reference: Tensor, mask: Tensor | None, scale: float) -> float:
    ours, theirs = _real(output, mask).double(), _real(reference, mask).double()
    return float((ours - theirs).abs().max()) / max(scale, size(theirs))


def size(reference: Tensor, mask: Tensor | None = None) -> float:
    """How large an output's values are: their range, or the largest of them if they lie far from zero together."""
    reference = _real(reference, mask)
    spread = float(reference.max().double() - reference.min().double())
    return max(spread, float(reference.abs().max()), torch.finfo(torch.float32).tiny)


def _agreement(output: Tensor, reference: Tensor, mask: Tensor | None, spec: OutputSpec, limits: Tolerance) -> float:
    if spec.answer == "sign":
        ours, theirs = _real(output, mask).double(), _real(reference, mask).double()
        near = theirs.abs() <= limits.logit_error * max(limits.scale, size(reference, mask))
        return float(((ours > 0) == (theirs > 0)).logical_or(near).float().mean())
    if spec.answer == "span" and mask is not None:
        # The answer is a place among the real tokens of a row.
        hidden = torch.finfo(torch.float32).min
        ours, theirs = output.masked_fill(~mask, hidden), reference.masked_fill(~mask, hidden)
    else:
        ours, theirs = _real(output, mask), _real(reference, mask)
    chosen = ours.argmax(dim=-1, keepdim=True)
    theirs = theirs.double()
    margin = theirs.max(dim=-1, keepdim=True).values - theirs.gather(-1, chosen)
    slack = 2 * limits.logit_error * max(limits.scale, size(reference, mask))
    return float((margin <= slack).float().mean())
