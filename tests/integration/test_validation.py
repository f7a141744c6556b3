"""Validation fails on every fault that a compiler or a hand could leave, and says which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
import torch
from torch import Tensor, nn

from neuronbert import Artifact, StaticShape, validate
from neuronbert.artifact import seal
from neuronbert.errors import DataFileError, ReferenceNotFoundError, ValidationFailedError
from neuronbert.report import to_json, to_junit

Outputs = tuple[Tensor, Tensor]


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class WrongValue(Wrapped):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Outputs:
        hidden, pooled = self.inner(ids, mask, types)
        hidden[0, 0, 3] += 1.0
        return hidden, pooled


class NotANumber(Wrapped):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Outputs:
        hidden, pooled = self.inner(ids, mask, types)
        none = pooled - pooled
        return hidden, pooled + none / none


class WrongShape(Wrapped):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Outputs:
        hidden, pooled = self.inner(ids, mask, types)
        return hidden[:, :, :-1], pooled


class MissingOutput(Wrapped):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        hidden, _ = self.inner(ids, mask, types)
        return (hidden,)


class IgnoresMask(Wrapped):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Outputs:
        return self.inner(ids, torch.ones_like(mask), types)


class RightOnce(Wrapped):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Outputs:
        hidden, pooled = self.inner(ids, mask, types)
        self.calls.add_(1)
        return hidden * (self.calls < 2), pooled


class Raises(Wrapped):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Outputs:
        hidden, pooled = self.inner(ids[:, :1].repeat(1, 999), mask, types)
        return hidden, pooled


def tamper(artifact: Path, fault: type[Wrapped]) -> None:
    """Put a faulty program in the place of the artifact's, and seal it as if it had been exported so."""
    path = artifact / "model.neuron"
    torch.jit.save(torch.jit.script(fault(torch.jit.load(path))), path)
    seal(artifact, Artifact.open(artifact, verify=False).manifest)


@pytest.fixture
def artifact(exported, copied: Callable[[Path], Path]) -> Path:
    return copied(exported("feature-extraction"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (WrongValue, "last_hidden_state: error is"),
        (NotANumber, "pooler_output: 64 of 64 values are not finite"),
        (WrongShape, "gives outputs of shape [2, 32, 31], [2, 32]"),
        (MissingOutput, "gives outputs of shape [2, 32, 32] in place of"),
        (IgnoresMask, "short batch, call 1, last_hidden_state"),
        (RightOnce, "call 2, last_hidden_state"),
        (Raises, "the call failed"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.filterwarnings("ignore:.*nn.Module.train.*:UserWarning")
def test_a_faulty_program_fails(artifact: Path, fault: type[Wrapped], said: str) -> None:
    tamper(artifact, fault)
    report = validate(artifact)
    assert not report.passed
    assert any(said in failure for failure in report.failures), report.failures
    with pytest.raises(ValidationFailedError):
        report.raise_if_failed()


def test_a_program_right_on_its_first_call_fails_on_the_second_only(artifact: Path) -> None:
    tamper(artifact, RightOnce)
    first = [check for check in validate(artifact).checks if check.batch == "full" and check.forward == 1]
    assert all(check.passed for check in first)


def test_the_weights_of_another_checkpoint_fail(artifact: Path, exported, tiny) -> None:
    other = tiny("feature-extraction", initializer_range=0.3)
    (failure,) = validate(artifact, model=str(other)).failures
    assert "the weights given are not those it was exported from" in failure
    assert Artifact.open(artifact).report() is None, "a wrong --model says nothing about the artifact"


def test_the_program_of_another_checkpoint_fails(artifact: Path, swapped) -> None:
    assert not validate(swapped(artifact)).passed


def test_a_tokenizer_of_another_vocabulary_fails(tiny, tmp_path: Path) -> None:
    from neuronbert import ExportSpec, export

    small = tiny("fill-mask", vocab_size=1000)
    export(ExportSpec(str(small), (StaticShape(1, 16),)), tmp_path / "out")
    failures = validate(tmp_path / "out").failures
    assert failures
    assert all("text batch" in failure and "from 0 to 999" in failure for failure in failures)


def test_the_verdict_is_recorded_and_the_artifact_stays_sealed(artifact: Path) -> None:
    assert Artifact.open(artifact).report() is None
    report = validate(artifact)
    reopened = Artifact.open(artifact)
    assert reopened.report() == report
    card = (artifact / "README.md").read_text()
    assert "## Validation: passed" in card
    assert "| last_hidden_state | cosine |" in card


def test_a_recorded_verdict_does_not_vouch_for_another_program(artifact: Path) -> None:
    validate(artifact)
    tamper(artifact, WrongValue)
    assert Artifact.open(artifact).report() is None


def test_nothing_is_recorded_on_request(artifact: Path) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    validate(artifact, record=False)
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before


def test_a_checkpoint_that_moved_is_asked_for(tiny, tmp_path: Path) -> None:
    from neuronbert import ExportSpec, export

    moved = Path(shutil.copytree(tiny("fill-mask"), tmp_path / "checkpoint"))
    out = tmp_path / "artifact"
    export(ExportSpec(model=str(moved), shapes=(StaticShape(1, 16),)), out)
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(ReferenceNotFoundError, match="--model"):
        validate(out)
    report = validate(out, model=str(tmp_path / "elsewhere"), record=True)
    assert report.passed
    assert Artifact.open(out).report() == report


def test_a_verdict_on_another_checkpoint_is_recorded_on_request_only(
    artifact: Path, tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = Artifact.open(artifact).manifest.source.path
    assert own is not None
    other = Path(shutil.copytree(own, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    passed = validate(artifact, model=own)
    assert passed.passed
    assert Artifact.open(artifact).report() == passed
    assert not validate(artifact, model=str(other)).passed
    assert Artifact.open(artifact).report() == passed
    assert "the verdict was not recorded" in caplog.text
    failed = validate(artifact, model=str(other), record=True)
    assert Artifact.open(artifact).report() == failed


def test_every_shape_is_validated(exported) -> None:
    report = validate(exported("fill-mask", StaticShape(1, 16), StaticShape(2, 64)), record=False)
    assert {check.shape for check in report.checks} == {"1x16", "2x64"}
    assert report.passed


def test_the_report_says_the_same_in_json_and_junit(artifact: Path) -> None:
    tamper(artifact, NotANumber)
    report = validate(artifact)
    body = json.loads(to_json(report))
    suite = Xml.fromstring(to_junit(report))
    assert body["passed"] is False
    assert int(suite.get("tests", 0)) == len(body["checks"])
    assert int(suite.get("failures", 0)) == len(body["failures"]) == len(report.failures)


LABELLED = {
    "feature-extraction": (
        [{"text": "A cat.", "text_pair": p, "score": s} for p, s in [("A dog.", 2), ("Rain fell.", 0), ("A cat.", 5)]],
        {"spearman"},
    ),
    "fill-mask": ([{"text": "The [MASK] sat.", "label": "cat"}], {"accuracy"}),
    "text-classification": (
        [{"text": "Fine.", "label": "LABEL_0"}, {"text": "Bad.", "label": 1}],
        {"accuracy"},
    ),
    "token-classification": (
        [{"text": "Ada left.", "entities": [{"start": 0, "end": 3, "label": "PER"}]}],
        {"f1"},
    ),
    "question-answering": (
        [{"question": "Who left?", "context": "Ada left early.", "answers": ["Ada"]}],
        {"exact_match", "f1"},
    ),
    "multiple-choice": ([{"text": "It", "choices": ["rains.", "is.", "was."], "label": 1}], {"accuracy"}),
    "next-sentence-prediction": ([{"text": "It rains.", "text_pair": "We stay in.", "label": 0}], {"accuracy"}),
    "pre-training": ([{"text": "It rains.", "text_pair": "We stay in.", "label": 1}], {"accuracy"}),
    "text-generation": ([{"text": "It rains", "label": "."}], {"accuracy"}),
}


@pytest.mark.parametrize("task", LABELLED)
def test_labelled_data_compares_the_metric_of_both_sides(exported, tmp_path: Path, task: str) -> None:
    rows, names = LABELLED[task]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    report = validate(exported(task, auto_cast="none"), data=file, record=False)
    assert {metric.name for metric in report.metrics} == names
    for metric in report.metrics:
        assert metric.rows == len(rows)
        assert metric.program == pytest.approx(metric.reference)  # fp32 on both sides: the same answers


def test_the_metric_counts_right_answers(exported, tmp_path: Path) -> None:
    from neuronbert import Predictor

    artifact = exported("text-classification", auto_cast="none")
    texts = ["Fine.", "Bad.", "Rain fell on the town.", "No."]
    answers = Predictor.from_pretrained(str(artifact)).predict([{"text": text} for text in texts])
    rows = [{"text": text, "label": answer["label"]} for text, answer in zip(texts, answers, strict=True)]
    rows[0]["label"] = "LABEL_0" if rows[0]["label"] == "LABEL_1" else "LABEL_1"
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    (metric,) = validate(artifact, data=file, record=False).metrics
    assert (metric.program, metric.reference) == (0.75, 0.75)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", DataFileError),
        ("not json", DataFileError),
        ("[1]", DataFileError),
        ('{"text": "no label"}', DataFileError),
        ('{"label": "LABEL_0"}', DataFileError),
        ('{"text": "", "label": "LABEL_0"}', DataFileError),
        ('{"text": "A text.", "label": "no such label"}', DataFileError),
        ('{"text": "A text.", "label": 7}', DataFileError),
        ('{"text": "A text.", "label": ["LABEL_0"]}', DataFileError),
    ],
)
def test_labelled_data_that_cannot_be_used_is_refused(exported, tmp_path: Path, content: str, error: type) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    with pytest.raises(error):
        validate(exported("text-classification"), data=file, record=False)


@pytest.mark.parametrize("labels", [1, 2])
def test_heads_of_few_and_small_values_pass_with_the_default_cast(tiny, tmp_path: Path, labels: int) -> None:
    from neuronbert import ExportSpec, export

    for seed_like in (0.02, 0.05, 0.2):
        head = tiny("text-classification", num_labels=labels, initializer_range=seed_like)
        export(ExportSpec(str(head), (StaticShape(1, 32),)), tmp_path / "out", overwrite=True)
        assert validate(tmp_path / "out").failures == ()


def test_a_verdict_is_not_written_into_an_artifact_that_was_replaced_meanwhile(artifact: Path, exported) -> None:
    from neuronbert.errors import ArtifactCorruptError

    validated = Artifact.open(artifact)
    other = exported("feature-extraction", StaticShape(1, 16))
    shutil.rmtree(artifact)
    shutil.copytree(other, artifact)
    with pytest.raises(ArtifactCorruptError, match="meanwhile"):
        validated.record({"validation.json": "{}"})
    assert Artifact.open(artifact).manifest == Artifact.open(other).manifest


def test_a_model_whose_folder_was_replaced_is_not_saved(artifact: Path, exported, tmp_path: Path) -> None:
    from neuronbert import NeuronBertModel
    from neuronbert.errors import ArtifactCorruptError

    model = NeuronBertModel.from_pretrained(artifact)
    other = exported("feature-extraction", StaticShape(1, 16))
    shutil.rmtree(artifact)
    shutil.copytree(other, artifact)
    with pytest.raises(ArtifactCorruptError):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_report_never_lands_in_the_artifact(artifact: Path) -> None:
    import subprocess
    import sys

    line = [sys.executable, "-m", "cli", "validate", str(artifact), "--report", str(artifact / "config.json")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "outside the artifact" in done.stderr
    Artifact.open(artifact)
