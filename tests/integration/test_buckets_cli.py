"""Shapes on the command line: sizes, whole shapes, and those that a sample of texts needs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronbert import Artifact, StaticShape
from neuronbert.runtime import Session
from tests.conftest import Done


@pytest.fixture
def export(run, tiny, tmp_path: Path) -> Callable[..., Done]:
    def export(*options: object, task: str = "feature-extraction") -> Done:
        return run("export", "--model", tiny(task), *options, tmp_path / "out")

    return export


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """4 rows of 3 tokens, 4 of 4, 3 of 20 and one that is too long for the model."""
    file = tmp_path / "texts.jsonl"
    counts = [1] * 4 + [2] * 4 + [18] * 3 + [100]
    file.write_text("".join(json.dumps({"text": "word " * count}) + "\n" for count in counts))
    return file


def shapes(tmp_path: Path) -> list[str]:
    return [shape.name for shape in Artifact.open(tmp_path / "out").manifest.shapes]


def test_sizes_are_multiplied_and_buckets_are_not(export, tmp_path: Path) -> None:
    assert export("--sequence-length", "32,16", "--batch-size", "1,4").code == 0
    assert shapes(tmp_path) == ["1x16", "1x32", "4x16", "4x32"]
    assert export("--bucket", "4x16", "--bucket", "1x32", "--bucket", "4x16", "--force").code == 0
    assert shapes(tmp_path) == ["1x32", "4x16"]


def test_a_bucket_has_its_choices_in_the_middle(export, tmp_path: Path) -> None:
    assert export("--bucket", "2x3x16", task="multiple-choice").code == 0
    assert Artifact.open(tmp_path / "out").manifest.shapes == (StaticShape(2, 16, 3),)


def test_buckets_from_texts_are_printed_and_exported(export, texts: Path, tmp_path: Path) -> None:
    done = export("--buckets-from", texts, "--max-buckets", 3, "--batch-size", 3)
    assert done.code == 0, done.err
    assert done.out == (
        "bucket  rows  calls  padding\n"
        "------  ----  -----  -------\n"
        "3x4     8     3      22.2 %\n"
        "3x20    3     1      0.0 %\n"
        "3x64    1     1      66.7 %\n"
        "12 rows, 1 of them cut at 64 tokens: 47.2 % of what is computed is padding\n"
        "powers of two (4, 32, 64): 53.1 %; against them 11.1 % fewer tokens and 11.3 % fewer operations\n"
        f"{tmp_path / 'out'}: BertModel for cpu, 3x4, 3x20, 3x64\n"
    )
    assert done.err == f"Next: neuronbert validate {tmp_path / 'out'}\n"
    assert shapes(tmp_path) == ["3x4", "3x20", "3x64"]
    assert Session.open(tmp_path / "out").manifest.shapes[1] == StaticShape(3, 20)


def test_the_figures_are_in_the_json(export, texts: Path, tmp_path: Path) -> None:
    done = export("--buckets-from", texts, "--max-buckets", 2, "--json")
    body = json.loads(done.out)
    assert [(p["batch_size"], p["sequence_length"]) for p in body["programs"]] == [(1, 20), (1, 64)]
    found = body["buckets"]
    assert (found["rows"], found["cut"], found["limit"]) == (12, 1, 64)
    assert [bucket["sequence_length"] for bucket in found["chosen"]["buckets"]] == [20, 64]
    assert found["chosen"]["program_tokens"] == 11 * 20 + 64
    assert [bucket["sequence_length"] for bucket in found["powers_of_two"]["buckets"]] == [4, 32, 64]
    assert done.err == ""


def test_the_longest_text_may_be_named(export, texts: Path, tmp_path: Path) -> None:
    done = export("--buckets-from", texts, "--sequence-length", 10)
    assert shapes(tmp_path) == ["1x3", "1x4", "1x10"]
    assert "12 rows, 4 of them cut at 10 tokens" in done.out
    (tmp_path / "short.txt").write_text("word\n" * 3)
    done = export("--buckets-from", tmp_path / "short.txt", "--force")
    assert shapes(tmp_path) == ["1x3"]
    assert (
        "more than 3 tokens, the sample's longest, will not fit. To take longer ones: --sequence-length 64" in done.err
    )
    done = export("--buckets-from", tmp_path / "short.txt", "--sequence-length", 32, "--force")
    assert shapes(tmp_path) == ["1x3", "1x32"]
    assert "will not fit" not in done.err


def test_several_batch_sizes_share_the_lengths(export, texts: Path, tmp_path: Path) -> None:
    export("--buckets-from", texts, "--max-buckets", 2, "--batch-size", "1,3")
    assert shapes(tmp_path) == ["1x20", "3x20", "1x64", "3x64"]


def test_a_sample_may_come_from_stdin(export, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(texts.read_bytes())))
    assert export("--buckets-from", "-", "--max-buckets", 1).code == 0
    assert shapes(tmp_path) == ["1x64"]


def test_what_is_given_wins_over_a_recipe(export, texts: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('buckets = ["2x16", "1x8"]')
    assert export("--recipe", recipe).code == 0
    assert shapes(tmp_path) == ["1x8", "2x16"]
    assert export("--recipe", recipe, "--sequence-length", 32, "--force").code == 0
    assert shapes(tmp_path) == ["1x32"]
    recipe.write_text("batch_sizes = [4]\nsequence_lengths = [16, 32]")
    assert export("--recipe", recipe, "--bucket", "1x8", "--force").code == 0
    assert shapes(tmp_path) == ["1x8"]
    assert export("--recipe", recipe, "--buckets-from", texts, "--max-buckets", 1, "--force").code == 0
    assert shapes(tmp_path) == ["4x64"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--bucket", "8"], 2, "rows x tokens, as in 8x128"),
        (["--bucket", "1x65"], 2, "positions for 64 tokens"),
        (["--bucket", "1x8", "--bucket", "1x4x8"], 2, "num_choices"),
        (["--bucket", "1x8", "--sequence-length", "8", "--batch-size", "1"], 2, "--batch-size, --sequence-length"),
        (["--bucket", "1x8", "--num-choices", "2"], 2, "used without --num-choices"),
        (["--bucket", "1x8", "--buckets-from", "TEXTS"], 2, "used without --buckets-from"),
        (["--max-buckets", "5"], 2, "used with --buckets-from"),
        (["--buckets-from", "TEXTS", "--max-buckets", "0"], 2, "--max-buckets is 0"),
        (["--buckets-from", "TEXTS", "--max-buckets", "-1"], 2, "--max-buckets is -1"),
        (["--buckets-from", "TEXTS", "--sequence-length", "8,16"], 2, "one number with --buckets-from"),
        (["--buckets-from", "TEXTS", "--sequence-length", "65"], 2, "from 1 to the model's 64 tokens"),
        (["--buckets-from", "nowhere.jsonl"], 3, "There is no file nowhere.jsonl. See what there is with: ls ."),
        (["--buckets-from", "EMPTY"], 2, "it holds no rows"),
        (["--buckets-from", "MODEL"], 2, "can't be read as UTF-8"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(
    export, tiny, texts: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    places = {"TEXTS": texts, "EMPTY": tmp_path / "empty.jsonl"}
    places["MODEL"] = tiny("feature-extraction") / "model.safetensors"
    done = export(*(places.get(option, option) for option in options))
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_more_buckets_than_lengths_are_as_many_as_lengths(export, texts: Path, tmp_path: Path) -> None:
    assert export("--buckets-from", texts, "--max-buckets", 50).code == 0
    assert shapes(tmp_path) == ["1x3", "1x4", "1x20", "1x64"]


def test_a_preflight_takes_whole_shapes(run, tiny) -> None:
    done = run(
        "check", tiny("feature-extraction"), "--target", "inf2", "--bucket", "2x16", "--bucket", "1x32", "--json"
    )
    assert [program["name"] for program in json.loads(done.out)["programs"]] == ["2x16", "1x32"]
