"""Quantized models learn: by distillation, in an ordinary loop, and with transformers' Trainer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from neuronbert import QuantizationPlan, modeling, quantize, save_quantized, trainable
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import CheckpointCorruptError, InvalidOptionError, NotQuantizedError
from neuronbert.quantization import placement
from neuronbert.schemes import Descriptor

TEXTS = [
    "The harbour was quiet.",
    "A committee of nine met on Tuesday.",
    "Is there a train to Lisbon tonight?",
    "Bread.",
]
BATCH = {
    "input_ids": torch.tensor([[101, 2023, 2003, 102], [101, 1037, 3231, 102]]),
    "attention_mask": torch.ones(2, 4, dtype=torch.int64),
    "labels": torch.tensor([0, 1]),
}
COARSE = Descriptor(num_bits=4, axis=0)


@pytest.fixture(scope="module")
def quantized(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qat") / "checkpoint"
    quantize(str(tiny("text-classification")), folder, TEXTS)
    return folder


def distance(folder, original):
    def hidden(path, quantization):
        head = modeling.load(Checkpoint.open(path), "text-classification", quantization=quantization).head
        with torch.no_grad():
            return head.model.bert(BATCH["input_ids"], BATCH["attention_mask"]).last_hidden_state

    return float((hidden(folder, "qdq") - hidden(original, "none")).square().mean())


@pytest.mark.parametrize("learn", [False, True])
def test_steps_bring_the_quantized_model_nearer_to_the_one_in_float(tiny, tmp_path, learn):
    original = tiny("text-classification")
    for name, steps in (("before", 0), ("after", 60)):
        plan = QuantizationPlan("max", weights=COARSE, qat_steps=steps, learn_ranges=learn and steps > 0)
        quantize(str(original), tmp_path / name, ["this is", "a test", "is this a test", "test a"], plan)
    assert distance(tmp_path / "after", original) < 0.97 * distance(tmp_path / "before", original)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    ranges = [name for name in before if placement.is_range(name)]
    assert all(torch.equal(before[name], after[name]) for name in ranges) != learn
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_an_ordinary_loop_trains_it_and_what_is_saved_answers_the_same(quantized, tmp_path):
    torch.manual_seed(0)
    model = trainable(quantized, learn_ranges=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = model(**BATCH).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    save_quantized(model, quantized, tmp_path / "trained")
    head = modeling.load(Checkpoint.open(tmp_path / "trained"), "text-classification", quantization="qdq").head
    ids, mask = BATCH["input_ids"], BATCH["attention_mask"]
    with torch.no_grad():
        expected = model.eval()(ids, mask).logits
        assert torch.equal(head(ids, mask, torch.zeros_like(ids))[0], expected)


def test_the_trainer_of_transformers_trains_it(quantized, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    rows = [{name: value[index] for name, value in BATCH.items()} for index in range(2)]
    options = TrainingArguments(str(tmp_path / "run"), max_steps=2, report_to=[], save_strategy="no", use_cpu=True)
    done = Trainer(trainable(quantized), options, train_dataset=rows).train()
    assert done.global_step == 2


def test_a_tied_head_is_saved_once(tiny, tmp_path):
    quantize(str(tiny("fill-mask")), tmp_path / "int8", TEXTS)
    save_quantized(trainable(tmp_path / "int8"), tmp_path / "int8", tmp_path / "again")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("int8", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("value", [-1.0, float("nan"), 0.0])
def test_a_range_that_training_broke_is_not_written(quantized, tmp_path, value):
    model = trainable(quantized, learn_ranges=True)
    with torch.no_grad():
        placement.of(model)["layer.1.output.dense._input_quantizer"].amax().fill_(value)
    with pytest.raises(CheckpointCorruptError, match=r"the range of layer\.1\.output\.dense\._input_quantizer"):
        save_quantized(model, quantized, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_from_trainable_is_not_written(quantized, tiny, tmp_path):
    import transformers

    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tiny("text-classification"))
    for model in (plain, torch.nn.Linear(2, 2)):
        with pytest.raises(InvalidOptionError, match="trainable"):
            save_quantized(model, quantized, tmp_path / "out")
    with pytest.raises(NotQuantizedError):
        save_quantized(plain, tiny("text-classification"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_quantized_and_steps_below_zero_are_refused(tiny):
    with pytest.raises(NotQuantizedError):
        trainable(tiny("text-classification"))
    with pytest.raises(InvalidOptionError, match="qat_steps"):
        QuantizationPlan(qat_steps=-1)
