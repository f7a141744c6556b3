"""Calls of a real tokenizer to answers, on logits made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuronbert import answers
from neuronbert.answers import encode, settings
from neuronbert.decoding import embed
from neuronbert.errors import NoMaskError
from neuronbert.spans import MAX_ANSWER_TOKENS
from tests.unit.rows import ROWS, Row, tokens_of

VOCABULARY = 30522
NER = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}


def decode(tokenizer: Any, task: str, rows: list[Row], outputs: dict[str, Tensor], **options: Any) -> list[Row]:
    return answers.decode(task, encode(task, tokenizer, rows, **options), outputs)


def peaks(places: dict[tuple[int, ...], float], *dims: int) -> Tensor:
    """Zeros but for some values."""
    values = torch.zeros(dims)
    for place, value in places.items():
        values[place] = value
    return values


def test_an_embedding_is_the_mean_over_real_tokens(tokenizer: Any) -> None:
    call = encode("feature-extraction", tokenizer, [{"text": "Short."}, {"text": "A longer sentence, and so on."}])
    mask = call.inputs["attention_mask"].bool()
    hidden = torch.randn(*mask.shape, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([hidden[row][mask[row]].mean(dim=0) for row in range(2)])
    hidden[~mask] = 1e9
    assert torch.allclose(embed(call, {"last_hidden_state": hidden}), expected)
    [first, _] = answers.decode("feature-extraction", call, {"last_hidden_state": hidden})
    assert first["embedding"] == pytest.approx(expected[0].tolist())


def test_every_mask_is_filled_in_with_the_best_tokens_first(tokenizer: Any) -> None:
    row = {"text": "[MASK] is the [MASK] of France."}
    places = [place for place, token in enumerate(tokens_of(tokenizer, "fill-mask", row)) if token == "[MASK]"]
    paris, capital, city = tokenizer.convert_tokens_to_ids(["paris", "capital", "city"])
    values = {(0, places[0], paris): 30.0, (0, places[1], capital): 30.0, (0, places[1], city): 29.0}
    [answer] = decode(tokenizer, "fill-mask", [row], {"logits": peaks(values, 1, 9, VOCABULARY)}, top_k=2)
    assert [[found["token"] for found in mask] for mask in answer["masks"]][1] == ["capital", "city"]
    assert [mask[0]["token"] for mask in answer["masks"]] == ["paris", "capital"]
    assert answer["masks"][1][0]["score"] == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-5)


def test_a_text_without_a_mask_is_refused_with_the_spelling_of_one(tokenizer: Any) -> None:
    rows = [ROWS["fill-mask"], {"text": "Nothing is missing."}]
    with pytest.raises(NoMaskError, match=r"\[MASK\]"):
        decode(tokenizer, "fill-mask", rows, {"logits": torch.zeros(2, 9, VOCABULARY)})


def test_a_label_is_the_best_one_with_the_scores_of_all(tokenizer: Any) -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 0.0]])
    rows = [{"text": "a"}, {"text": "b"}]
    first, second = decode(tokenizer, "text-classification", rows, {"logits": logits}, labels={1: "good"})
    assert (first["label"], second["label"]) == ("good", "LABEL_0")
    assert first["score"] == pytest.approx(0.75)
    assert first["scores"] == pytest.approx({"LABEL_0": 0.25, "good": 0.75})


def test_labels_that_do_not_exclude_each_other_are_scored_one_by_one(tokenizer: Any) -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    [answer] = decode(tokenizer, "text-classification", [{"text": "a"}], {"logits": logits}, independent=True)
    assert answer["scores"] == pytest.approx({"LABEL_0": 0.5, "LABEL_1": 0.75})


def test_a_head_of_one_value_gives_that_value(tokenizer: Any) -> None:
    logits = {"logits": torch.tensor([[-2.5]])}
    assert decode(tokenizer, "text-classification", [{"text": "a"}], logits) == [{"score": -2.5}]


def entities(tokenizer: Any, text: str, *labels: int) -> list[tuple[str, str]]:
    """The entities of a text whose pieces have these labels, by index."""
    logits = peaks({(0, place, label): 9.0 for place, label in enumerate(labels, 1)}, 1, len(labels) + 2, 4)
    [answer] = decode(tokenizer, "token-classification", [{"text": text}], {"logits": logits}, labels=NER)
    for found in answer["entities"]:
        assert text[found["start"] : found["end"]] == found["text"]
        assert 0.99 < found["score"] <= 1
    return [(found["label"], found["text"]) for found in answer["entities"]]


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("Ada Lovelace lives", (1, 2, 2, 0), [("PER", "Ada Lovelace")]),
        ("Ada Bob", (1, 1), [("PER", "Ada"), ("PER", "Bob")]),
        ("Ada Lisbon", (1, 3), [("PER", "Ada"), ("LOC", "Lisbon")]),
        ("Ada met Bob", (1, 0, 2), [("PER", "Ada"), ("PER", "Bob")]),
        ("a/b", (1, 0, 1), [("PER", "a"), ("PER", "b")]),
        ("Ada, Bob", (1, 0, 2), [("PER", "Ada"), ("PER", "Bob")]),
        ("Lovelace", (1, 1), [("PER", "Lovelace")]),
        ("Lovelace", (0, 2), [("PER", "lace")]),
        ("Ada lives", (0, 0), []),
    ],
    ids=["inside", "two", "kinds", "between", "slash", "comma", "one word", "half a word", "none"],
)
def test_pieces_become_entities(tokenizer: Any, text: str, labels: tuple[int, ...], expected: list[Row]) -> None:
    assert len(tokens_of(tokenizer, "token-classification", {"text": text})) == len(labels) + 2
    assert entities(tokenizer, text, *labels) == expected


@pytest.mark.parametrize(("text", "labels"), [("李四", (1, 1)), ("$5", (1, 1))])
def test_a_new_entity_begins_where_two_words_touch(tokenizer: Any, text: str, labels: tuple[int, ...]) -> None:
    assert entities(tokenizer, text, *labels) == [("PER", text[0]), ("PER", text[-1])]


CONTEXT = "Ada lives in Lisbon."
QUESTION: Row = {"question": "Who lives there?", "context": CONTEXT}  # 6 tokens, then 5 of the context


def span(tokenizer: Any, starts: dict[int, float], ends: dict[int, float], row: Row = QUESTION) -> Row:
    size = len(tokens_of(tokenizer, "question-answering", row))
    outputs = {
        "start_logits": peaks({(0, place): value for place, value in starts.items()}, 1, size),
        "end_logits": peaks({(0, place): value for place, value in ends.items()}, 1, size),
    }
    [answer] = decode(tokenizer, "question-answering", [row], outputs)
    assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
    return answer


def test_a_span_is_cut_from_the_context_as_it_is_written(tokenizer: Any) -> None:
    answer = span(tokenizer, {9: 20.0}, {9: 20.0})
    assert (answer["answer"], answer["start"], answer["end"]) == ("Lisbon", 13, 19)
    assert answer["score"] == pytest.approx(1.0, abs=1e-4)
    assert span(tokenizer, {8: 20.0}, {9: 20.0})["answer"] == "in Lisbon"


def test_an_answer_is_never_found_in_the_question_or_the_special_tokens(tokenizer: Any) -> None:
    assert span(tokenizer, {0: 50.0, 1: 50.0, 6: 5.0}, {0: 50.0, 11: 50.0, 6: 5.0})["answer"] == "Ada"


def test_an_answer_never_ends_before_it_begins(tokenizer: Any) -> None:
    assert span(tokenizer, {9: 20.0, 6: 10.0}, {6: 20.0, 9: 5.0})["answer"] == "Ada"


def test_an_answer_is_at_most_so_long(tokenizer: Any) -> None:
    row = {"question": "Who lives there?", "context": "word " * 60}
    for tokens, found in ((MAX_ANSWER_TOKENS, True), (MAX_ANSWER_TOKENS + 1, False)):
        answer = span(tokenizer, {10: 20.0}, {10 + tokens - 1: 20.0}, row)
        assert (len(answer["answer"].split()) == tokens) is found


@given(st.integers(6, 10), st.integers(6, 10))
def test_the_score_of_a_span_is_the_product_of_both_chances(tokenizer: Any, start: int, end: int) -> None:
    start, end = sorted((start, end))
    assert span(tokenizer, {start: 3.0}, {end: 3.0})["score"] == pytest.approx(
        (math.exp(3) / (math.exp(3) + 4)) ** 2, rel=1e-4
    )


def test_a_choice_is_named_by_place_and_text(tokenizer: Any) -> None:
    logits = {"logits": torch.tensor([[0.0, math.log(3.0)]])}
    [answer] = decode(tokenizer, "multiple-choice", [ROWS["multiple-choice"]], logits)
    assert (answer["choice"], answer["text"]) == (1, "a fish")
    assert answer["scores"] == pytest.approx([0.25, 0.75])


def test_the_first_label_means_that_the_second_text_follows(tokenizer: Any) -> None:
    task, logits = "next-sentence-prediction", torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    first, second = decode(tokenizer, task, [ROWS[task]] * 2, {"logits": logits})
    assert (first["is_next"], second["is_next"]) == (True, False)
    assert first["score"] == pytest.approx(1 - second["score"])


def test_pre_training_answers_both_questions_and_needs_no_mask(tokenizer: Any) -> None:
    rows = [ROWS["pre-training"], {"text": "No mask.", "text_pair": "Second."}]
    word = tokenizer.convert_tokens_to_ids("sentence")
    outputs = {"prediction_logits": peaks({(0, 2, word): 30.0}, 2, 8, VOCABULARY)}
    outputs["seq_relationship_logits"] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    first, second = decode(tokenizer, "pre-training", rows, outputs)
    assert (first["is_next"], first["masks"][0][0]["token"]) == (True, "sentence")
    assert (second["is_next"], second["masks"]) == (False, [])


def test_generation_goes_on_after_the_last_word_of_each_row(tokenizer: Any) -> None:
    rows = [{"text": "Once upon"}, {"text": "Once upon a time"}]
    a, there = tokenizer.convert_tokens_to_ids(["a", "there"])
    logits = peaks({(0, 2, a): 30.0, (1, 4, there): 30.0}, 2, 6, VOCABULARY)
    found = decode(tokenizer, "text-generation", rows, {"logits": logits}, top_k=1)
    assert [answer["next"][0]["token"] for answer in found] == ["a", "there"]


def test_settings_are_read_off_a_config() -> None:
    config = {"id2label": {"0": "bad", "1": "good"}, "problem_type": "multi_label_classification"}
    assert settings(config) == {"labels": {0: "bad", 1: "good"}, "independent": True}
    assert settings({"id2label": {"x": "bad", 2: "y"}}) == {"labels": {2: "y"}, "independent": False}
    assert settings({"id2label": ["bad"]}) == settings({}) == {"labels": {}, "independent": False}


def test_a_label_index_that_only_looks_like_a_number_is_left_out() -> None:
    assert settings({"id2label": {"²": "x"}})["labels"] == {}
