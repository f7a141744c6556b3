"""Every head: exported, loaded, padded, sliced, saved, loaded again; equal to transformers' eager model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import neuronbert
from neuronbert import NeuronAutoModel, NeuronTracedModel, StaticShape, validate
from neuronbert.architectures import ARCHITECTURES, TASKS

HEADS = ARCHITECTURES["bert"].heads
CLASSES = {
    "feature-extraction": ("NeuronBertModel", "NeuronModelForFeatureExtraction"),
    "fill-mask": ("NeuronBertForMaskedLM", "NeuronModelForMaskedLM"),
    "text-classification": ("NeuronBertForSequenceClassification", "NeuronModelForSequenceClassification"),
    "token-classification": ("NeuronBertForTokenClassification", "NeuronModelForTokenClassification"),
    "question-answering": ("NeuronBertForQuestionAnswering", "NeuronModelForQuestionAnswering"),
    "multiple-choice": ("NeuronBertForMultipleChoice", "NeuronModelForMultipleChoice"),
    "next-sentence-prediction": ("NeuronBertForNextSentencePrediction", "NeuronModelForNextSentencePrediction"),
    "pre-training": ("NeuronBertForPreTraining", "NeuronModelForPreTraining"),
    "text-generation": ("NeuronBertLMHeadModel", "NeuronModelForCausalLM"),
}
# Both sides are fp32; only the order of additions differs, and the values are of the order of one.
EQUAL = {"rtol": 1e-5, "atol": 1e-5}


def inputs_for(task: str, rows: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ids with a ragged mask and two segments."""
    dims = (rows, 3, length) if task == "multiple-choice" else (rows, length)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(dims, dtype=torch.int64)
    mask[-1, ..., length // 2 + 1 :] = 0
    types = (torch.arange(length) > length // 2).long().expand(dims).contiguous()
    return {
        "input_ids": torch.randint(0, 30522, dims, generator=generator),
        "attention_mask": mask,
        "token_type_ids": types,
    }


def eager(checkpoint: Path, task: str) -> transformers.PreTrainedModel:
    model = getattr(transformers, HEADS[task]).from_pretrained(checkpoint, attn_implementation="eager")
    return model.eval()


def assert_equal_outputs(ours: object, theirs: object) -> None:
    names = [name for name, value in theirs.items() if isinstance(value, torch.Tensor)]
    assert list(ours.keys()) == names
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], **EQUAL)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize(("rows", "length"), [(2, 32), (2, 9), (1, 32), (1, 5)])
def test_an_fp32_program_equals_transformers(exported, tiny, task: str, rows: int, length: int) -> None:
    model = NeuronAutoModel.from_pretrained(exported(task, auto_cast="none"))
    given = inputs_for(task, rows, length)
    with torch.no_grad():
        expected = eager(tiny(task), task)(**given)
    outputs = model(**given)
    assert type(outputs).__name__ == TASKS[task].output_class
    assert_equal_outputs(outputs, expected)


@pytest.mark.parametrize("task", HEADS)
def test_each_head_opens_with_its_class_the_neutral_one_and_the_auto_class(exported, task: str) -> None:
    artifact = exported(task)
    own, neutral = (getattr(neuronbert, name) for name in CLASSES[task])
    given = inputs_for(task, 2, 32)
    first = next(iter(own.from_pretrained(artifact)(**given).values()))
    auto = NeuronAutoModel.from_pretrained(artifact)
    assert type(auto) is own
    assert isinstance(auto, NeuronTracedModel)
    for model in (neutral.from_pretrained(artifact), auto):
        assert torch.equal(next(iter(model(**given).values())), first)


@pytest.mark.parametrize("task", HEADS)
def test_each_head_validates(exported, task: str) -> None:
    report = validate(exported(task), record=False)
    assert report.failures == ()
    assert {check.batch for check in report.checks} == {"full", "short", "single-row", "mixed", "text"}
    assert {check.forward for check in report.checks} == {1, 2}
    assert {check.output for check in report.checks} == {output.name for output in TASKS[task].outputs}


@pytest.mark.parametrize("task", HEADS)
def test_a_saved_model_answers_like_the_one_it_was_saved_from(exported, tmp_path: Path, task: str) -> None:
    model = NeuronAutoModel.from_pretrained(exported(task))
    model.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved")  # over itself
    again = NeuronAutoModel.from_pretrained(tmp_path / "saved")
    given = inputs_for(task, 2, 32)
    for name, value in model(**given).items():
        assert torch.equal(again(**given)[name], value)


def test_a_row_does_not_depend_on_its_companions(exported) -> None:
    model = NeuronAutoModel.from_pretrained(exported("feature-extraction", auto_cast="none"))
    given = inputs_for("feature-extraction", 2, 32)
    alone = {name: tensor[:1] for name, tensor in given.items()}
    together = model(**given).last_hidden_state[:1]
    # Another number of rows may take another kernel, with another order of additions.
    torch.testing.assert_close(model(**alone).last_hidden_state, together, **EQUAL)


def test_several_shapes_share_one_set_of_weights(exported, tiny: Callable[..., Path]) -> None:
    shapes = (StaticShape(1, 16), StaticShape(2, 16), StaticShape(2, 64))
    many = exported("fill-mask", *shapes, auto_cast="none")
    one = exported("fill-mask", StaticShape(2, 64), auto_cast="none")
    weights = (tiny("fill-mask") / "model.safetensors").stat().st_size
    extra = (many / "model.neuron").stat().st_size - (one / "model.neuron").stat().st_size
    assert extra < 0.1 * weights
    model = NeuronAutoModel.from_pretrained(many)
    reference = eager(tiny("fill-mask"), "fill-mask")
    for rows, length in [(1, 16), (2, 11), (1, 17), (2, 64)]:
        given = inputs_for("fill-mask", rows, length)
        attended = given["attention_mask"].bool()
        with torch.no_grad():
            torch.testing.assert_close(model(**given).logits[attended], reference(**given).logits[attended], **EQUAL)


def test_every_shape_runs_its_own_program(exported) -> None:
    artifact = exported("fill-mask", StaticShape(1, 16), StaticShape(2, 64))
    session = NeuronAutoModel.from_pretrained(artifact).session
    ran: list[StaticShape] = []
    for shape, program in session._programs.items():
        session._programs[shape] = lambda *tensors, shape=shape, run=program: (ran.append(shape), run(*tensors))[1]
    for rows, length in [(1, 16), (1, 3), (2, 64), (2, 40)]:
        session.run(inputs_for("fill-mask", rows, length))
    assert ran == [StaticShape(1, 16)] * 2 + [StaticShape(2, 64)] * 2
    assert session.served == {StaticShape(1, 16): 2, StaticShape(2, 64): 2}


def test_a_checkpoint_without_a_pooler_gives_hidden_states_only(tmp_path: Path, minilm: Path) -> None:
    from neuronbert import NeuronBertModel

    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=100
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "headless")
    model = NeuronBertModel.from_pretrained(tmp_path / "headless", export=True, batch_size=1, sequence_length=8)
    outputs = model(torch.tensor([[1, 2, 3]]))
    assert list(outputs.keys()) == ["last_hidden_state"]
    assert outputs.last_hidden_state.shape == (1, 3, 32)


def test_a_causal_head_does_not_look_ahead(tiny, tmp_path: Path) -> None:
    from neuronbert import NeuronBertLMHeadModel

    checkpoint = tiny("text-generation", is_decoder=True)
    model = NeuronBertLMHeadModel.from_pretrained(checkpoint, export=True, batch_size=1, sequence_length=16)
    given = torch.arange(100, 110)[None]
    changed = given.clone()
    changed[0, 5:] = 7
    before, after = model(given).logits, model(changed).logits
    assert torch.equal(before[0, :5], after[0, :5])
    assert not torch.equal(before[0, 5:], after[0, 5:])
