"""Rows to calls, with a real tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from neuronbert.answers import READERS, encode
from neuronbert.architectures import TASKS
from neuronbert.errors import (
    EmptyInputError,
    EmptyTextError,
    InvalidTextError,
    MissingTextError,
    NeuronBertError,
    NoMaskError,
    NotATextError,
    QuestionTooLongError,
    TextError,
)
from tests.unit.rows import ROWS, Row, tokens_of


def test_there_is_a_reader_for_every_task() -> None:
    assert set(READERS) == set(TASKS) == set(ROWS)


@pytest.mark.parametrize("task", sorted(READERS))
def test_rows_of_every_task_become_tensors_of_one_shape(tokenizer: Any, task: str) -> None:
    inputs = encode(task, tokenizer, [ROWS[task]] * 2).inputs
    assert sorted(inputs) == ["attention_mask", "input_ids", "token_type_ids"]
    assert len({tuple(tensor.shape) for tensor in inputs.values()}) == 1
    dims = inputs["input_ids"].shape
    assert len(dims) == 2 + (task == "multiple-choice")


@pytest.mark.parametrize("task", sorted(READERS))
@pytest.mark.parametrize(
    ("value", "error"),
    [(None, MissingTextError), (3, NotATextError), (" \n", EmptyTextError), ("a\ud800", InvalidTextError)],
    ids=["none", "number", "blank", "surrogate"],
)
def test_every_text_of_a_row_must_be_one(tokenizer: Any, task: str, value: Any, error: type[NeuronBertError]) -> None:
    for name in READERS[task].fields:
        with pytest.raises(error, match=r"^Row 1: "):
            encode(task, tokenizer, [ROWS[task], {**ROWS[task], name: value}])


@pytest.mark.parametrize("task", sorted(READERS))
def test_no_rows_at_all_are_refused(tokenizer: Any, task: str) -> None:
    with pytest.raises(EmptyInputError):
        encode(task, tokenizer, [])


@pytest.mark.parametrize("choices", [None, "blue", [], ["blue", 1]], ids=str)
def test_choices_are_a_list_of_texts(tokenizer: Any, choices: Any) -> None:
    with pytest.raises(MissingTextError if choices is None else NotATextError, match="choices"):
        encode("multiple-choice", tokenizer, [{"text": "The sky is", "choices": choices}])


def test_texts_and_pairs_go_together(tokenizer: Any) -> None:
    rows = [{"text": "a", "text_pair": "b"}, {"text": "c"}, {"text": "d", "text_pair": "e f"}]
    call = encode("text-classification", tokenizer, rows)
    words = [tokenizer.convert_ids_to_tokens(ids) for ids in call.inputs["input_ids"].tolist()]
    assert [" ".join(row).replace("[PAD]", "").split() for row in words] == [
        ["[CLS]", "a", "[SEP]", "b", "[SEP]"],
        ["[CLS]", "c", "[SEP]"],
        ["[CLS]", "d", "[SEP]", "e", "f", "[SEP]"],
    ]
    assert call.inputs["attention_mask"].sum(dim=1).tolist() == [5, 3, 6]
    assert call.inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0], [0] * 6, [0, 0, 0, 1, 1, 1]]


def test_a_pair_is_two_segments_and_choices_stay_with_their_question(tokenizer: Any) -> None:
    pair = tokens_of(tokenizer, "next-sentence-prediction", ROWS["next-sentence-prediction"])
    assert pair == ["[CLS]", "first", ".", "[SEP]", "second", ".", "[SEP]"]
    choices = tokens_of(tokenizer, "multiple-choice", ROWS["multiple-choice"])
    half = ["[CLS]", "the", "sky", "is", "[SEP]"]
    assert choices == [*half, "blue", "[SEP]", "[PAD]", *half, "a", "fish", "[SEP]"]


def test_truncation_cuts_the_context_and_never_the_question(tokenizer: Any) -> None:
    row = {"question": "who " * 6, "context": "Ada " * 6}
    call = encode("question-answering", tokenizer, [row], max_length=11)
    words = tokenizer.convert_ids_to_tokens(call.inputs["input_ids"][0].tolist())
    assert words == ["[CLS]", *["who"] * 6, "[SEP]", *["ada"] * 2, "[SEP]"]


def test_a_question_longer_than_the_program_is_refused_in_words(tokenizer: Any) -> None:
    question = {"question": "why " * 50, "context": "because"}
    with pytest.raises(QuestionTooLongError, match="takes 53 of the 16 tokens"):
        encode("question-answering", tokenizer, [ROWS["question-answering"], question], max_length=16)


def test_a_question_may_leave_room_for_a_single_token(tokenizer: Any) -> None:
    row = {"question": "why " * 5, "context": "because it does"}
    call = encode("question-answering", tokenizer, [row], max_length=9)
    assert call.inputs["input_ids"].shape == (1, 9)
    with pytest.raises(QuestionTooLongError):
        encode("question-answering", tokenizer, [row], max_length=8)


@pytest.mark.parametrize("task", sorted(READERS))
@pytest.mark.parametrize("options", [{}, {"max_length": 16}], ids=["whole", "truncated"])
def test_a_text_of_nothing_visible_is_empty(tokenizer: Any, task: str, options: Row) -> None:
    texts = {name: value for name, value in ROWS[task].items() if isinstance(value, str)}
    for name in texts:
        with pytest.raises(EmptyTextError, match=r"^Row 1: "):
            encode(task, tokenizer, [ROWS[task], {**ROWS[task], name: "\u200b"}], **options)


def test_a_choice_of_nothing_visible_is_empty(tokenizer: Any) -> None:
    rows = [ROWS["multiple-choice"], {"text": "The sky is", "choices": ["blue", "\u200b"]}]
    with pytest.raises(EmptyTextError, match=r"^Row 1: "):  # although the text is the fourth
        encode("multiple-choice", tokenizer, rows)


def test_what_is_no_text_is_shown(tokenizer: Any) -> None:
    with pytest.raises(NotATextError, match=r"^Row 0: 'text' holds int 5; it must hold a text\.$"):
        encode("fill-mask", tokenizer, [{"text": 5}])
    with pytest.raises(MissingTextError, match=r"needs 'text'; this one has id\.$"):
        encode("fill-mask", tokenizer, [{"id": 1, "text": None}])


def test_a_row_that_an_error_is_about_is_named_once(tokenizer: Any) -> None:
    with pytest.raises(NoMaskError, match=r"^Row 1: There is nothing") as caught:
        encode("fill-mask", tokenizer, [ROWS["fill-mask"], {"text": "No mask."}])
    error: TextError = caught.value.of_row(7)
    assert (error.row, str(error)) == (7, f"Row 7: {error.problem}")


def test_a_question_is_as_long_as_its_tokenizer_makes_it(tokenizer: Any) -> None:
    """With RoBERTa's two separators, the question takes a token more, and leaves none for the context."""
    twice = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    ends = [("[CLS]", twice.cls_token_id), ("[SEP]", twice.sep_token_id)]
    form = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B:1 [SEP]:1", special_tokens=ends)
    twice.backend_tokenizer.post_processor = form
    rows = [{"question": "why " * 5, "context": "because it does"}] * 2
    rows[1] = {**rows[1], "question": "why " * 6}
    assert encode("question-answering", twice, rows, max_length=11).inputs["input_ids"].shape == (2, 11)
    with pytest.raises(QuestionTooLongError, match=r"^Row 1: The question takes 10 of the 10"):
        encode("question-answering", twice, rows, max_length=10)
