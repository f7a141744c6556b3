"""Seeded batches: examples to trace with, and cases to validate with.

Owns: what is fed to a program when nobody gives it anything. Knows nothing of backends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from neuronbert.manifest import InputSpec
    from neuronbert.shapes import StaticShape

SAMPLE_TEXTS: Final = (
    "The harbour was quiet at six in the morning.",
    "A committee of nine met on Tuesday to vote on the new bridge, and adjourned without a decision.",
    "Is there a train to Lisbon tonight?",
    "She measured the temperature of the water twice and found that both numbers agreed to a tenth of a degree.",
    "Bread.",
    "In 1969 two people walked on the Moon while a third one, Michael Collins, circled above them.",
)
"""English sentences of mixed lengths: validation on what a tokenizer gives, not only on random ids."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One call to validate with: its name and its inputs by name."""

    name: str
    inputs: dict[str, Tensor]


def example(specs: Sequence[InputSpec], shape: StaticShape) -> tuple[Tensor, ...]:
    """Inputs that fill a static shape, in order, to trace with."""
    inputs = _random(specs, shape.dims, shape.dims[-1], torch.Generator().manual_seed(0))
    return tuple(inputs[spec.name] for spec in specs)


def validation_batches(
    specs: Sequence[InputSpec], shape: StaticShape, texts: dict[str, Tensor] | None, seed: int = 0
) -> Iterator[Batch]:
    """The calls that a program of a static shape is validated with.

    Args:
        specs: The program's inputs.
        shape: Its static shape.
        texts: Tokenized texts of at most this shape, if there is a tokenizer.
        seed: Of the random ids.

    Yields:
        Full rows; short rows, padded by the loader; a single short row; rows of mixed length with a mask; the texts.
    """
    specs = [spec for spec in specs if spec.name != "call_mask"]  # the loader's own, to tell its padding by
    generator = torch.Generator().manual_seed(seed)
    dims, length = shape.dims, shape.sequence_length
    short = max(1, length // 3)
    yield Batch("full", _random(specs, dims, length, generator))
    yield Batch("short", _random(specs, (*dims[:-1], short), short, generator))
    single = (1, *dims[1:-1], max(1, length // 2))
    yield Batch("single-row", _random(specs, single, single[-1], generator))
    mixed = _random(specs, dims, length, generator)
    lengths = torch.randint(1, length + 1, (*dims[:-1], 1), generator=generator)
    lengths.view(-1)[0] = length
    mask = (torch.arange(length) < lengths).long()
    yield Batch("mixed", _masked(mixed, specs, mask))
    if texts is not None:
        yield Batch("text", texts | _needed(specs, texts))


def _random(
    specs: Sequence[InputSpec], dims: tuple[int, ...], length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    inputs = {}
    for spec in specs:
        if spec.name in ("attention_mask", "call_mask"):
            inputs[spec.name] = torch.ones(dims, dtype=torch.int64)
        elif spec.name == "token_type_ids":
            # A first and a second segment, as a pair of texts has them.
            second = torch.arange(length) >= (length + 1) // 2
            inputs[spec.name] = (second.long() * min(1, spec.maximum)).expand(dims).contiguous()
        else:
            inputs[spec.name] = torch.randint(0, spec.maximum + 1, dims, generator=generator)
    return inputs


def _needed(specs: Sequence[InputSpec], texts: dict[str, Tensor]) -> dict[str, Tensor]:
    # What a tokenizer doesn't give and a call can't do without: a language, say.
    missing = [spec.name for spec in specs if spec.default is None and spec.name not in texts]
    return {name: torch.zeros_like(texts["input_ids"]) for name in missing}


def _masked(inputs: dict[str, Tensor], specs: Sequence[InputSpec], mask: Tensor) -> dict[str, Tensor]:
    padding = {spec.name: spec.padding for spec in specs}
    return {name: torch.where(mask.bool(), value, padding[name]) for name, value in inputs.items()}
