"""BERT once more, from its weights alone: an independent account of what auto-cast means.

Shares nothing with the library or with transformers. `matmul`: products take rounded operands and are added up in
float64, so the order of additions can't matter; everything else is float64 as well. `all`: every weight and the result
of every operation is rounded too, while softmax and LayerNorm are exact inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]


def round_to(significant: int, largest: float, smallest_exponent: int) -> Rounding:
    """Rounding to a binary format, to nearest even: its significant bits, largest value and least normal exponent."""

    def rounded(value: Tensor) -> Tensor:
        exact = value.double().numpy()
        _, exponent = np.frexp(exact)
        step = np.exp2(np.maximum(exponent - 1, smallest_exponent) - (significant - 1))
        near = np.rint(exact / step) * step
        near = np.where(np.abs(near) > largest, np.copysign(np.inf, exact), near)
        return torch.from_numpy(np.where(np.isfinite(exact), near, exact))

    return rounded


ROUNDINGS: dict[str, Rounding] = {
    "bf16": round_to(8, (2 - 2.0**-7) * 2.0**127, -126),
    "fp16": round_to(11, 65504.0, -14),
    "tf32": round_to(11, (2 - 2.0**-10) * 2.0**127, -126),
    "fp8_e4m3": round_to(4, 240.0, -6),
}


def exact(value: Tensor) -> Tensor:
    """No rounding at all."""
    return value


class Bert:
    """The encoder of a safetensors checkpoint, in float64, with an auto-cast.

    Args:
        folder: The checkpoint.
        heads: Its attention heads.
        mode: "none", "matmul" or "all".
        dtype: A key of ROUNDINGS.
    """

    def __init__(self, folder: Path, heads: int, mode: str = "none", dtype: str = "bf16") -> None:
        rounding = ROUNDINGS[dtype]
        self.cast = exact if mode == "none" else rounding
        self.done = rounding if mode == "all" else exact
        weights = load_file(folder / "model.safetensors")
        self.weights = {name.removeprefix("bert."): self.done(value.double()) for name, value in weights.items()}
        self.heads = heads

    def hidden(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """The last hidden states: (batch, sequence, hidden)."""
        table, done = self.weights, self.done
        value = table["embeddings.word_embeddings.weight"][ids]
        value = done(value + table["embeddings.token_type_embeddings.weight"][types])
        value = done(value + table["embeddings.position_embeddings.weight"][: ids.shape[1]])
        value = self.norm(value, "embeddings.LayerNorm")
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in table:
            value = self.layer(value, mask, f"encoder.layer.{layer}")
            layer += 1
        return value

    def layer(self, value: Tensor, mask: Tensor, name: str) -> Tensor:
        attended = self.linear(self.attention(value, mask, f"{name}.attention.self"), f"{name}.attention.output.dense")
        value = self.norm(self.done(attended + value), f"{name}.attention.output.LayerNorm")
        wide = self.linear(value, f"{name}.intermediate.dense")
        wide = self.done(0.5 * wide * (1 + torch.erf(wide / math.sqrt(2))))
        return self.norm(self.done(self.linear(wide, f"{name}.output.dense") + value), f"{name}.output.LayerNorm")

    def attention(self, value: Tensor, mask: Tensor, name: str) -> Tensor:
        batch, length, width = value.shape
        size = width // self.heads
        query, key, content = (
            self.linear(value, f"{name}.{part}").reshape(batch, length, self.heads, size)
            for part in ("query", "key", "value")
        )
        scores = self.done(torch.einsum("bihd,bjhd->bhij", self.cast(query), self.cast(key)))
        scores = self.done(scores / math.sqrt(size))
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -math.inf)
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        weights = self.done(weights / weights.sum(-1, keepdim=True))
        mixed = self.done(torch.einsum("bhij,bjhd->bihd", self.cast(weights), self.cast(content)))
        return mixed.reshape(batch, length, width)

    def linear(self, value: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return self.done(torch.einsum("...i,oi->...o", self.cast(value), self.cast(weight)) + bias)

    def norm(self, value: Tensor, name: str) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12)
        return self.done(scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])
