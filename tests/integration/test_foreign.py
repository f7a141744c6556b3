"""Artifacts of optimum-neuron in this loader: programs traced here as its exporter traces them, in every form.

`make interop` does the same with what its own exporter writes.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from neuronbert import Artifact, NeuronAutoModel, NeuronModelForMaskedLM, Predictor, publish, validate
from neuronbert.architectures import ARCHITECTURES
from neuronbert.errors import (
    ArtifactCorruptError,
    BackendUnavailableError,
    OutputExistsError,
    ReferenceNotFoundError,
    UnrecordedArtifactError,
    WrongHeadError,
)
from neuronbert.inputs import validation_batches
from neuronbert.manifest import Manifest
from neuronbert.shapes import StaticShape
from tests.conftest import TOKENIZER_FILES
from tests.integration.test_hostile_artifacts import ActsWhenLoaded, Prints, Writes
from tests.support.optimum_neuron import DEVICE_CODE, FORMS, archive, config, write

HEADS = (
    "feature-extraction",
    "fill-mask",
    "question-answering",
    "text-classification",
    "token-classification",
    "multiple-choice",
)


def shape_of(task: str) -> StaticShape:
    return StaticShape(2, 16, 3 if task == "multiple-choice" else None)


def eager(checkpoint: Path, task: str, **options: Any) -> nn.Module:
    return getattr(transformers, ARCHITECTURES["bert"].heads[task]).from_pretrained(checkpoint, **options).eval()


class Wrapped(nn.Module):
    """A model as a function of positional tensors; its outputs by name, in order, or alone."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Any:
        given = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types, return_dict=True)
        outputs = dict(given.items())
        if self.kind == "mapping":
            return outputs
        return tuple(outputs.values()) if self.kind == "tuple" else outputs["logits"]


@cache
def program(checkpoint: Path, task: str, kind: str, dtype: torch.dtype) -> bytes:
    module = Wrapped(eager(checkpoint, task, dtype=dtype), kind)
    examples = [torch.ones(shape_of(task).dims, dtype=torch.int64)] * 3
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each Python branch on a shape warns
        traced = torch.jit.trace(module.eval(), tuple(examples), check_trace=False, strict=False)
    saved = io.BytesIO()
    torch.jit.save(traced, saved)
    return saved.getvalue()


@pytest.fixture
def theirs(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes an artifact as optimum-neuron does, of a small checkpoint."""

    def make(task: str, form: str = "0.4.5", kind: str = "tuple", dtype: Any = torch.float32, **changes: Any) -> Path:
        checkpoint = tiny(task)
        model = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        # What was traced is in fp32: a looser tolerance would let a wrong program pass.
        cast = {} if form.startswith("the least") else {"auto_cast": None, "auto_cast_type": None}
        said = config(form, task, model, **{**cast, **changes})
        folder = write(tmp_path / "theirs", said, program(checkpoint, task, kind, dtype))
        for name in TOKENIZER_FILES:
            (folder / name).write_bytes((checkpoint / name).read_bytes())
        return folder

    return make


def assert_answers_like(folder: Path, checkpoint: Path, task: str, limit: float = 1e-5) -> None:
    model, reference = NeuronAutoModel.from_pretrained(folder), eager(checkpoint, task)
    for batch in validation_batches(model.session.manifest.inputs, shape_of(task), None):
        outputs = model(**batch.inputs)
        with torch.no_grad():
            expected = reference(**batch.inputs)
        assert list(outputs) == [spec.name for spec in model.session.manifest.outputs]
        for name, value in outputs.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected[name], rtol=0, atol=limit)


@pytest.mark.parametrize("kind", ["tuple", "mapping"])
@pytest.mark.parametrize("task", HEADS)
def test_a_program_answers_like_the_model_it_was_traced_from(theirs, tiny, task: str, kind: str) -> None:
    assert_answers_like(theirs(task, kind=kind), tiny(task), task)


@pytest.mark.parametrize("form", FORMS)
def test_every_historic_form_runs(theirs, tiny, form: str) -> None:
    assert_answers_like(theirs("token-classification", form), tiny("token-classification"), "token-classification")


def test_a_lone_tensor_is_the_only_output(theirs, tiny) -> None:
    assert_answers_like(theirs("fill-mask", kind="alone"), tiny("fill-mask"), "fill-mask")


def test_a_model_in_bf16_gives_fp32_as_ours_do(theirs, tiny) -> None:
    # optimum-neuron records fp32 for these too.
    folder = theirs("text-classification", dtype=torch.bfloat16)
    assert_answers_like(folder, tiny("text-classification"), "text-classification", limit=0.1)


def test_a_dynamic_batch_takes_any_number_of_rows(theirs, tiny) -> None:
    ids = torch.randint(1, 1000, (5, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = eager(tiny("text-classification"), "text-classification")(input_ids=ids).logits
    for dynamic in (True, False):  # split by the program, or here
        model = NeuronAutoModel.from_pretrained(theirs("text-classification", dynamic_batch_size=dynamic))
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=1e-5)


def test_the_class_goes_by_the_task(theirs) -> None:
    folder = theirs("fill-mask")
    assert type(NeuronAutoModel.from_pretrained(folder)).__name__ == "NeuronBertForMaskedLM"
    folder = theirs("text-classification")
    with pytest.raises(WrongHeadError):
        NeuronModelForMaskedLM.from_pretrained(folder)


def test_texts_are_answered(theirs) -> None:
    (reply,) = Predictor.from_pretrained(str(theirs("token-classification"))).predict([{"text": "Ada is in London."}])
    assert reply


# -- validate, save, push, inspect


def test_validation_needs_the_checkpoint_and_writes_nothing(theirs, tiny, caplog: pytest.LogCaptureFixture) -> None:
    folder = theirs("question-answering")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ReferenceNotFoundError, match="--model"):
        validate(folder)
    report = validate(folder, model=str(tiny("question-answering")))
    assert report.passed
    assert report.reference == f"BertForQuestionAnswering of {tiny('question-answering')} in fp32"
    assert "not recorded" in caplog.text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_checkpoint_fails_the_validation(theirs, tiny) -> None:
    other = tiny("text-classification", initializer_range=0.3)
    report = validate(theirs("text-classification"), model=str(other), record=False)
    assert not report.passed


def test_fewer_outputs_are_compared_by_their_names(theirs, tiny) -> None:
    checkpoint = tiny("feature-extraction")
    folder = theirs("feature-extraction", output_names=["last_hidden_state"], kind="mapping")
    report = validate(folder, model=str(checkpoint), record=False)
    assert report.passed
    assert {check.output for check in report.checks} == {"last_hidden_state"}


def test_saving_keeps_it_as_it_is(theirs, tiny, tmp_path: Path) -> None:
    folder = theirs("fill-mask")
    NeuronAutoModel.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "neuronbert.json").exists()
    assert_answers_like(tmp_path / "saved", tiny("fill-mask"), "fill-mask")
    with pytest.raises(OutputExistsError):  # it isn't ours to replace
        NeuronAutoModel.from_pretrained(folder).save_pretrained(tmp_path / "saved")


def test_it_is_not_pushed(theirs) -> None:
    with pytest.raises(UnrecordedArtifactError, match="hf upload me/bert"):
        publish(theirs("fill-mask"), "me/bert")


# -- hostile programs


@pytest.mark.parametrize("module", [ActsWhenLoaded, Writes, Prints], ids=lambda kind: kind.__name__)
def test_a_program_that_acts_is_refused(theirs, tmp_path: Path, module: Any) -> None:
    folder, target = theirs("fill-mask"), tmp_path / "written"
    torch.jit.save(torch.jit.script(module(*(() if module is Prints else (str(target),)))), folder / "model.neuron")
    target.unlink(missing_ok=True)  # making the program has written it already
    with pytest.raises(ArtifactCorruptError):
        NeuronAutoModel.from_pretrained(folder)
    assert not target.exists()


class OneInput(nn.Module):
    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (ids.float(),)


class TwoOutputs(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        return ids.float(), mask.float()


class NoTensor(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[int]:
        return (ids.size(0),)


class OtherNames(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> dict[str, Tensor]:
        return {"scores": ids.float()}


class OtherShape(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        return ids.float()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (OneInput, "can't be run"),
        (TwoOutputs, "doesn't give the outputs logits"),
        (NoTensor, "doesn't give the outputs logits"),
        (OtherNames, "doesn't give the outputs logits"),
        (OtherShape, "gives outputs of shape"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_program_of_another_form_is_one_error(theirs, module: Any, said: str) -> None:
    folder = theirs("fill-mask")
    torch.jit.save(torch.jit.script(module()), folder / "model.neuron")
    model = NeuronAutoModel.from_pretrained(folder)
    with pytest.raises(ArtifactCorruptError, match=said):
        model(input_ids=torch.ones(2, 16, dtype=torch.int64))


def test_a_program_for_a_device_needs_one(theirs) -> None:
    folder = theirs("fill-mask")
    (folder / "model.neuron").write_bytes(archive(DEVICE_CODE))
    manifest: Manifest = Artifact.open(folder).manifest
    assert manifest.backend == "neuronx"
    with pytest.raises(BackendUnavailableError, match="Target inf2"):
        NeuronAutoModel.from_pretrained(folder)
