"""Training to do with fewer tokens (scripts/topics_lengths.py): texts, steps, and that any pieces are the same."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import topics_lengths
import topics_text
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from topics_unlabelled import Passages, docstrings

from neuronbert import adapt_lengths
from tests.conftest import save_tiny

PAGES = ["the quick brown fox " * 40, "many words of a second page " * 40]


@pytest.fixture(scope="module")
def passages(tokenizer: Any) -> Passages:
    return Passages(tokenizer, PAGES, docstrings(()), 32 + 120)


def test_docstrings_are_those_of_modules_that_have_enough() -> None:
    texts = docstrings(())
    assert len(texts) > 50
    assert min(map(len, texts)) >= 2000
    assert any("JSON" in text for text in texts)
    assert all(text == " ".join(text.split()) for text in texts)


def test_no_docstrings_are_learned_from_that_repeat_a_page(tokenizer: Any) -> None:
    """pdb's own docstrings are a chapter of the documentation."""
    _, apart, held_out = topics_lengths.split(tokenizer)
    every = docstrings(())
    left_out = [text for text in every if text not in docstrings((*apart, *held_out))]
    assert 0 < len(left_out) < 5
    (debugger,) = (text for text in left_out if text.startswith("The Python Debugger Pdb"))
    words = debugger.upper().split()
    assert docstrings([" ".join(words[100:140])]) == [text for text in every if text != debugger]
    assert docstrings([" ".join(words[100:106])]) == every  # too few words to say where they are from


def test_passages_are_stretches_of_their_sources(tokenizer: Any, passages: Passages) -> None:
    drawn = passages.draw(40, Random(0))
    assert drawn.shape == (40, 152)
    assert {*drawn[:, 0].tolist()} == {tokenizer.cls_token_id}
    assert {*drawn[:, -1].tolist()} == {tokenizer.sep_token_id}
    sources = [" ".join(tokenizer.tokenize(text)) for text in (*PAGES, *docstrings(()))]
    spliced = 0
    for row in drawn[:, 1:-1]:
        pieces = tokenizer.convert_ids_to_tokens(row)
        whole = any(" ".join(pieces) in source for source in sources)
        spliced += not whole
        if not whole:
            assert any(any(" ".join(part[:60]) in source for source in sources) for part in (pieces[:60], pieces[-60:]))
    assert 5 < spliced < 35
    assert torch.equal(passages.draw(3, Random(7)), passages.draw(3, Random(7)))


def test_blocks_that_are_kept_apart_or_held_out_are_not_trained_on(tokenizer: Any) -> None:
    pages, apart, held_out = topics_lengths.split(tokenizer)
    assert {*held_out} == {block.text for block in topics_text.blocks(tokenizer) if block.held_out}
    assert min(map(len, (pages, apart, held_out))) > 10
    assert not {*pages} & {*apart}
    assert not {*pages, *apart} & {*held_out}


@given(step=st.integers(1, 10_000))
def test_every_other_step_is_for_the_configuration_and_others_drop_no_more_than_they_may(step: int) -> None:
    recipe, alone = topics_lengths.ROUNDS
    assert topics_lengths.lengths_of(alone, step, Random(step)) == alone.lengths
    assert alone.drop is None
    assert recipe.drop is not None
    lengths = topics_lengths.lengths_of(recipe, step, Random(step))
    if step % 2:
        assert lengths == recipe.lengths
    for before, length in zip((topics_lengths.LENGTH, *lengths), lengths, strict=False):
        assert 2 <= length <= before
        assert step % 2 or length >= before * (1 - recipe.drop)


@pytest.fixture
def start(tmp_path: Path, minilm: Path) -> Path:
    return save_tiny(tmp_path / "start", minilm, "text-classification", max_position_embeddings=160, num_labels=5)


def test_nothing_is_to_be_learned_where_nothing_is_dropped(start: Path, passages: Passages) -> None:
    teacher = transformers.BertForSequenceClassification.from_pretrained(start).eval()
    model = adapt_lengths(transformers.BertForSequenceClassification.from_pretrained(start)).eval()
    ids = passages.draw(2, Random(0))
    assert topics_lengths.distance(model, teacher, ids, (152, 152), (1, 2)) < 1e-6
    loss = topics_lengths.distance(model, teacher, ids, (30, 2), (1, 2))
    assert loss > 1e-3
    loss.backward()
    assert model.classifier.weight.grad is not None
    assert teacher.classifier.weight.grad is None


def test_any_pieces_give_the_same_weights(
    start: Path, tmp_path: Path, passages: Passages, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recipe = replace(topics_lengths.ROUNDS[0], steps=6, batch=2, rate=1e-3, lengths=(40, 2), layers=(1, 2))
    monkeypatch.setattr(topics_lengths, "LENGTH", 152)

    def train(name: str, until: float) -> bool:
        return topics_lengths.train(recipe, passages, start, tmp_path / name, 0, until)

    assert train("whole", time.monotonic() + 600)
    pieces = 1
    while not train("pieces", time.monotonic()):
        pieces += 1
    assert pieces == 6
    assert "step 6 of 6" in capsys.readouterr().err
    whole, parts, first = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "pieces", "start")
    )
    assert whole == parts != first
    assert topics_lengths.is_whole(tmp_path / "pieces", recipe, start, 0)
    assert not topics_lengths.is_whole(tmp_path / "pieces", recipe, start, 1)
    assert not topics_lengths.is_whole(tmp_path / "pieces", replace(recipe, steps=7), start, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"start", "whole", "pieces"}
    saved = transformers.AutoConfig.from_pretrained(tmp_path / "whole")
    assert getattr(saved, "length_config", None) is None
