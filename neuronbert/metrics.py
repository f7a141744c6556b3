"""A task's own metric on labelled rows, of a program and of its reference.

Owns: reading labelled rows, and which metric belongs to which task. The metrics themselves are torchmetrics'.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert import answers
from neuronbert.errors import LabelledDataError, MissingFileError, MissingTextError
from neuronbert.report import TaskMetric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from neuronbert.answers import Row
    from neuronbert.manifest import Manifest

    Runner = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

_LABEL_FIELDS: Final[Mapping[str, str]] = {
    "feature-extraction": "score",
    "fill-mask": "label",
    "text-classification": "label",
    "token-classification": "entities",
    "question-answering": "answers",
    "multiple-choice": "label",
    "next-sentence-prediction": "label",
    "pre-training": "label",
    "text-generation": "label",
}


def read(path: Path, task: str) -> tuple[Row, ...]:
    """The labelled rows of a file, one JSON object a line.

    Raises:
        MissingFileError: there is no such file.
        LabelledDataError: a line isn't a row with a label for this task.
    """
    if not path.is_file():
        raise MissingFileError(path)
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LabelledDataError(path, number, "it is not JSON") from error
        if not isinstance(row, dict) or row.get(_LABEL_FIELDS[task]) is None:
            raise LabelledDataError(path, number, f"a row for {task} is an object with {_LABEL_FIELDS[task]!r}")
        rows.append(row)
    if not rows:
        raise LabelledDataError(path, 0, "it holds no rows")
    return tuple(rows)


def compare(
    rows: Sequence[Row],
    manifest: Manifest,
    config: Mapping[str, Any],
    tokenizer: Any,
    runners: tuple[Runner, Runner],
) -> tuple[TaskMetric, ...]:
    """The metrics of the task for both sides.

    Args:
        rows: Labelled rows.
        manifest: Of the artifact: its task and shapes.
        config: The model's config.json, for its labels.
        tokenizer: The artifact's.
        runners: The program and the reference: inputs by name to outputs by name.
    """
    program, reference = (_score(manifest.task, _answer(rows, manifest, config, tokenizer, run)) for run in runners)
    return tuple(
        TaskMetric(name=name, rows=len(rows), program=value, reference=reference[name])
        for name, value in program.items()
    )


def _answer(
    rows: Sequence[Row],
    manifest: Manifest,
    config: Mapping[str, Any],
    tokenizer: Any,
    run: Runner,
) -> list[tuple[Row, dict[str, Any]]]:
    length = max(shape.sequence_length for shape in manifest.shapes)
    options = {**answers.settings(config), "max_length": length, "top_k": 1}
    answered = []
    for row in rows:  # one by one: rows of a file may differ in choices, pairs and length
        if manifest.task == "feature-extraction":
            answered.append((row, {"similarity": _similarity(row, tokenizer, run, length)}))
            continue
        call = answers.encode(manifest.task, tokenizer, [row], **options)
        answered.append((row, answers.READERS[manifest.task].decode(call, run(call.inputs))[0]))
    return answered


def _similarity(row: Row, tokenizer: Any, run: Runner, length: int) -> float:
    if not isinstance(row.get("text_pair"), str):
        raise MissingTextError("text_pair", list(row))
    vectors = []
    for text in (row["text"], row["text_pair"]):
        call = answers.encode("feature-extraction", tokenizer, [{"text": text}], max_length=length)
        vectors.append(answers.embed(call, run(call.inputs))[0])
    return float(torch.cosine_similarity(vectors[0], vectors[1], dim=0))


def _score(task: str, answered: list[tuple[Row, dict[str, Any]]]) -> dict[str, float]:
    if task == "feature-extraction":
        return _rank([(float(row["score"]), answer["similarity"]) for row, answer in answered])
    if task == "question-answering":
        return _squad(answered)
    if task == "token-classification":
        return _entity_f1(answered)
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
        return bool(answer["is_next"]) == (label == 0)  # transformers' labels: 0 if the second text follows
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


def _entity_f1(answered: list[tuple[Row, dict[str, Any]]]) -> dict[str, float]:
    # An entity counts if its place and its label are right: the union of both sides is scored as right or wrong.
    true_positive = predicted = expected = 0
    for row, answer in answered:
        theirs = {(entity["start"], entity["end"], entity["label"]) for entity in row["entities"]}
        ours = {(entity["start"], entity["end"], entity["label"]) for entity in answer["entities"]}
        true_positive += len(theirs & ours)
        predicted += len(ours)
        expected += len(theirs)
    return {"f1": 2 * true_positive / max(1, predicted + expected)}
