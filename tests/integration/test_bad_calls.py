"""Calls that can't be run: one clear error each, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuronbert import NeuronAutoModel, NeuronBertForMaskedLM, NeuronBertModel, Predictor, errors

IDS = torch.ones(1, 4, dtype=torch.int64)


@pytest.fixture(scope="module")
def model(exported: Callable[..., Path]) -> Any:
    return NeuronAutoModel.from_pretrained(exported("fill-mask"))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({}, errors.MissingInputError, "input_ids is missing"),
        ({"input_ids": [[1, 2]]}, errors.InputTypeError, 'return_tensors="pt"'),
        ({"input_ids": torch.ones(1, 8, dtype=torch.int64).to_sparse()}, errors.InputTypeError, "sparse_coo tensor"),
        (
            {"input_ids": IDS, "attention_mask": torch.ones(1, 8).to_sparse()},
            errors.InputTypeError,
            "sparse_coo tensor",
        ),
        ({"input_ids": IDS.float()}, errors.InputDtypeError, "torch.float32"),
        ({"input_ids": IDS, "attention_mask": IDS.double()}, errors.InputDtypeError, "attention_mask"),
        ({"input_ids": IDS[0]}, errors.InputRankError, "[4]; it must be [batch, sequence]"),
        ({"input_ids": IDS[None]}, errors.InputRankError, "[1, 1, 4]"),
        ({"input_ids": IDS, "attention_mask": IDS[:, :3]}, errors.InputShapeError, "[1, 3]"),
        ({"input_ids": IDS[:0]}, errors.EmptyInputError, "input_ids is empty"),
        ({"input_ids": IDS[:, :0]}, errors.EmptyInputError, "input_ids is empty"),
        ({"input_ids": IDS * 30522}, errors.InputRangeError, "30522; its values must be from 0 to 30521"),
        ({"input_ids": -IDS}, errors.InputRangeError, "-1"),
        ({"input_ids": IDS, "token_type_ids": IDS * 2}, errors.InputRangeError, "token_type_ids holds 2"),
        ({"input_ids": IDS, "attention_mask": IDS * 7}, errors.InputRangeError, "attention_mask holds 7"),
        ({"input_ids": IDS.repeat(1, 9)}, errors.SequenceTooLongError, "truncation=True, max_length=32"),
        ({"input_ids": IDS, "attention_mask": IDS.to("meta")}, errors.InputDeviceError, "attention_mask is on meta"),
        ({"input_ids": IDS.to("meta")}, errors.InputDeviceError, "input_ids is on meta, but programs take"),
        ({"input_ids": IDS, "attention_mask": IDS * 0}, errors.MaskedRowError, "the whole of row 0"),
        ({"input_ids": IDS.numpy() * 0.5}, errors.InputDtypeError, "float64"),
        ({"input_ids": np.array([[1], [1, 2]], dtype=object)}, errors.InputDtypeError, "object"),
        ({"input_ids": IDS.numpy().astype(np.uint64) - 2}, errors.InputRangeError, "-1"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_bad_call_says_what_is_wrong(model: Any, given: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error) as caught:
        model(**given)
    assert said in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_too_many_choices_are_refused(exported: Callable[..., Path]) -> None:
    model = NeuronAutoModel.from_pretrained(exported("multiple-choice"))
    with pytest.raises(errors.BatchTooLargeError, match=r"4 choices, but .* up to 3"):
        model(torch.ones(1, 4, 5, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_any_integer_type_is_taken(model: Any, dtype: torch.dtype) -> None:
    assert torch.equal(model(IDS.to(dtype)).logits, model(IDS).logits)


def test_a_boolean_mask_is_taken(model: Any) -> None:
    mask = torch.tensor([[True, True, False, False]])
    assert torch.equal(model(IDS, mask).logits, model(IDS, mask.long()).logits)


def test_missing_inputs_are_filled_as_transformers_fills_them(model: Any) -> None:
    full = model(IDS, torch.ones_like(IDS), torch.zeros_like(IDS)).logits
    assert torch.equal(model(input_ids=IDS).logits, full)
    assert torch.equal(model(IDS, torch.ones_like(IDS)).logits, full)
    assert torch.equal(model(IDS, token_type_ids=torch.zeros_like(IDS)).logits, full)


def test_inputs_that_were_not_compiled_are_ignored(model: Any) -> None:
    outputs = model(IDS, position_ids=IDS, labels=IDS, output_hidden_states=True)
    assert list(outputs.keys()) == ["logits"]


def test_the_callers_tensors_are_left_alone(model: Any) -> None:
    given = torch.randint(0, 100, (1, 4)), torch.tensor([[1, 1, 1, 0]])
    before = [tensor.clone() for tensor in given]
    model(*given)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


def test_an_artifact_of_another_head_is_refused(exported: Callable[..., Path]) -> None:
    with pytest.raises(errors.WrongHeadError, match=r"NeuronBertModel runs feature-extraction, .* is for fill-mask"):
        NeuronBertModel.from_pretrained(exported("fill-mask"))


def test_export_options_without_export_are_refused(exported: Callable[..., Path]) -> None:
    with pytest.raises(errors.InvalidOptionError, match="export=True"):
        NeuronBertForMaskedLM.from_pretrained(exported("fill-mask"), batch_size=4)


def test_an_unknown_export_option_is_refused(tiny: Callable[..., Path]) -> None:
    with pytest.raises(errors.InvalidOptionError, match="disable_validation"):
        NeuronBertForMaskedLM.from_pretrained(tiny("fill-mask"), export=True, disable_validation=True)


@pytest.mark.parametrize(
    ("task", "row", "error"),
    [
        ("fill-mask", {"text": "No mask here."}, errors.NoMaskError),
        ("fill-mask", {"text": "   "}, errors.EmptyTextError),
        ("fill-mask", {"text": "\ud800 [MASK]"}, errors.InvalidTextError),
        ("fill-mask", {"text": "word " * 100 + "[MASK]"}, errors.SequenceTooLongError),
        ("fill-mask", {"words": "?"}, errors.MissingTextError),
        ("fill-mask", {"text": 5}, errors.NotATextError),
        ("fill-mask", ["a list [MASK]"], errors.MissingTextError),
        ("question-answering", "a bare text", errors.MissingTextError),
        ("question-answering", {"question": "Who?"}, errors.MissingTextError),
        ("question-answering", {"question": "Who?", "context": ""}, errors.EmptyTextError),
        ("multiple-choice", {"text": "It", "choices": []}, errors.NotATextError),
        ("multiple-choice", {"text": "It", "choices": ["is", 3]}, errors.NotATextError),
        ("multiple-choice", {"text": "It", "choices": ["a", "b", "c", "d"]}, errors.BatchTooLargeError),
        ("next-sentence-prediction", {"text": "It rains."}, errors.MissingTextError),
    ],
)
def test_a_text_without_an_answer_says_why(exported: Callable[..., Path], task: str, row: dict, error: type) -> None:
    with pytest.raises(error):
        Predictor.from_pretrained(str(exported(task))).predict([row])


def test_no_texts_are_refused(exported: Callable[..., Path]) -> None:
    with pytest.raises(errors.EmptyInputError):
        Predictor.from_pretrained(str(exported("fill-mask"))).predict([])


def test_rows_are_answered_in_order_over_several_calls(exported: Callable[..., Path]) -> None:
    predictor = Predictor.from_pretrained(str(exported("feature-extraction", auto_cast="none")))
    texts = ["One.", "Two words are here.", "Three, and a longer sentence.", "Four.", "Five."]
    together = predictor.predict([{"text": text} for text in texts])
    for text, answer in zip(texts, together, strict=True):
        (alone,) = predictor.predict([{"text": text}])
        assert alone["embedding"] == pytest.approx(answer["embedding"], abs=1e-5)  # fp32, other batch sizes


def test_an_artifact_without_a_tokenizer_takes_tensors_but_no_texts(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny("fill-mask") / name, bare)
    model = NeuronAutoModel.from_pretrained(bare, export=True, sequence_length=8)
    assert model(IDS).logits.shape == (1, 4, 30522)
    with pytest.raises(errors.NoTokenizerError):
        Predictor(model.session)
