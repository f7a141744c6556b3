"""transformers' pipelines over artifacts of the real checkpoint, against the same pipelines over the original model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.pipelines import PIPELINE_REGISTRY

from neuronbert import ExportSpec, NeuronAutoModel, Pool, StaticShape, errors, export, pipeline
from neuronbert.architectures import ARCHITECTURES
from neuronbert.pipelines import PIPELINES, QuestionAnswering

LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
ADA = "Ada Lovelace wrote programs for a machine that was never built."
LONG = " ".join(
    [ADA, "The machine was to be driven by steam.", "Her notes were longer than the paper they explain."] * 4
)
TEXTS = [ADA, "She was born in London.", LONG[:140]]
SHAPES = (StaticShape(4, 16), StaticShape(2, 48))
Made = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Made:
    """The real encoder with a head (its own, or a random one), and its artifact."""
    found: dict[str, tuple[Path, Path]] = {}

    def make(task: str) -> tuple[Path, Path]:
        if task not in found:
            checkpoint = tmp_path_factory.mktemp(task) / "checkpoint"
            head = getattr(transformers, ARCHITECTURES["bert"].heads[task])
            torch.manual_seed(0)
            named = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
            head.from_pretrained(minilm, **(named if "classification" in task else {})).save_pretrained(checkpoint)
            for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
                shutil.copy(minilm / name, checkpoint)
            spec = ExportSpec(str(checkpoint), SHAPES, task, auto_cast="none")
            found[task] = checkpoint, export(spec, checkpoint.parent / "artifact").path
        return found[task]

    return make


INPUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "feature-extraction": (TEXTS, {}),
    "fill-mask": ([text.replace("was", "[MASK]", 1) for text in (TEXTS[0], TEXTS[1])], {}),
    "text-classification": (TEXTS, {"top_k": None}),
    "sentiment-analysis": (TEXTS, {}),
    "zero-shot-classification": (TEXTS, {"candidate_labels": ["history", "food", "machines"]}),
    "token-classification": (TEXTS, {}),
    "ner": (TEXTS, {"aggregation_strategy": "simple"}),
}


def assert_same(found: Any, expected: Any) -> None:
    """The same answers. Both compute in fp32, in another order: rounding alone parts them."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(found, (float, np.floating)):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    else:
        assert found == expected


def original(task: str, checkpoint: Path) -> Any:
    head = getattr(transformers, ARCHITECTURES["bert"].heads[PIPELINES[task]])
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return transformers.pipeline(task, model=head.from_pretrained(checkpoint), tokenizer=tokenizer, device="cpu")


def test_every_pipeline_is_one_that_transformers_has_or_dropped() -> None:
    registered = PIPELINE_REGISTRY.get_supported_tasks()
    assert set(PIPELINES) - {"question-answering"} <= set(registered)
    assert set(PIPELINES) == {*INPUTS, "question-answering"}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What transformers logs, which goes no further than its own handler."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return caplog


def real_tokens(task: str, tokenizer: Any, texts: list[str], answers: Any) -> Any:
    """Hidden states without those of padding: they mean nothing, and differ."""
    if task != "feature-extraction":
        return answers
    return [[answer[0][: len(tokenizer(text)["input_ids"])]] for text, answer in zip(texts, answers, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("task", INPUTS)
def test_a_pipeline_answers_as_it_does_with_the_original(
    made: Made, task: str, batch_size: int, logged: pytest.LogCaptureFixture
) -> None:
    checkpoint, artifact = made(PIPELINES[task])
    texts, options = INPUTS[task]
    model = NeuronAutoModel.from_pretrained(artifact)
    tokenizer = transformers.AutoTokenizer.from_pretrained(artifact)
    theirs = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    assert "not supported" not in logged.text
    assert type(model).__name__ in repr(theirs)
    found, expected, own = (
        real_tokens(task, tokenizer, texts, run(texts, batch_size=batch_size, **options))
        for run in (theirs, original(task, checkpoint), pipeline(task, artifact))
    )
    assert_same(found, expected)
    assert_same(own, expected)


def test_a_pipeline_runs_in_several_processes(made: Made) -> None:
    artifact = made("text-classification")[1]
    classify = pipeline("text-classification", artifact, workers=2)
    with classify.model.session as pool:
        assert isinstance(pool, Pool)
        assert_same(classify(TEXTS, batch_size=3), pipeline("text-classification", artifact)(TEXTS))
        assert sum(worker.calls for worker in pool.health()) > 0
    with pytest.raises(errors.InvalidOptionError, match=r"workers is 2.*loaded already"):
        pipeline("text-classification", classify.model, workers=2)


def test_transformers_names_models_that_it_doesnt_know(minilm: Path, logged: pytest.LogCaptureFixture) -> None:
    class Unknown(torch.nn.Module):
        config = transformers.AutoConfig.from_pretrained(minilm)
        device = torch.device("cpu")

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    transformers.pipeline("text-classification", model=Unknown(), tokenizer=tokenizer, device="cpu")
    assert "not supported" in logged.text


def test_long_texts_are_cut_where_the_programs_end_if_that_is_asked_for(made: Made) -> None:
    checkpoint, artifact = made("text-classification")
    classify = pipeline("text-classification", artifact)
    with pytest.raises(errors.SequenceTooLongError, match="compiled for up to 48"):
        classify(LONG)
    theirs = original("text-classification", checkpoint)
    assert_same(classify(LONG, truncation=True), theirs(LONG, truncation=True, max_length=48))


def test_windows_of_token_classification_are_as_long_as_the_programs(made: Made) -> None:
    checkpoint, artifact = made("token-classification")
    found = pipeline("ner", artifact, stride=8, aggregation_strategy="first")(LONG)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, model_max_length=48)
    model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint)
    options = {"stride": 8, "aggregation_strategy": "first", "device": "cpu"}
    assert_same(found, transformers.pipeline("ner", model=model, tokenizer=tokenizer, **options)(LONG))


def test_questions_are_answered_in_windows(made: Made) -> None:
    checkpoint, artifact = made("question-answering")
    answer = pipeline("question-answering", artifact)
    assert isinstance(answer, QuestionAnswering)
    short, long = {"question": "Who wrote?", "context": ADA}, {"question": "What was driven?", "context": LONG}
    found = answer([short, long])
    assert_same(found, [answer(**short), answer(long)])
    assert_same(found, answer(question=[short["question"], long["question"]], context=[ADA, LONG]))
    for row, reply in zip((short, long), found, strict=True):
        assert row["context"][reply["start"] : reply["end"]] == reply["answer"] != ""
    # The short one, by transformers' model and the definition: the likeliest pair of ends in the context.
    given = transformers.AutoTokenizer.from_pretrained(checkpoint)(*short.values(), return_tensors="pt")
    with torch.no_grad():
        ends = transformers.AutoModelForQuestionAnswering.from_pretrained(checkpoint)(**given)
    context = [index for index, part in enumerate(given.sequence_ids(0)) if part == 1]
    begin, stop = (torch.softmax(logits[0, context], 0) for logits in (ends.start_logits, ends.end_logits))
    pairs = torch.outer(begin, stop).triu()
    first, last = divmod(int(pairs.argmax()), len(context))
    span = given.token_to_chars(0, context[first]).start, given.token_to_chars(0, context[last]).end
    assert (found[0]["start"], found[0]["end"]) == span
    assert found[0]["score"] == pytest.approx(float(pairs.max()), rel=1e-4)


def test_windows_get_on_however_long_a_question_is(made: Made) -> None:
    answer = pipeline("question-answering", made("question-answering")[1], device="cpu")
    short, long = "Who wrote?", "who " * 33  # which leaves 12 tokens, as many as windows share otherwise
    found = answer(question=[short, long, short], context=LONG)
    assert_same(found, [answer(question=question, context=LONG) for question in (short, long, short)])
    assert found[0] == found[2] != found[1]
    with pytest.raises(errors.QuestionTooLongError, match=r"^Row 1: The question takes"):
        answer(question=[short, "who " * 60], context=LONG)
    with pytest.raises(errors.EmptyInputError):
        answer([])


@pytest.mark.parametrize("options", [{"top_k": 2}, {"batch_size": 8}, {"max_answer_len": 15}], ids=str)
def test_what_question_answering_doesnt_take_is_refused_by_name(made: Made, options: dict[str, Any]) -> None:
    artifact = made("question-answering")[1]
    with pytest.raises(errors.InvalidOptionError, match=next(iter(options))):
        pipeline("question-answering", artifact, **options)
    with pytest.raises(errors.InvalidOptionError, match=next(iter(options))):
        pipeline("question-answering", artifact)(question="Who?", context=ADA, **options)
    with pytest.raises(errors.InvalidOptionError, match='Pass device="cpu"'):
        pipeline("question-answering", artifact, device="meta")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"question": "Who?"}, "together with a context"),
        ({"question": ["Who?", "What?"], "context": [ADA]}, r"len\(context\) is 1; it must be 2"),
    ],
)
def test_questions_without_their_contexts_are_refused(made: Made, given: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.InvalidOptionError, match=said):
        pipeline("question-answering", made("question-answering")[1])(**given)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("fill-mask", "run it: text-classification, sentiment-analysis, zero-shot-classification"),
        ("summarization", "'summarization'"),
    ],
)
def test_a_pipeline_of_another_head_is_refused(made: Made, task: str, said: str) -> None:
    with pytest.raises(errors.WrongPipelineError, match=said):
        pipeline(task, made("text-classification")[1])


def test_a_head_without_a_pipeline_is_sent_to_predict(exported: Callable[..., Path]) -> None:
    with pytest.raises(errors.WrongPipelineError, match=r"use model\.predict"):
        pipeline("text-classification", exported("multiple-choice"))


def test_a_model_doesnt_leave_the_cpu(exported: Callable[..., Path]) -> None:
    model = NeuronAutoModel.from_pretrained(exported("fill-mask"))
    assert model.to("cpu") is model
    with pytest.raises(errors.InvalidOptionError, match='Pass device="cpu"'):
        pipeline("fill-mask", model, device="meta")


def test_arrays_go_in_and_come_out(made: Made) -> None:
    artifact = made("text-classification")[1]
    model = NeuronAutoModel.from_pretrained(artifact)
    tokenizer = transformers.AutoTokenizer.from_pretrained(artifact)
    logits = {kind: model(**tokenizer(TEXTS, padding=True, return_tensors=kind)).logits for kind in ("np", "pt")}
    assert type(logits["np"]) is np.ndarray
    assert logits["np"].dtype == np.float32
    np.testing.assert_array_equal(logits["np"], logits["pt"].numpy())
    with pytest.raises(errors.InputTypeError, match="list"):
        model(**tokenizer(TEXTS))


def test_columns_of_texts_are_answered_in_columns(made: Made) -> None:
    model = NeuronAutoModel.from_pretrained(made("text-classification")[1])
    batch = {"text": np.array(TEXTS), "idx": [0, 1, 2], "text_pair": [None, TEXTS[0], None]}
    found = model.predict_batch({**batch, "text": TEXTS})
    expected = model.predict([TEXTS[0], {"text": TEXTS[1], "text_pair": TEXTS[0]}, TEXTS[2]])
    assert list(found) == ["label", "score", "scores"]
    assert found["label"] == [reply["label"] for reply in expected]
    assert found["score"] == [reply["score"] for reply in expected]
    assert model.predict_batch(batch) == found
    with pytest.raises(errors.InvalidOptionError, match=r"column is 'label'.*rename_column\('label'"):
        model.predict_batch({**batch, "label": [0, 1, 0]})
    cut = model.predict_batch({"text": [LONG]}, truncate=True)
    assert cut["score"] == [model.predict([LONG], truncate=True)[0]["score"]]
