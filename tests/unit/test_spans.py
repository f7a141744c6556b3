"""Answers over several windows, on logits made by hand: those of the whole text, or such as windows get wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuronbert import answers
from neuronbert.answers import READERS, assemble
from neuronbert.windows import Window, cut
from tests.unit.rows import Row

NER = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
TEXT = "Ada and Bob went from Lisbon to unbelievably remote Reykjavik, and then Eve followed them there by train."
QUESTION: Row = {"question": "Who left?", "context": TEXT}


def answer(tokenizer: Any, task: str, row: Row, windows: list[Window], logits: list[dict[str, Tensor]]) -> Row:
    """What windows are merged to, each with its own outputs; windows shorter than the longest are padded."""
    items = [(window,) for window in windows]
    call = assemble(task, tokenizer, [row] * len(items), items, labels=NER)
    width = call.inputs["input_ids"].shape[1]
    outputs = {}
    for name in logits[0]:
        values = [own[name] for own in logits]
        outputs[name] = torch.full((len(items), width, *values[0].shape[1:]), 99.0)  # padding must not be read
        for index, value in enumerate(values):
            outputs[name][index, : len(value)] = value
    reader = READERS[task]
    assert reader.merge is not None
    return reader.merge(row, reader.decode(call, outputs))


def whole_and_cut(
    tokenizer: Any, task: str, row: Row, outputs: dict[str, Tensor], length: int, stride: int
) -> tuple[Row, Row]:
    """The answer to logits of a whole text, and to the same logits in windows."""
    encoding = tokenizer(*(row[name] for name in READERS[task].fields)).encodings[0]
    windows = cut(encoding, READERS[task].cut, length, stride)
    assert len(windows) > 1
    parts = [{name: value[list(window.places)] for name, value in outputs.items()} for window in windows]
    full = answer(tokenizer, task, row, [Window.whole(encoding)], [outputs])
    return full, answer(tokenizer, task, row, windows, parts)


@given(st.integers(0, 10**6), st.integers(8, 20), st.integers(0, 5))
def test_entities_of_windows_that_agree_are_those_of_the_whole(
    tokenizer: Any, seed: int, length: int, stride: int
) -> None:
    size = len(tokenizer(TEXT)["input_ids"])
    logits = 3 * torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    full, merged = whole_and_cut(tokenizer, "token-classification", {"text": TEXT}, {"logits": logits}, length, stride)
    assert merged == full


@given(st.integers(0, 10**6), st.integers(12, 20), st.integers(3, 5), st.data())
def test_an_answer_in_windows_that_agree_is_that_of_the_whole(
    tokenizer: Any, seed: int, length: int, stride: int, data: st.DataObject
) -> None:
    size = len(tokenizer(QUESTION["question"], TEXT)["input_ids"])
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, size, generator=generator)
    first = data.draw(st.integers(5, size - 2))
    last = data.draw(st.integers(first, min(first + stride - 1, size - 2)))  # short enough to be whole in a window
    start[first] += 30
    end[last] += 30
    outputs = {"start_logits": start, "end_logits": end}
    full, merged = whole_and_cut(tokenizer, "question-answering", QUESTION, outputs, length, stride)
    score = merged.pop("score")
    assert score == pytest.approx(full.pop("score"), rel=1e-5)
    assert merged == full
    assert merged["answer"] == TEXT[merged["start"] : merged["end"]]


def test_each_piece_is_labelled_by_the_window_that_shows_most_around_it(tokenizer: Any) -> None:
    text = " ".join(["word"] * 20)
    encoding = tokenizer(text).encodings[0]
    windows = cut(encoding, 0, 12, 6)  # ten words each: 0 to 9, 4 to 13, 8 to 17, 12 to 19
    stretches = [window.stretch(0) for window in windows]
    assert [(stretch.start - 1, stretch.stop - 1) for stretch in stretches] == [(0, 10), (4, 14), (8, 18), (12, 20)]
    logits = [torch.zeros(len(window), 4) for window in windows]
    for index, label in enumerate((1, 3, 1, 3)):  # each window has a label of its own
        logits[index][:, label] = 20.0
    reply = answer(tokenizer, "token-classification", {"text": text}, windows, [{"logits": own} for own in logits])
    labels = ["PER" if entity["label"] == "PER" else "LOC" for entity in reply["entities"]]
    # Of words 4 to 9, which two windows hold, the first sees as far around 4 to 6 as the second around 7 to 9.
    assert labels == ["PER"] * 7 + ["LOC"] * 4 + ["PER"] * 4 + ["LOC"] * 5


def test_spans_of_all_windows_are_ranked_by_what_the_model_says_of_each(tokenizer: Any) -> None:
    encoding = tokenizer(QUESTION["question"], TEXT).encodings[0]
    windows = cut(encoding, 1, 20, 0)
    size = [len(window) for window in windows]
    sure = torch.full((size[0],), -20.0)  # alone in its window, but unlikely
    sure[5] = -9.0
    likely = torch.zeros(size[1])
    likely[6:9] = torch.tensor([2.0, 2.5, 2.0])
    logits = [{"start_logits": own, "end_logits": own} for own in (sure, likely)]
    logits += [{"start_logits": torch.full((n,), -20.0), "end_logits": torch.full((n,), -20.0)} for n in size[2:]]
    reply = answer(tokenizer, "question-answering", QUESTION, windows, logits)
    start, end = windows[1].take("offsets")[7]
    assert (reply["start"], reply["end"]) == (start, end)
    assert 0 < reply["score"] < 0.5


def test_a_call_of_whole_rows_is_decoded_row_by_row(tokenizer: Any) -> None:
    rows = [QUESTION, {**QUESTION, "context": "Ada."}]
    call = answers.encode("question-answering", tokenizer, rows)
    logits = torch.zeros(call.inputs["input_ids"].shape)
    logits[0, 5], logits[1, 5] = 30.0, 30.0
    first, second = answers.decode("question-answering", call, {"start_logits": logits, "end_logits": logits})
    assert (first["answer"], second["answer"]) == ("Ada", "Ada")
