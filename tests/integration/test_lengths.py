"""Texts to histograms, with real tokenizers; and the cost of a row, counted on real programs."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from neuronbert import ExportSpec, StaticShape, choose_buckets, count_lengths, inputs, modeling, tokenization
from neuronbert.architectures import TASKS
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import (
    DataFileError,
    EmptyInputError,
    InvalidOptionError,
    MissingFileError,
    MissingTextError,
    NoTokenizerError,
)
from neuronbert.lengths import count_operations
from neuronbert.preflight.recording import record
from tests.support import families
from tests.unit.rows import ROWS, tokens_of

TEXTS = ["Bread.", "The harbour was quiet at six in the morning.", "Bread again."]


def spec_of(model: Path, task: str = "feature-extraction", choices: int | None = None) -> ExportSpec:
    return ExportSpec(str(model), (StaticShape(1, 1, choices),), task)


@pytest.fixture(scope="module")
def model(tiny) -> Path:
    return tiny("feature-extraction")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_row_is_as_long_as_the_predictor_makes_it(tiny, task: str) -> None:
    model = tiny(task)
    row = ROWS[task]
    found = count_lengths(spec_of(model, task, 2 if task == "multiple-choice" else None), [row, row])
    words = tokens_of(tokenization.require(model), task, row)
    expected = len(words) // 2 if task == "multiple-choice" else len(words)
    assert found.counts == {expected: 2}


def test_of_several_choices_the_longest_counts(tiny) -> None:
    rows = [{"text": "one", "choices": choices} for choices in (["two", "two three"], ["two three", "two"])]
    found = count_lengths(spec_of(tiny("multiple-choice"), "multiple-choice", 2), rows)
    assert found.counts == {6: 2}


def test_rows_with_and_without_a_second_text_are_counted_alike(model: Path) -> None:
    found = count_lengths(spec_of(model), [{"text": "one two", "text_pair": "three"}, {"text": "one two"}])
    assert found.counts == {6: 1, 4: 1}


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_counts_do_not_depend_on_the_blocks(model: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    from neuronbert import lengths

    texts = [text for text in TEXTS for _ in range(4)]
    tokenizer = tokenization.require(model)
    expected = Counter(len(tokenizer(text)["input_ids"]) for text in texts)
    monkeypatch.setattr(lengths, "_ROWS", size)
    said: list[str] = []
    assert count_lengths(spec_of(model), [{"text": text} for text in texts], progress=said.append).counts == expected
    assert said.count("12 rows read") == 1
    monkeypatch.setattr(lengths, "_CHARACTERS", 1)
    assert count_lengths(spec_of(model), [{"text": text} for text in texts]).counts == expected


def test_rows_beyond_the_positions_are_cut_and_counted(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["word " * 62, "word " * 63, "word " * 5000, "word"]
    with caplog.at_level(logging.WARNING):
        found = count_lengths(spec_of(model), [{"text": text} for text in texts])
    assert (found.limit, found.cut, found.rows, found.longest) == (64, 2, 4, 64)
    assert found.counts == {64: 3, 3: 1}
    assert caplog.records == []


def test_a_shorter_limit_cuts_more_and_a_longer_one_is_kept(model: Path) -> None:
    found = count_lengths(spec_of(model), [{"text": "word " * count} for count in (1, 8, 18, 100)])
    assert (found.counts, found.cut) == ({3: 1, 10: 1, 20: 1, 64: 1}, 1)
    shorter = found.up_to(10)
    assert (shorter.counts, shorter.cut, shorter.limit, shorter.rows) == ({3: 1, 10: 3}, 2, 10, 4)
    short = count_lengths(spec_of(model), [{"text": "word"}])
    assert short.up_to(40).counts == {3: 1, 40: 0}
    assert choose_buckets(short.up_to(40).counts, 3).lengths == (3, 40)
    for wrong in (0, 65):
        with pytest.raises(InvalidOptionError, match="64 tokens"):
            found.up_to(wrong)


@pytest.mark.parametrize("task", ["feature-extraction", "multiple-choice", "pre-training"])
def test_the_cost_is_what_the_program_multiplies_and_adds(tiny, task: str) -> None:
    model, choices = tiny(task), 3 if task == "multiple-choice" else None
    cost = count_lengths(spec_of(model, task, choices), [ROWS[task]]).cost
    loaded = modeling.load(Checkpoint.open(model), task)
    for length in (5, 33, 61):
        graph = record(loaded.head, inputs.example(loaded.inputs, StaticShape(1, length, choices)))
        assert cost(length) == graph.flops


@pytest.mark.parametrize("model_type", families.CONFIGS)
def test_three_short_programs_say_what_a_row_of_any_family_costs(model_type: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(families.save(model_type, "feature-extraction", tmp_path / "checkpoint"))
    loaded, limit = modeling.load(checkpoint, "feature-extraction"), checkpoint.max_sequence_length
    cost = count_operations(loaded, limit)
    for length in (5, 12, 21, 31):  # none that it was read off
        graph = record(loaded.head, inputs.example(loaded.inputs, StaticShape(1, length)))
        assert cost(length) == graph.flops


def test_the_cost_of_the_real_checkpoint_is_that_of_its_layers(minilm: Path) -> None:
    cost = count_lengths(spec_of(minilm), [{"text": "word"}]).cost
    hidden, inner, layers = 384, 1536, 6
    assert cost.linear == 2 * layers * (4 * hidden**2 + 2 * hidden * inner)
    assert cost.quadratic == 4 * layers * hidden
    assert cost.constant == 2 * hidden**2, "the pooler"


def test_a_model_with_hardly_any_positions_is_counted_as_well(tiny) -> None:
    model = tiny("fill-mask", max_position_embeddings=3)
    found = count_lengths(spec_of(model, "fill-mask"), [{"text": "[MASK] two three"}])
    assert (found.counts, found.limit, found.cut) == ({3: 1}, 3, 1)
    assert found.cost(2) < found.cost(3)


class TestBadSamples:
    def test_a_row_without_its_text_is_refused_by_line(self, model: Path, tmp_path: Path) -> None:
        file = tmp_path / "texts.jsonl"
        for wrong, said in [
            ({"title": "x"}, "needs 'text'"),
            ({"text": 3}, "must hold a text"),
            ({"text": " "}, "is empty"),
        ]:
            file.write_text('{"text": "fine"}\n\n' + json.dumps(wrong) + "\n")
            with pytest.raises(DataFileError, match=f"texts.jsonl, line 3: .*{said}"):
                count_lengths(spec_of(model), file)

    def test_a_column_that_the_task_needs_must_be_there(self, model: Path, tmp_path: Path) -> None:
        file = tmp_path / "texts.csv"
        file.write_text("title\nx\n")
        with pytest.raises(DataFileError, match=r"texts.csv, line 2: .* needs 'text'; this one has title"):
            count_lengths(spec_of(model), file)

    def test_rows_from_python_are_refused_as_the_predictor_does(self, model: Path) -> None:
        rows: list[Any] = ["a text", {"title": "a text"}]
        with pytest.raises(MissingTextError, match=r"^Row 1: "):
            count_lengths(spec_of(model), rows)
        with pytest.raises(EmptyInputError):
            count_lengths(spec_of(model), [])

    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_an_empty_file_is_refused(self, model: Path, tmp_path: Path, content: str) -> None:
        for name in ("a.jsonl", "a.txt", "a.csv"):
            (tmp_path / name).write_text(content)
            with pytest.raises(DataFileError, match=r"no rows|not CSV|columns"):
                count_lengths(spec_of(model), tmp_path / name)

    def test_a_missing_file_is_refused_before_the_weights_are_read(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(modeling, "load", lambda *_, **__: pytest.fail("read"))
        with pytest.raises(MissingFileError):
            count_lengths(spec_of(model), tmp_path / "nowhere.jsonl")

    def test_a_checkpoint_without_a_tokenizer_counts_nothing(self, model: Path, tmp_path: Path) -> None:
        import shutil

        bare = Path(shutil.copytree(model, tmp_path / "bare"))
        for path in (*bare.glob("tokenizer*"), *bare.glob("vocab*")):
            path.unlink()
        with pytest.raises(NoTokenizerError):
            count_lengths(spec_of(bare), [{"text": "word"}])
