"""How well something answers the tasks of Python's documentation.

Owns: `accuracy` and `scores`, of anything that is called as a transformers model is. Knows nothing of training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from topics_training import CLASSES
from torch.nn.functional import pad

from neuronbert import NeuronAutoModel, answers, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from topics_tasks import Dataset, Row
    from torch import Tensor

    Predict = Callable[..., Mapping[str, Tensor]]
    """Called as a transformers model is, with input_ids, attention_mask and token_type_ids by keyword."""

METRICS: Final = {"text-classification": "accuracy", "token-classification": "f1", "question-answering": "f1"}
"""The figure that `accuracy` gives: of labels, of whole marked stretches, of the words of answers."""
_BATCH: Final = 8


def load(dataset: Dataset, folder: Path) -> Predict:
    """What answers a task: a checkpoint as transformers runs it, or an artifact."""
    if (folder / "neuronbert.json").is_file():
        artifact: Predict = NeuronAutoModel.from_pretrained(str(folder))
        return artifact
    model: Predict = CLASSES[dataset.task].from_pretrained(folder).eval()
    return model


def scores(predict: Predict, dataset: Dataset, tokenizer: Any) -> dict[str, float]:
    """All figures of the task, on the rows that are held out; the same that `neuronbert validate --data` gives.

    Args:
        predict: What answers: a model, a quantized one or an artifact's. It is given int64 tensors of (8, length), with
            fewer rows at the end: rows are padded to the task's length, as in a program of that shape.
        dataset: The task.
        tokenizer: The checkpoint's.
    """
    labels = dict(enumerate(dataset.labels))
    answered: list[tuple[Row, dict[str, Any]]] = []
    for first in range(0, len(dataset.held_out), _BATCH):
        rows = dataset.held_out[first : first + _BATCH]
        call = answers.encode(dataset.task, tokenizer, rows, max_length=dataset.length, labels=labels)
        missing = dataset.length - call.inputs["input_ids"].shape[1]
        filling = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        inputs = {name: pad(value, (0, missing), value=filling.get(name, 0)) for name, value in call.inputs.items()}
        with torch.no_grad():
            outputs = predict(**inputs)
        answered += zip(rows, answers.decode(dataset.task, replace(call, inputs=inputs), outputs), strict=True)
    return metrics.score(dataset.task, answered)


def accuracy(predict: Predict, dataset: Dataset, tokenizer: Any) -> float:
    """The task's own figure, between 0 and 1, on the rows that are held out; see METRICS and `scores`."""
    return scores(predict, dataset, tokenizer)[METRICS[dataset.task]]
