"""neuronbert bench: what is measured on a real artifact, and what the command says. No test judges a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronbert import BenchSpec, StaticShape, bench
from neuronbert.artifact import Artifact, seal
from neuronbert.benchmark import turns
from neuronbert.errors import EmptyInputError, InvalidOptionError, NoTokenizerError, ReferenceNotFoundError
from tests.conftest import Done

SHAPES = (StaticShape(1, 16), StaticShape(4, 32))
QUICK = BenchSpec(cores=(1,), rounds=2, seconds=0.001, warm_up=1)
SHORT = ("--rounds", "2", "--seconds", "0.001", "--warm-up", "1", "--cores", "1")


@pytest.fixture
def artifact(exported: Callable[..., Path]) -> Path:
    return exported("fill-mask", *SHAPES)


@pytest.fixture
def run(run: Callable[..., Done]) -> Callable[..., Done]:
    return partial(run, "bench")


def without_source(artifact: Path) -> Path:
    """The artifact as if its checkpoint had been moved."""
    manifest = Artifact.open(artifact).manifest
    gone = manifest.source.model_copy(update={"path": str(artifact / "gone")})
    seal(artifact, manifest.model_copy(update={"source": gone}))
    return artifact


def test_every_bucket_is_measured_with_its_own_rows_beside_the_reference(artifact: Path) -> None:
    report = bench(artifact, QUICK)
    assert [(case.bucket, case.rows, case.tokens) for case in report.cases] == [("1x16", 1, 16), ("4x32", 4, 128)]
    for case in report.cases:
        assert case.reference is not None
        assert case.speedup is not None
        for timing in (case.program, case.reference):
            assert len(timing.rounds_ms) == 2
            assert timing.calls >= 4  # two turns in each round
    assert report.reference == "BertForMaskedLM of checkpoint in fp32, eager mode, sdpa attention"


def test_one_case_for_every_combination_that_is_asked_for(artifact: Path) -> None:
    cores = tuple(range(1, min(2, turns._processors()) + 1))
    spec = BenchSpec((SHAPES[1],), (1, 3, 6), cores, rounds=1, seconds=0.001, warm_up=1)
    found = [(case.bucket, case.rows, case.cores) for case in bench(artifact, spec, model=False).cases]
    assert found == [("4x32", rows, number) for rows in (1, 3, 6) for number in cores]


def test_program_and_reference_run_on_as_many_threads_as_the_case_says(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if turns._processors() < 2:
        pytest.skip("one processor")
    seen = []

    def watched(calls: Any, spec: BenchSpec) -> list[list[list[float]]]:
        seen.append(torch.get_num_threads())
        return [[[0.001]] for _ in calls]

    monkeypatch.setattr(turns, "take_turns", watched)
    torch.set_num_threads(1)  # as everywhere in the tests
    bench(artifact, BenchSpec((SHAPES[0],), cores=(1, 2)), model=False)
    assert seen == [1, 2]
    assert torch.get_num_threads() == 1


def test_the_reference_is_called_with_what_the_program_is_called_with(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []

    def answered(calls: Any, spec: BenchSpec) -> list[list[list[float]]]:
        program, reference = (call() for call in calls)
        answers.append((program["logits"], reference[0]))
        return [[[0.001]], [[0.001]]]

    monkeypatch.setattr(turns, "take_turns", answered)
    bench(artifact, QUICK, texts=["One text.", "A second one that is longer."])
    assert len(answers) == len(SHAPES)
    for program, reference in answers:
        assert program.shape == reference.shape
        spread = reference.max() - reference.min()
        assert (program - reference).abs().max() < 0.05 * spread  # bf16 products on one side only


def test_only_tokens_of_texts_are_counted(artifact: Path) -> None:
    spec = BenchSpec((SHAPES[1],), cores=(1,), rounds=1, seconds=0.001, warm_up=1)
    case = bench(artifact, spec, model=False, texts=["Bread.", "Is there a train to Lisbon tonight?"]).cases[0]
    assert case.rows == 4
    assert case.tokens == 2 * (4 + 10)  # with [CLS] and [SEP], each text twice


def test_a_reference_that_has_gone_is_said_and_one_that_is_named_must_be_there(
    artifact: Path, copied: Callable[[Path], Path], tiny: Callable[..., Path]
) -> None:
    moved = without_source(copied(artifact))
    report = bench(moved, QUICK)
    assert report.reference.startswith("none: ")
    assert report.reference.endswith("Say where it is with --model.")
    assert [case.reference for case in report.cases] == [None, None]
    with pytest.raises(ReferenceNotFoundError):
        bench(moved, QUICK, model=str(moved / "elsewhere"))
    assert bench(moved, QUICK, model=str(tiny("fill-mask"))).cases[0].speedup is not None


def test_a_reference_of_a_smaller_vocabulary_is_refused(artifact: Path, tiny: Callable[..., Path]) -> None:
    with pytest.raises(InvalidOptionError, match="input_ids up to 30521"):
        bench(artifact, QUICK, model=str(tiny("fill-mask", vocab_size=1000)))


@pytest.mark.parametrize(
    ("spec", "said"),
    [(BenchSpec((StaticShape(2, 16),)), "1x16, 4x32"), (BenchSpec(cores=(10**6,)), "the processors of this machine")],
    ids=["a bucket that isn't there", "more cores than there are"],
)
def test_what_the_artifact_or_the_machine_has_not_got_is_refused(artifact: Path, spec: BenchSpec, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        bench(artifact, spec)


def test_texts_need_a_tokenizer_and_a_text(artifact: Path, copied: Callable[[Path], Path]) -> None:
    with pytest.raises(EmptyInputError):
        bench(artifact, QUICK, texts=[])
    folder = copied(artifact)
    manifest = Artifact.open(folder).manifest
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    seal(folder, manifest)
    with pytest.raises(NoTokenizerError):
        bench(folder, QUICK, texts=["A text."])


def test_the_command_prints_a_table_and_draws_a_picture(run, artifact: Path, tmp_path: Path) -> None:
    done = run(artifact, *SHORT, "--plot", tmp_path / "a.svg")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "artifact: fill-mask on cpu, matmul bf16 auto-cast; full rows of seeded ids, 2 rounds"
    assert [line.split()[:4] for line in lines if "program" in line] == [
        ["1x16", "1", "1", "program"],
        ["4x32", "4", "1", "program"],
    ]
    assert sum("reference  " in line for line in lines) == 2
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("option", ["--reference", "--model"])  # the second is validate's, which the error names
def test_a_reference_that_is_named_and_not_there_is_one_line(run, artifact: Path, option: str) -> None:
    done = run(artifact, option, "/nowhere")
    assert done.code == 3
    assert done.err.splitlines() == [done.err.strip()]
    assert "with --model" in done.err


def test_the_command_prints_json_alone(run, artifact: Path) -> None:
    done = run(artifact, *SHORT, "--json", "--no-reference", "--bucket", "4x32", "--batch_size", "1,2")
    body = json.loads(done.out)
    assert [(case["bucket"], case["rows"], case["speedup"]) for case in body["cases"]] == [
        ("4x32", 1, None),
        ("4x32", 2, None),
    ]
    assert all(line.startswith("Warning: ") for line in done.err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bucket", "8by128"], "8by128"),
        (["--bucket", "9x9"], "one that was compiled"),
        (["--batch-size", "many"], "--batch-size"),
        (["--batch-size", "0"], "0"),
        (["--cores", "0"], "cores"),
        (["--rounds", "0"], "rounds"),
        (["--seconds", "nan"], "seconds"),
        (["--texts", "/nowhere.jsonl"], "nowhere"),
        (["--reference", "a", "--no-reference"], "--no-reference"),
        (["--plot", "a.png"], ".svg"),
        (["--plot", "/nowhere/a.svg"], "a folder that is there"),
    ],
    ids=str,
)
def test_wrong_options_are_one_line(run, artifact: Path, arguments: list[str], said: str) -> None:
    done = run(artifact, *arguments)
    assert (done.code, done.out) == (2 if "/nowhere.jsonl" not in arguments else 3, "")
    assert len(done.err.splitlines()) == 1
    assert said in done.err


def test_a_plot_inside_the_artifact_is_refused(run, artifact: Path) -> None:
    done = run(artifact, "--plot", artifact / "a.svg")
    assert done.code == 2
    assert "outside the artifact" in done.err


@pytest.mark.parametrize("line", ['{"other": 1}', '{"text": 1}', '{"text": "  "}'])
def test_a_row_without_a_text_is_named_by_its_line(run, artifact: Path, tmp_path: Path, line: str) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Good."}\n' + line)
    done = run(artifact, "--texts", texts)
    assert done.code == 2
    assert "line 2" in done.err


def test_an_interruption_leaves_one_line_and_nothing_else(
    run, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(turns, "take_turns", interrupted)
    before = torch.get_num_threads()
    done = run(artifact, *SHORT, "--plot", tmp_path / "a.svg")
    assert (done.code, done.out, done.err) == (130, "", "Interrupted.\n")
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == before
