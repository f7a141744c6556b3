"""The real checkpoint: fp32 equals transformers, and auto-cast equals an independent account of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from neuronbert import ExportSpec, NeuronBertModel, StaticShape, export
from tests.support.emulation import Bert

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
    expected = Bert(minilm, heads=12, lowered=False).hidden(*given.values()).float()
    ours = real(programs["none"](**given).last_hidden_state, given)
    torch.testing.assert_close(ours, real(expected, given), rtol=1e-5, atol=1e-5)


def drifts(emulated: torch.Tensor, exact: torch.Tensor, ours: torch.Tensor) -> tuple[float, float, float]:
    """Mean distances: program from emulation, emulation from fp32, program from fp32."""
    return tuple(
        float((one - other).abs().mean()) for one, other in ((ours, emulated), (emulated, exact), (ours, exact))
    )


def test_one_layer_in_bf16_equals_an_independent_emulation(given, minilm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one-layer"
    transformers.BertModel.from_pretrained(minilm, num_hidden_layers=1).save_pretrained(folder)
    outputs = {}
    for cast in ("none", "matmul"):
        model = NeuronBertModel.from_pretrained(folder, export=True, batch_size=2, sequence_length=64, auto_cast=cast)
        outputs[cast] = real(model(**given).last_hidden_state, given)
    emulated = real(Bert(folder, heads=12, lowered=True).hidden(*given.values()).float(), given)
    apart, drift, _ = drifts(emulated, outputs["none"], outputs["matmul"])
    # An operand that lies half-way between two bf16 values falls to either side, as fp32 and float64 sums differ: a
    # few values in a layer do. A cast that is missing or too many moves all of them, by as much as the drift itself.
    assert apart < 0.02 * drift


def test_six_layers_in_bf16_drift_as_far_as_an_independent_emulation(programs, given, minilm: Path) -> None:
    emulated = real(Bert(minilm, heads=12, lowered=True).hidden(*given.values()).float(), given)
    exact, ours = (real(programs[cast](**given).last_hidden_state, given) for cast in ("none", "matmul"))
    apart, drift, our_drift = drifts(emulated, exact, ours)
    # Over the layers the few that fall otherwise spread, so the two part; but neither is further from fp32.
    assert our_drift == pytest.approx(drift, rel=0.15)
    assert apart < drift * 2**0.5
