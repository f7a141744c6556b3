"""MegatronBERT's nine heads: exported, loaded, padded, sliced, validated, saved; and from Megatron-LM's own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import neuronbert
from neuronbert import ExportSpec, NeuronAutoModel, StaticShape, check, convert_megatron, export, validate
from neuronbert.architectures import ARCHITECTURES
from neuronbert.errors import InvalidOptionError, MissingOptionError, WrongHeadError
from tests.support.megatron import Layout, make_model, write_folder, write_zip

HEADS = ARCHITECTURES["megatron-bert"].heads
EQUAL = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of artifacts of random models, beside their checkpoints."""
    made: dict[str, Path] = {}

    def make(task: str) -> Path:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            make_model(HEADS[task], num_labels=4 if task.endswith("classification") else 2).save_pretrained(
                folder / "checkpoint"
            )
            shape = StaticShape(2, 16, 3 if task == "multiple-choice" else None)
            export(ExportSpec(str(folder / "checkpoint"), (shape,), task, auto_cast="none"), folder / "artifact")
            made[task] = folder / "artifact"
        return made[task]

    return make


def inputs_for(task: str, rows: int, length: int) -> dict[str, torch.Tensor]:
    dims = (rows, 3, length) if task == "multiple-choice" else (rows, length)
    ids = torch.randint(0, 117, dims, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[-1, ..., length // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}


@pytest.mark.parametrize("task", HEADS)
def test_each_head_answers_like_transformers_and_is_saved_and_validated(
    artifact: Callable[..., Path], tmp_path: Path, task: str
) -> None:
    own = getattr(neuronbert, f"Neuron{HEADS[task]}")
    assert (own.task, own.model_type) == (task, "megatron-bert")
    model = NeuronAutoModel.from_pretrained(artifact(task))
    assert type(model) is own
    reference = getattr(transformers, HEADS[task]).from_pretrained(artifact(task).parent / "checkpoint").eval()
    model.save_pretrained(tmp_path / "saved")
    again = own.from_pretrained(tmp_path / "saved")
    for rows, length in ((2, 16), (2, 9), (1, 5)):
        given = inputs_for(task, rows, length)
        with torch.no_grad():
            expected = reference(**given)
        outputs = model(**given)
        assert list(outputs) == [name for name, value in expected.items() if isinstance(value, torch.Tensor)]
        for name, value in outputs.items():
            torch.testing.assert_close(value, expected[name], **EQUAL)
            assert torch.equal(again(**given)[name], value)
    report = validate(artifact(task), record=False)
    assert report.failures == ()


def test_berts_classes_refuse_it(artifact: Callable[..., Path]) -> None:
    with pytest.raises(WrongHeadError, match="bert models"):
        neuronbert.NeuronBertForMaskedLM.from_pretrained(artifact("fill-mask"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    return write_zip(folder / "megatron.zip", write_folder(folder / "in", make_model(), Layout(tensor=2)))


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize("task", ["auto", "fill-mask"])
def test_a_checkpoint_of_megatron_is_converted_on_the_way(
    tmp_path: Path, published: Path, form: str, task: str
) -> None:
    source = published if form == "zip" else published.parent / "in"
    made = export(ExportSpec(str(source), (StaticShape(1, 16),), task, auto_cast="none"), tmp_path / "artifact")
    assert made.manifest.source.path == str(source)
    assert made.manifest.task == ("pre-training" if task == "auto" else task)
    convert_megatron(source, tmp_path / "converted")
    given = inputs_for(task, 1, 9)
    reference = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        expected = reference(**given).prediction_logits
    outputs = NeuronAutoModel.from_pretrained(made.path)(**given)
    torch.testing.assert_close(next(iter(outputs.values())), expected, **EQUAL)
    assert validate(made.path).failures == ()  # which converts it once more


def test_the_classes_take_a_checkpoint_of_megatron(published: Path) -> None:
    options: dict[str, Any] = {"export": True, "batch_size": 1, "sequence_length": 8}
    model = NeuronAutoModel.from_pretrained(published, task="fill-mask", **options)
    assert type(model) is neuronbert.NeuronMegatronBertForMaskedLM
    base = neuronbert.NeuronMegatronBertModel.from_pretrained(published, **options)
    assert base(torch.tensor([[5, 6]])).pooler_output.shape == (1, 32)
    with pytest.raises(WrongHeadError):
        neuronbert.NeuronBertModel.from_pretrained(published, **options)
    with pytest.raises(InvalidOptionError, match="has no revisions"):
        neuronbert.NeuronMegatronBertModel.from_pretrained(published, revision="main", **options)


def test_what_the_conversion_needs_to_know_is_asked_for(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", make_model(), Layout(arguments=None))
    with pytest.raises(MissingOptionError, match=r"neuronbert convert-megatron .* --num-attention-heads 16"):
        export(ExportSpec(str(folder), (StaticShape(1, 16),)), tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_a_pre_flight_converts_on_the_way_too(published: Path) -> None:
    report = check(ExportSpec(str(published), (StaticShape(1, 16),), "fill-mask", target="inf2"))
    assert report.task == "fill-mask"
    assert len(report.programs) == 1
