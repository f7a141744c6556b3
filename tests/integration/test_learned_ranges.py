"""Ranges that learn from what the model answers: what they mend, and what they leave alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from neuronbert import QuantizationPlan, modeling, passages, quantize, tokenization
from neuronbert.checkpoint import Checkpoint
from neuronbert.encoder.model import Encoder
from neuronbert.errors import CalibrationError, InvalidOptionError
from neuronbert.quantization import placement, program, training
from neuronbert.quantization.calibration import calibrate
from neuronbert.quantized import prepare
from neuronbert.schemes import Descriptor

TEXTS = [
    "The harbour was quiet.",
    "A committee of nine met on Tuesday.",
    "Is there a train to Lisbon tonight?",
    "Bread.",
]


COARSE = Descriptor(num_bits=4)
"""With few levels, the ranges that clip nothing are far from the best ones."""


@pytest.fixture
def folder(tiny):
    return tiny("text-classification")


def calibrated(folder, method="max"):
    checkpoint = Checkpoint.open(folder)
    encoder, rows = modeling.load_encoder(checkpoint), tokenization.require(checkpoint.path)
    batches = list(passages.batches(((text,) for text in TEXTS), rows, 32))
    prepare(encoder, QuantizationPlan(method, inputs=COARSE))
    calibrate(encoder, batches, method)
    return encoder, batches


def test_they_bring_the_states_nearer_and_move_no_weight(folder, tmp_path):
    done = quantize(str(folder), tmp_path / "out", TEXTS, QuantizationPlan(inputs=COARSE))
    before, after = done.losses
    assert after < 0.75 * before
    assert done.scheme.calibration.model_dump() == {"method": "learned", "percentile": 99.99, "rows": 4}
    plain = quantize(str(folder), tmp_path / "plain", TEXTS, QuantizationPlan("percentile", inputs=COARSE))
    assert plain.losses is None
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "plain"))
    moved = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert moved
    assert all(placement.is_range(name) and "_weight_" not in name for name in moved)


def test_the_loss_is_that_of_a_computation_of_its_own(folder):
    encoder, batches = calibrated(folder)
    first, last = training.learn_ranges(encoder, batches)
    real = batches[0]["attention_mask"].bool()
    with torch.no_grad():
        wanted = modeling.load_encoder(Checkpoint.open(folder))(**batches[0]).last_hidden_state[real]
        found = encoder(**batches[0]).last_hidden_state[real]
    assert float((found - wanted).pow(2).mean() / wanted.var()) == pytest.approx(last, rel=1e-4)
    assert last < first


def test_all_else_is_as_it_was(folder):
    encoder, batches = calibrated(folder)
    placement.of(encoder)["layer.1.output.dense._input_quantizer"].enabled = False
    before = {name: quantizer.enabled for name, quantizer in placement.of(encoder).items()}
    training.learn_ranges(encoder, batches)
    assert {name: quantizer.enabled for name, quantizer in placement.of(encoder).items()} == before
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(amax.requires_grad for amax in placement.ranges_of(encoder).values())


def test_ranges_that_end_no_nearer_are_left_as_they_were(folder, monkeypatch):
    encoder, batches = calibrated(folder)
    before = placement.ranges_of(encoder)
    monkeypatch.setattr(training, "_RANGE_RATE", 9.0)
    first, last = training.learn_ranges(encoder, batches)
    assert first == last
    assert all(torch.equal(amax, before[name]) for name, amax in placement.ranges_of(encoder).items())


def test_a_loss_that_is_no_number_is_refused(folder):
    encoder, batches = calibrated(folder)
    with torch.no_grad():
        encoder.embeddings.LayerNorm.weight.fill_(float("inf"))
    with pytest.raises(CalibrationError, match="has a loss of nan after 0 steps"):
        training.learn_ranges(encoder, batches)


def test_integers_have_no_ranges_that_learn_so():
    with pytest.raises(InvalidOptionError, match=r"'learned'.*'mse'"):
        QuantizationPlan("learned", quantization="ibert")
    assert QuantizationPlan(quantization="ibert").chosen == "mse"


def test_the_command_says_how_far_states_move(folder, tmp_path):
    from neuronbert_cli.app import app

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    command = ["quantize", str(folder), "--data", str(tmp_path / "texts.txt"), "--input-bits", "4"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "of their variance" in done.stdout
    told = json.loads(CliRunner().invoke(app, [*command, str(tmp_path / "b"), "--json"]).stdout)
    assert told["losses"][1] < told["losses"][0]


def test_what_shares_a_tensor_learns_one_range_and_the_program_its_joint_product(folder, tmp_path):
    done = quantize(str(folder), tmp_path / "out", TEXTS, QuantizationPlan(percentile=90.0))
    assert done.losses[1] < 0.5 * done.losses[0]
    head = modeling.load(Checkpoint.open(tmp_path / "out"), "text-classification", quantization="qdq").head
    ranges = placement.ranges_of(head)
    for at in ("layer.0.", "layer.1."):
        hidden = [f"{at}attention.self.{part}._input_quantizer" for part in ("query", "key", "value")]
        hidden.append(f"{at}attention.output.add_residual_input_quantizer")
        attended = [
            f"{at}{place}" for place in ("intermediate.dense._input_quantizer", "output.add_residual_input_quantizer")
        ]
        for group in (hidden, attended):
            assert len({float(ranges[name]) for name in group}) == 1, group
        assert float(ranges[hidden[0]]) != float(ranges[attended[0]])
    layers = next(item for item in program.integers(head).modules() if isinstance(item, Encoder)).encoder.layer
    assert all(isinstance(layer.attention.self.joint, program.IntegerLinear) for layer in layers)
    assert all(layer.attention.output.out is not None for layer in layers)
    assert [layer.output.out is not None for layer in layers] == [True, False]


def test_ranges_that_are_tied_to_one_in_float_still_learn(folder, tmp_path):
    kept = ("layer.*.attention.self.query", "layer.0.output.add_residual_input_quantizer")
    done = quantize(str(folder), tmp_path / "out", TEXTS, QuantizationPlan(keep_float=kept, inputs=COARSE))
    assert done.losses[1] < done.losses[0]
    head = modeling.load(Checkpoint.open(tmp_path / "out"), "text-classification", quantization="qdq").head
    ranges = placement.ranges_of(head)
    assert "layer.0.attention.self.query._input_quantizer" not in ranges
    key, value = (float(ranges[f"layer.0.attention.self.{part}._input_quantizer"]) for part in ("key", "value"))
    assert key == value
