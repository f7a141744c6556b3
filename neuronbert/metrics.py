"""A task's own metric on labelled rows, of a program and of its reference.

Owns: reading labelled rows, and which metric belongs to which task. The metrics themselves are torchmetrics'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neuronbert import answers, decoding, rows
from neuronbert.errors import DataFileError, TextError, first_line
from neuronbert.report import TaskMetric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from neuronbert.decoding import Call, Row
    from neuronbert.manifest import Manifest

    Runner = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class _Labelled(BaseModel):
    """A row's label; its texts are checked by the task's reader."""

    model_config = ConfigDict(strict=True)


class _Score(_Labelled):
    text_pair: str
    score: float


class _Token(_Labelled):
    label: str


class _Class(_Labelled):
    label: str | int | float


class _Choice(_Labelled):
    label: Annotated[int, Field(ge=0)]


class _Relation(_Labelled):
    label: Literal[0, 1]


class _Entity(_Labelled):
    start: int
    end: int
    label: str


class _Entities(_Labelled):
    entities: list[_Entity]


class _Span(_Labelled):
    start: int
    end: int


class _Replaced(_Labelled):
    replaced: list[_Span]


class _Answers(_Labelled):
    answers: Annotated[list[str], Field(min_length=1)]


_LABELLED: Final[Mapping[str, type[_Labelled]]] = {
    "feature-extraction": _Score,
    "fill-mask": _Token,
    "text-classification": _Class,
    "token-classification": _Entities,
    "question-answering": _Answers,
    "multiple-choice": _Choice,
    "next-sentence-prediction": _Relation,
    "pre-training": _Relation,
    "text-generation": _Token,
    "replaced-token-detection": _Replaced,
    "sentence-embedding": _Score,
}


_EMBEDDINGS: Final[Mapping[str, Callable[[Call, Mapping[str, Tensor]], Tensor]]] = {
    "feature-extraction": decoding.embed,
    "sentence-embedding": lambda _, outputs: outputs["sentence_embedding"],
}
"""The tasks that answer with a vector, and how it is had."""


def read(path: Path, manifest: Manifest, config: Mapping[str, Any]) -> tuple[Row, ...]:
    """The labelled rows of a file, checked before anything runs.

    Args:
        path: One JSON object a line.
        manifest: Of the artifact that they are for: its task and its number of labels.
        config: The model's config.json, for the names of its labels.

    Raises:
        MissingFileError: there is no such file.
        DataFileError: a line isn't a row with texts and a label for this task.
    """
    size = manifest.outputs[0].size or 0
    names = answers.settings(config)["labels"] or {index: f"LABEL_{index}" for index in range(size)}
    return tuple(_check(path, number, row, manifest.task, names) for number, row in rows.read(path))


def _check(path: Path, number: int, row: Row, task: str, names: Mapping[int, str]) -> Row:
    try:
        _LABELLED[task].model_validate(row)
        answers.check(task, row)
    except ValidationError as error:
        first = error.errors()[0]
        field = first["loc"][0] if first["loc"] else "row"
        raise DataFileError(path, number, f"{field} for {task}: {first['msg'].lower()}") from error
    except TextError as error:
        raise DataFileError(path, number, first_line(error)) from error
    if task != "text-classification" or len(names) < 2 or row["label"] in names.values():
        return row
    if row["label"] not in names:
        known = ", ".join(f"{index} or {name!r}" for index, name in sorted(names.items()))
        raise DataFileError(path, number, f"label is {row['label']!r}; the model's are {known}")
    return {**row, "label": names[row["label"]]}


def compare(
    labelled: Sequence[Row],
    manifest: Manifest,
    config: Mapping[str, Any],
    tokenizer: Any,
    runners: tuple[Runner, Runner],
) -> tuple[TaskMetric, ...]:
    """The metrics of the task for both sides.

    Args:
        labelled: Labelled rows.
        manifest: Of the artifact: its task and shapes.
        config: The model's config.json, for its labels.
        tokenizer: The artifact's.
        runners: The program and the reference: inputs by name to outputs by name.
    """
    program, reference = (score(manifest.task, _answer(labelled, manifest, config, tokenizer, run)) for run in runners)
    return tuple(
        TaskMetric(name=name, rows=len(labelled), program=value, reference=reference[name])
        for name, value in program.items()
    )


def _answer(
    labelled: Sequence[Row],
    manifest: Manifest,
    config: Mapping[str, Any],
    tokenizer: Any,
    run: Runner,
) -> list[tuple[Row, dict[str, Any]]]:
    length = max(shape.sequence_length for shape in manifest.shapes)
    options = {**answers.settings(config), "max_length": length, "top_k": 1}
    answered = []
    for row in labelled:  # one by one: rows of a file may differ in choices, pairs and length
        if manifest.task in _EMBEDDINGS:
            answered.append((row, {"similarity": _similarity(manifest.task, row, tokenizer, run, length)}))
            continue
        call = answers.encode(manifest.task, tokenizer, [row], **options)
        answered.append((row, answers.decode(manifest.task, call, run(call.inputs))[0]))
    return answered


def _similarity(task: str, row: Row, tokenizer: Any, run: Runner, length: int) -> float:
    vectors = []
    for text in (row["text"], row["text_pair"]):
        call = answers.encode(task, tokenizer, [{"text": text}], max_length=length)
        vectors.append(_EMBEDDINGS[task](call, run(call.inputs))[0])
    return float(torch.cosine_similarity(vectors[0], vectors[1], dim=0))


def score(task: str, answered: list[tuple[Row, dict[str, Any]]]) -> dict[str, float]:
    """The task's metrics, by name.

    Args:
        task: A canonical task name.
        answered: Labelled rows, each with the answer that it was given.
    """
    if task in _EMBEDDINGS:
        return _rank([(float(row["score"]), answer["similarity"]) for row, answer in answered])
    if task == "question-answering":
        return _squad(answered)
    if task == "token-classification":
        return _f1(answered, "entities", ("start", "end", "label"))
    if task == "replaced-token-detection":
        return _f1(answered, "replaced", ("start", "end"))
    if task == "text-classification" and "label" not in answered[0][1]:  # a regression head
        return _rank([(float(row["label"]), answer["score"]) for row, answer in answered])
    right = [_is_right(task, row["label"], answer) for row, answer in answered]
    return {"accuracy": sum(right) / len(right)}


def _is_right(task: str, label: object, answer: Mapping[str, Any]) -> bool:
    if task == "fill-mask":
        return bool(answer["masks"][0][0]["token"] == label)
    if task == "text-generation":
        return bool(answer["next"][0]["token"] == label)
    if task == "multiple-choice":
        return bool(answer["choice"] == label)
    if task in ("next-sentence-prediction", "pre-training"):
        return bool(answer.get("is_next", answer.get("in_order"))) == (
            label == 0
        )  # transformers' labels: 0 if the second text follows
    return bool(answer["label"] == label)


def _rank(pairs: list[tuple[float, float]]) -> dict[str, float]:
    from torchmetrics.functional.regression import spearman_corrcoef  # noqa: PLC0415  three seconds of imports

    expected, found = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return {"spearman": float(spearman_corrcoef(found, expected))}


def _squad(answered: list[tuple[Row, dict[str, Any]]]) -> dict[str, float]:
    from torchmetrics.functional.text import squad  # noqa: PLC0415  three seconds of imports

    predictions = [
        {"id": str(number), "prediction_text": answer["answer"]} for number, (_, answer) in enumerate(answered)
    ]
    targets = [
        {
            "id": str(number),
            "answers": {"text": list(map(str, row["answers"])), "answer_start": [0]},
        }
        for number, (row, _) in enumerate(answered)
    ]
    scores = squad(predictions, targets)
    return {"exact_match": float(scores["exact_match"]) / 100, "f1": float(scores["f1"]) / 100}


def _f1(answered: list[tuple[Row, dict[str, Any]]], what: str, fields: tuple[str, ...]) -> dict[str, float]:
    # An entity counts if its place and its label are right: the union of both sides is scored as right or wrong.
    true_positive = predicted = expected = 0
    for row, answer in answered:
        theirs, ours = ({tuple(found[name] for name in fields) for found in side[what]} for side in (row, answer))
        true_positive += len(theirs & ours)
        predicted += len(ours)
        expected += len(theirs)
    return {"f1": 2 * true_positive / max(1, predicted + expected)}
