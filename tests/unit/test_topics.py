"""The tasks made of Python's documentation (scripts/topics*.py): their text, rows and labels, training, scores."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics as documentation
from typing import Any

import pytest
import topics
import topics_scores
import topics_tasks
import topics_text
import topics_training
import torch
from hypothesis import given
from hypothesis import strategies as st
from topics_tasks import Dataset
from topics_training import Recipe

from neuronbert import Artifact, StaticShape, answers, metrics

LENGTHS = {"sections-128": 128, "sections-384": 384, "markup-128": 128, "entries-128": 128}
WORDS = st.lists(st.sampled_from(["the", "tokenization", "__getattr__()", "“quoted”", "x[1:2]", "ß", "naïve", "a"]))


@pytest.fixture(scope="session")
def made(tokenizer: Any) -> Callable[[str], Dataset]:
    return cache(lambda name: topics_tasks.read(name, tokenizer))


def count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def test_every_paragraph_is_of_the_documentation_and_of_one_topic_only() -> None:
    found = topics_text.paragraphs()
    texts = [paragraph.text for own in found.values() for paragraph in own]
    assert len(texts) == len(set(texts)) > 1000
    assert set(found) == set(documentation)
    for name, own in found.items():
        whole = " ".join(documentation[name].split())
        assert all(paragraph.text in whole for paragraph in own)


def test_a_chapter_does_not_have_what_its_section_has() -> None:
    found = topics_text.paragraphs()
    inside = [paragraph for paragraph in found["with"] if paragraph.text in " ".join(documentation["compound"].split())]
    assert inside
    assert not {*inside} & {*found["compound"]}


def test_headings_tables_examples_and_grammars_are_left_out() -> None:
    for own in topics_text.paragraphs().values():
        for paragraph in own:
            assert not re.search(r"^>>> |^\w+ +::= |\*{4}|={4}|-{6}", paragraph.text), paragraph.text


def test_a_term_and_what_is_said_of_it_are_two_paragraphs() -> None:
    read = list(topics_text._read("Tuples\n   The items of a tuple\n   are objects.\n\n* a point\n  of two lines"))
    assert [(paragraph.text, paragraph.indent) for paragraph in read] == [
        ("Tuples", 0),
        ("The items of a tuple are objects.", 3),
        ("* a point of two lines", 0),
    ]


def test_blocks_hold_every_paragraph_once_and_are_long_enough(tokenizer: Any) -> None:
    blocks = topics_text.blocks(tokenizer)
    for name, own in topics_text.paragraphs().items():
        cut = [block for block in blocks if block.topic == name]
        assert tuple(paragraph for block in cut for paragraph in block.paragraphs) == own
        if len(cut) > 1:
            assert all(count(tokenizer, block.text) >= topics_text.BLOCK for block in cut)


def test_one_block_of_four_neighbours_is_held_out(tokenizer: Any) -> None:
    blocks = topics_text.blocks(tokenizer)
    counted = Counter(block.topic for block in blocks)
    for name, number in counted.items():
        sides = [block.held_out for block in blocks if block.topic == name]
        if number > 1:
            assert sides == [place % 4 == 1 for place in range(number)]
    single = [block.held_out for block in blocks if counted[block.topic] == 1]
    assert single == [place % 4 == 1 for place in range(len(single))]


@given(WORDS, st.integers(1, 12), st.integers(1, 12))
def test_windows_are_the_tokens_of_the_text(tokenizer: Any, words: list[str], size: int, stride: int) -> None:
    text = " ".join(words)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    last = None
    for start, end in topics_text.windows(tokenizer, text, size, stride):
        before = count(tokenizer, text[:start])
        own = tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
        assert own == whole[before : before + len(own)]
        assert 0 < len(own) <= size
        assert before + size <= len(whole)
        assert last is None or before - last >= stride
        last = before


def test_a_text_as_long_as_a_window_is_one(tokenizer: Any) -> None:
    text = "one two three four"
    assert topics_text.windows(tokenizer, text, 4, 1) == [(0, len(text))]
    assert topics_text.windows(tokenizer, text, 5, 1) == []
    assert topics_text.windows(tokenizer, text, 2, 2) == [(0, 7), (8, 18)]


@pytest.mark.parametrize("name", topics_tasks.NAMES)
def test_no_row_is_longer_than_its_task_says_and_none_is_there_twice(
    made: Callable[[str], Dataset], tokenizer: Any, name: str
) -> None:
    dataset = made(name)
    assert dataset.length == LENGTHS[name]
    rows = [*dataset.train, *dataset.held_out]
    items = answers.tokenize(dataset.task, tokenizer, rows)
    assert max(len(window) for (window,) in items) <= dataset.length
    assert len({json.dumps(row, sort_keys=True) for row in rows}) == len(rows)
    assert len(dataset.train) > 400
    assert len(dataset.held_out) > 150


@pytest.mark.parametrize("name", topics_tasks.NAMES)
def test_held_out_rows_share_nothing_with_the_others(made: Callable[[str], Dataset], tokenizer: Any, name: str) -> None:
    dataset = made(name)
    blocks = topics_text.blocks(tokenizer)
    if name == "markup-128":
        texts = {side: [topics_tasks._unmarked(b)[0] for b in blocks if b.held_out is side] for side in (False, True)}
    else:
        texts = {side: [block.text for block in blocks if block.held_out is side] for side in (False, True)}
    for side, rows in ((False, dataset.train), (True, dataset.held_out)):
        for row in rows:
            text = row.get("context", row.get("text"))
            assert any(text in own for own in texts[side])
            assert not any(text in other for other in texts[not side])


@pytest.mark.parametrize("name", ["sections-128", "sections-384"])
def test_a_passage_has_the_name_of_the_topic_that_holds_it(made: Callable[[str], Dataset], name: str) -> None:
    dataset = made(name)
    assert len(dataset.labels) == 14
    for rows in (dataset.train, dataset.held_out):
        counted = Counter(row["label"] for row in rows)
        assert {*counted} == {*dataset.labels}
        assert max(counted.values()) < len(rows) / 5  # always the same answer isn't a good one
        for row in rows:
            own = " ".join(paragraph.text for paragraph in topics_text.paragraphs()[row["label"]])
            assert row["text"] in own


@pytest.mark.parametrize(
    ("text", "prose", "marks"),
    [
        ('If "x" is *not* so.', "If x is not so.", [("x", "CODE"), ("not", "TERM")]),
        ('* The "a * b" of *two terms*:', "The a * b of two terms:", [("a * b", "CODE"), ("two terms", "TERM")]),
        ('The string ""False"" is it.', 'The string "False" is it.', [('"False"', "CODE")]),
        ('"Ellipsis" has "**kwargs".', "Ellipsis has **kwargs.", [("Ellipsis", "CODE"), ("**kwargs", "CODE")]),
        ("Nothing is marked here.", "Nothing is marked here.", []),
    ],
)
def test_marks_are_taken_away(text: str, prose: str, marks: list[tuple[str, str]]) -> None:
    read = topics_tasks.unmark(text)
    assert read is not None
    assert read[0] == prose
    assert [(prose[start:end], label) for start, end, label in read[1]] == marks


@pytest.mark.parametrize(
    "text",
    ["str.title()", "x = 3", "A heading", 'One " too many.', "**Strong** isn't either.", 'It prints "a "b", c" here.'],
)
def test_what_is_no_prose_or_is_marked_in_another_way_is_left_out(text: str) -> None:
    assert topics_tasks.unmark(text) is None


def test_marks_put_back_give_the_documentation() -> None:
    found = 0
    for own in topics_text.paragraphs().values():
        for paragraph in own:
            read = topics_tasks.unmark(paragraph.text)
            if read is None:
                continue
            text, marks = read
            for start, end, label in reversed(marks):
                mark = {"CODE": '"', "TERM": "*"}[label]
                text = f"{text[:start]}{mark}{text[start:end]}{mark}{text[end:]}"
            assert text == paragraph.text.removeprefix("* ")
            found += len(marks)
    assert found > 1500


def test_the_answer_is_what_follows_the_question_in_the_documentation(made: Callable[[str], Dataset]) -> None:
    dataset = made("entries-128")
    whole = [" ".join(text.split()) for text in documentation.values()]
    for row in (*dataset.train, *dataset.held_out):
        start = row["answer_start"]
        (answer,) = row["answers"]
        assert row["context"][start : start + len(answer)] == answer
        assert row["context"][:start].endswith(f"{row['question']} ")
        assert any(f"{row['question']} {answer}" in text for text in whole)
    assert not {row["answers"][0] for row in dataset.train} & {row["answers"][0] for row in dataset.held_out}


class Oracle:
    """Answers with the labels that the rows have, in the order in which it is asked."""

    def __init__(self, dataset: Dataset, tokenizer: Any) -> None:
        self._encoded = [topics_training.encode(dataset, tokenizer, [row]) for row in dataset.held_out]
        self._dataset = dataset
        self._next = 0

    def __call__(self, *, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> dict[str, Any]:
        rows = self._encoded[self._next : self._next + len(input_ids)]
        self._next += len(rows)
        width = self._dataset.length
        assert input_ids.shape == attention_mask.shape == token_type_ids.shape == (len(rows), width)
        for row, ids, mask in zip(rows, input_ids, attention_mask, strict=True):
            assert row["input_ids"][0].tolist() == ids[mask.bool()].tolist()
        if self._dataset.task == "question-answering":
            places = {
                name: torch.stack([row[f"{name}_positions"][0] for row in rows]).view(-1, 1)
                for name in ("start", "end")
            }
            return {
                f"{name}_logits": torch.zeros(len(rows), width).scatter(1, place, 9.0) for name, place in places.items()
            }
        labels = [row["labels"][0].clamp(min=0) for row in rows]
        if self._dataset.task == "token-classification":
            labels = [torch.nn.functional.pad(own, (0, width - len(own))) for own in labels]
        return {"logits": torch.nn.functional.one_hot(torch.stack(labels), len(self._dataset.labels)).float()}


@pytest.mark.parametrize("name", topics_tasks.NAMES)
def test_who_answers_with_the_labels_is_always_right(made: Callable[[str], Dataset], tokenizer: Any, name: str) -> None:
    dataset = made(name)
    scores = topics_scores.scores(Oracle(dataset, tokenizer), dataset, tokenizer)
    assert scores == dict.fromkeys(scores, 1.0)
    assert topics_scores.METRICS[dataset.task] in scores


def test_who_answers_other_rows_is_wrong_as_often_as_they_differ(
    made: Callable[[str], Dataset], tokenizer: Any
) -> None:
    dataset = made("sections-128")
    rows = dataset.held_out[:64]
    others = {name: dataset.labels[place - 1] for place, name in enumerate(dataset.labels)}
    half = [row if place % 2 else {**row, "label": others[row["label"]]} for place, row in enumerate(rows)]
    oracle = Oracle(replace(dataset, held_out=tuple(half)), tokenizer)
    assert topics_scores.accuracy(oracle, replace(dataset, held_out=rows), tokenizer) == 0.5


def steps(
    made: Callable[[str], Dataset], tiny: Callable[..., Path], tokenizer: Any, name: str, seed: int
) -> dict[str, torch.Tensor]:
    dataset = made(name)
    model = topics_training.begin(dataset, tiny("feature-extraction", max_position_embeddings=128), seed)
    before = model.bert.embeddings.word_embeddings.weight.clone()
    torch.seed()  # training depends on its own seed only
    trained = topics_training.fine_tune(model, tokenizer, dataset, Recipe(steps=3, batch=2), seed)
    assert torch.equal(trained.bert.embeddings.word_embeddings.weight, before)
    return dict(trained.state_dict())


@pytest.mark.parametrize("name", ["sections-128", "markup-128", "entries-128"])
def test_a_seed_says_what_training_gives(
    made: Callable[[str], Dataset], tiny: Callable[..., Path], tokenizer: Any, name: str
) -> None:
    first, again, other = (steps(made, tiny, tokenizer, name, seed) for seed in (0, 0, 1))
    query = "bert.encoder.layer.1.attention.self.query.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[query], other[query])


def test_training_goes_on_from_the_rows_not_seen(made: Callable[[str], Dataset]) -> None:
    rows = made("sections-128").train[:10]
    drawn = [row for batch in topics_training.batches(rows, 5, 4, 0) for row in batch]
    texts = [row["text"] for row in drawn]
    assert {*texts[:10]} == {*texts[10:]} == {row["text"] for row in rows}
    assert texts[:10] != texts[10:]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    recipes = {name: replace(recipe, steps=1, batch=2) for name, recipe in topics_training.RECIPES.items()}
    monkeypatch.setattr(topics_training, "RECIPES", recipes)
    return recipes


def test_what_was_trained_is_found_again(tiny: Callable[..., Path], quick: dict[str, Recipe], tmp_path: Path) -> None:
    sample = tiny("feature-extraction", max_position_embeddings=384)
    folder = topics_training.trained("sections-384", 5, sample, tmp_path)
    assert folder == tmp_path / "sections-384-seed5"
    assert {path.name for path in tmp_path.iterdir()} == {"sections-128-seed5", "sections-384-seed5"}
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert topics_training.trained("sections-384", 5, sample, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    quick["sections-384"] = Recipe(steps=2, batch=2, before="sections-128")
    assert topics_training.trained("sections-384", 5, sample, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns != written


def test_a_trained_folder_is_a_checkpoint_that_is_exported_and_scored(
    made: Callable[[str], Dataset], tiny: Callable[..., Path], quick: dict[str, Recipe], tokenizer: Any, tmp_path: Path
) -> None:
    from neuronbert import ExportSpec, export

    dataset = replace(made("markup-128"), held_out=made("markup-128").held_out[:9])
    sample = tiny("feature-extraction", max_position_embeddings=128)
    folder = topics_training.trained("markup-128", 0, sample, tmp_path)
    export(
        ExportSpec(str(folder), (StaticShape(2, 128),), "token-classification", auto_cast="none"), tmp_path / "artifact"
    )
    eager, program = (
        topics_scores.scores(topics_scores.load(dataset, path), dataset, tokenizer)
        for path in (folder, tmp_path / "artifact")
    )
    assert program == pytest.approx(eager, abs=1e-3)  # rounding may turn a tie
    assert 0 < eager["f1"] < 0.5


def test_rows_are_written_as_the_library_reads_them(
    exported: Callable[..., Path],
    made: Callable[[str], Dataset],
    minilm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["topics.py", "--write-data", str(tmp_path), "--threads", "1"])
    assert topics.main() == 0
    assert capsys.readouterr().out.splitlines() == [made(name).summary for name in topics_tasks.NAMES]
    for name in topics_tasks.NAMES:
        dataset = made(name)
        manifest = Artifact.open(exported(dataset.task)).manifest
        config = {"id2label": {str(place): label for place, label in enumerate(dataset.labels)}}
        for side, rows in (("train", dataset.train), ("held-out", dataset.held_out)):
            assert metrics.read(tmp_path / f"{name}-{side}.jsonl", manifest, config) == rows
