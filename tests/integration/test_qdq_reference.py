"""The simulation against a computation of its own: BERT by hand, rounded in the twenty places of QDQBERT's layers.

Nothing of the library takes part in it but the checkpoint that it wrote: names, scales and rounding are those of the
pytorch-quantization toolkit, with torch's own fake quantization.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from neuronbert import QuantizationPlan, modeling, quantize
from neuronbert.checkpoint import Checkpoint
from neuronbert.schemes import CALIBRATION_METHODS

TEXTS = [
    "The harbour was quiet.",
    "A committee of nine met on Tuesday.",
    "Is there a train to Lisbon tonight?",
    "Bread.",
]
HELD_OUT = torch.tensor([[101, 2023, 2003, 1037, 3231, 102, 0, 0], [101, 7, 8, 9, 1037, 2054, 3, 102]])
MASK = (HELD_OUT != 0).long()


class ByHand:
    def __init__(self, folder, bound=127):
        self.weights = load_file(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())
        self.bound = bound

    def at(self, name):
        return self.weights[f"bert.{name}"]

    def rounded(self, name, values):
        scale = float(self.at(f"{name}_quantizer._amax")) / self.bound
        return torch.fake_quantize_per_tensor_affine(values, scale, 0, -self.bound - 1, self.bound)

    def linear(self, name, values):
        weight, scale = self.at(f"{name}.weight"), self.at(f"{name}._weight_quantizer._amax").reshape(-1) / self.bound
        zeros = torch.zeros(len(weight), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -self.bound - 1, self.bound)
        return self.rounded(f"{name}._input", values) @ weight.T + self.at(f"{name}.bias")

    def norm(self, name, values):
        weight, bias = self.at(f"{name}.weight"), self.at(f"{name}.bias")
        return functional.layer_norm(values, weight.shape, weight, bias, self.config["layer_norm_eps"])

    def sum(self, name, local, residual):
        both = self.rounded(f"{name}.add_local_input", local) + self.rounded(f"{name}.add_residual_input", residual)
        return self.norm(f"{name}.LayerNorm", both)

    def attention(self, name, hidden, added):
        def heads(values):
            return values.view(*values.shape[:2], self.config["num_attention_heads"], -1).transpose(1, 2)

        query, key, value = (
            self.rounded(f"{name}.self.matmul_{part[0]}_input", heads(self.linear(f"{name}.self.{part}", hidden)))
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + added
        weights = self.rounded(f"{name}.self.matmul_a_input", scores.softmax(dim=-1))
        gathered = (weights @ value).transpose(1, 2).flatten(2)
        return self.sum(f"{name}.output", self.linear(f"{name}.output.dense", gathered), hidden)

    def states(self, ids, mask):
        tables = "embeddings.{}_embeddings.weight"
        hidden = self.at(tables.format("word"))[ids] + self.at(tables.format("token_type"))[0]
        hidden = self.norm("embeddings.LayerNorm", hidden + self.at(tables.format("position"))[: ids.shape[1]])
        added = torch.where(mask.bool(), 0.0, -1e9)[:, None, None]
        for index in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{index}"
            seen = self.attention(f"{layer}.attention", hidden, added)
            inner = functional.gelu(self.linear(f"{layer}.intermediate.dense", seen))
            hidden = self.sum(f"{layer}.output", self.linear(f"{layer}.output.dense", inner), seen)
        return hidden


@pytest.mark.parametrize("method", [*CALIBRATION_METHODS, "learned"])
def test_held_out_rows_get_the_same_states(tiny, tmp_path, method):
    quantize(str(tiny("text-classification")), tmp_path / "out", TEXTS, QuantizationPlan(method))
    head = modeling.load(Checkpoint.open(tmp_path / "out"), "text-classification", quantization="qdq").head
    real = MASK.bool()
    with torch.no_grad():
        found = head.model.bert(HELD_OUT, MASK).last_hidden_state[real]
        exact = modeling.load(Checkpoint.open(tmp_path / "out"), "text-classification").head.model.bert(HELD_OUT, MASK)
        expected = ByHand(tmp_path / "out").states(HELD_OUT, MASK)[real]
    apart = (found - expected).abs()
    # A value half-way between two integers may go either way: few do, and each moves a state by less than a step.
    assert float(apart.quantile(0.9)) < 1e-5
    assert float(apart.max()) < 0.2 * float((exact.last_hidden_state[real] - expected).abs().max())
