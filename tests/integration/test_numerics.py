"""The real checkpoint: fp32 equals transformers, and auto-cast equals an independent account of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from neuronbert import ExportSpec, NeuronBertModel, StaticShape, export
from tests.support.emulation import ROUNDINGS, Bert

# How far a program may lie from its emulation, over how far that lies from fp32. The finer the type, the smaller the
# drift, and the more of it are the values that fall to the other side.
LIMIT = {"bf16": 0.05, "fp8_e4m3": 0.05, "fp16": 0.3, "tf32": 0.3}
TEXTS = ["The quick brown fox jumps over the lazy dog.", "Berlin is the capital of Germany."]


@pytest.fixture(scope="module")
def given(minilm: Path) -> dict[str, torch.Tensor]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(minilm))
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.fixture(scope="module")
def programs(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NeuronBertModel]:
    made = {}
    for cast in ("none", "matmul"):
        out = tmp_path_factory.mktemp(cast) / "artifact"
        export(ExportSpec(model=str(minilm), shapes=(StaticShape(2, 64),), auto_cast=cast), out)
        made[cast] = NeuronBertModel.from_pretrained(out)
    return made


def real(outputs: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return outputs[given["attention_mask"].bool()]


def test_the_fp32_program_equals_transformers_eager(programs, given, minilm: Path) -> None:
    model = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(**given)
    outputs = programs["none"](**given)
    for name in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)


def test_the_independent_encoder_is_right_in_float64(programs, given, minilm: Path) -> None:
    expected = Bert(minilm, heads=12).hidden(*given.values()).float()
    ours = real(programs["none"](**given).last_hidden_state, given)
    torch.testing.assert_close(ours, real(expected, given), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def one_layer(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-layer")
    transformers.BertModel.from_pretrained(minilm, num_hidden_layers=1).save_pretrained(folder)
    return folder


def lowered(folder: Path, given: dict[str, torch.Tensor], mode: str, dtype: str) -> torch.Tensor:
    casts = {"auto_cast": mode, "auto_cast_type": dtype}
    model = NeuronBertModel.from_pretrained(folder, export=True, batch_size=2, sequence_length=64, **casts)
    return real(model(**given).last_hidden_state, given)


@pytest.mark.parametrize("dtype", ROUNDINGS)
@pytest.mark.parametrize("mode", ["matmul", "all"])
def test_a_lowered_layer_equals_an_independent_emulation(given, one_layer: Path, mode: str, dtype: str) -> None:
    exact = real(Bert(one_layer, heads=12).hidden(*given.values()).float(), given)
    emulated = real(Bert(one_layer, heads=12, mode=mode, dtype=dtype).hidden(*given.values()).float(), given)
    ours = lowered(one_layer, given, mode, dtype)
    # A value that lies half-way between two of the type falls to either side, as fp32 and float64 sums differ: a few
    # in a layer do. A cast that is missing, or one too many, moves all of them, as far as the drift itself.
    drift = (emulated - exact).abs().mean()
    assert (ours - emulated).abs().mean() < LIMIT[dtype] * drift


def test_six_layers_in_bf16_drift_as_far_as_an_independent_emulation(programs, given, minilm: Path) -> None:
    emulated = real(Bert(minilm, heads=12, mode="matmul").hidden(*given.values()).float(), given)
    exact, ours = (real(programs[cast](**given).last_hidden_state, given) for cast in ("none", "matmul"))
    # Over the layers the few that fall otherwise spread, so the two part; but neither is further from fp32.
    drift, our_drift = ((value - exact).abs().mean().item() for value in (emulated, ours))
    assert our_drift == pytest.approx(drift, rel=0.15)
