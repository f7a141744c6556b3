"""BERT once more, from its weights alone: an independent account of what auto-cast `matmul` to bf16 means.

Shares nothing with the library or with transformers. Matrix products take operands rounded to bf16 and are added up in
float64, so the order of additions can't matter; everything else is float64 as well.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def bf16(value: Tensor) -> Tensor:
    """Round float64 to bf16's grid by way of its bits: 8 significant ones, to nearest, ties to even."""
    bits = value.to(torch.float32).numpy().view("uint32").astype("uint64")
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype("uint32")
    return torch.from_numpy(rounded.view("float32").copy()).double()


class Bert:
    """The encoder of a safetensors checkpoint, in float64 or with bf16 operands."""

    def __init__(self, folder: Path, heads: int, *, lowered: bool) -> None:
        weights = load_file(folder / "model.safetensors")
        self.weights = {name.removeprefix("bert."): value.double() for name, value in weights.items()}
        self.heads = heads
        self.cast = bf16 if lowered else (lambda value: value)

    def hidden(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """The last hidden states: (batch, sequence, hidden)."""
        table = self.weights
        value = (
            table["embeddings.word_embeddings.weight"][ids] + table["embeddings.token_type_embeddings.weight"][types]
        )
        value = value + table["embeddings.position_embeddings.weight"][: ids.shape[1]]
        value = self.norm(value, "embeddings.LayerNorm")
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in table:
            value = self.layer(value, mask, f"encoder.layer.{layer}")
            layer += 1
        return value

    def layer(self, value: Tensor, mask: Tensor, name: str) -> Tensor:
        attended = self.linear(self.attention(value, mask, f"{name}.attention.self"), f"{name}.attention.output.dense")
        value = self.norm(value + attended, f"{name}.attention.output.LayerNorm")
        wide = self.linear(value, f"{name}.intermediate.dense")
        wide = 0.5 * wide * (1 + torch.erf(wide / math.sqrt(2)))
        return self.norm(value + self.linear(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def attention(self, value: Tensor, mask: Tensor, name: str) -> Tensor:
        batch, length, width = value.shape
        size = width // self.heads
        query, key, content = (
            self.linear(value, f"{name}.{part}").reshape(batch, length, self.heads, size)
            for part in ("query", "key", "value")
        )
        scores = torch.einsum("bihd,bjhd->bhij", self.cast(query), self.cast(key)) / math.sqrt(size)
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -math.inf)
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        weights = weights / weights.sum(-1, keepdim=True)
        mixed = torch.einsum("bhij,bjhd->bihd", self.cast(weights), self.cast(content))
        return mixed.reshape(batch, length, width)

    def linear(self, value: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return torch.einsum("...i,oi->...o", self.cast(value), self.cast(weight)) + bias

    def norm(self, value: Tensor, name: str) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
