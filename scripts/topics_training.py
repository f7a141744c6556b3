"""Fine-tuning on the tasks of Python's documentation.

Owns: the recipes, the loop, and the folders that trained checkpoints are kept in. Knows nothing of how rows are made.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from topics_tasks import read

from neuronbert import answers, tokenization
from neuronbert.staging import staged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from topics_tasks import Dataset, Row
    from torch import Tensor, nn

NOTE: Final = "topics.json"
"""What lies beside a trained checkpoint: what it was trained on and how."""
CLASSES: Final[Mapping[str, Any]] = {
    "text-classification": transformers.BertForSequenceClassification,
    "token-classification": transformers.BertForTokenClassification,
    "question-answering": transformers.BertForQuestionAnswering,
}
_IGNORED: Final = -100
"""The label of a token that has none, in transformers' losses."""
_WARM_UP: Final = 0.1


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a checkpoint is trained.

    Attributes:
        steps: Of the optimizer.
        batch: Rows of a step.
        rate: The highest learning rate of the encoder.
        head: The head's, over the encoder's.
        before: A task whose checkpoint of the same seed it begins with, in place of the sample's.
    """

    steps: int
    batch: int = 16
    rate: float = 2e-4
    head: float = 10.0
    before: str = ""


RECIPES: Final[Mapping[str, Recipe]] = {
    "sections-128": Recipe(steps=80),
    "sections-384": Recipe(steps=30, batch=8, rate=1e-4, before="sections-128"),
    "markup-128": Recipe(steps=80),
    "entries-128": Recipe(steps=110),
}
"""Each takes about two minutes on two idle cores."""


def trained(name: str, seed: int, sample: Path, folder: Path) -> Path:
    """The folder of a checkpoint that was trained on a task: the one that is there, or a new one.

    Args:
        name: The task's name.
        seed: Of the head's first weights, the order of the rows and dropout: the same gives the same weights, on the
            same machine with as many threads.
        sample: The checkpoint that everything begins with.
        folder: Where trained ones are kept. One that was trained on other rows or otherwise is replaced.
    """
    recipe = RECIPES[name]
    start = trained(recipe.before, seed, sample, folder) if recipe.before else sample
    output = folder / f"{name}-seed{seed}"
    tokenizer = tokenization.require(sample)
    dataset = read(name, tokenizer)
    note = _note(dataset, seed, start)
    if (output / NOTE).is_file() and json.loads((output / NOTE).read_text(encoding="utf-8")) == note:
        return output
    with staged(output, owned=owned, overwrite=True) as new:
        fine_tune(begin(dataset, start, seed), tokenizer, dataset, recipe, seed).save_pretrained(new)
        tokenizer.save_pretrained(new)
        (new / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return output


def owned(folder: Path) -> set[str] | None:
    """The names in a folder that holds a trained checkpoint; None of another."""
    return {path.name for path in folder.iterdir()} if (folder / NOTE).is_file() else None


def _note(dataset: Dataset, seed: int, start: Path) -> dict[str, Any]:
    rows = hashlib.sha256(json.dumps(dataset.train, sort_keys=True).encode()).hexdigest()
    weights = hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()
    recipe = asdict(RECIPES[dataset.name])
    return {"task": dataset.name, "seed": seed, "rows": rows, "start": weights, "recipe": recipe}


def begin(dataset: Dataset, start: Path, seed: int) -> Any:
    """A model with the task's head, new where the checkpoint has none."""
    torch.manual_seed(seed)
    names = dict(enumerate(dataset.labels))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}} if names else {}
    return CLASSES[dataset.task].from_pretrained(start, **labels)


def fine_tune(model: Any, tokenizer: Any, dataset: Dataset, recipe: Recipe, seed: int) -> Any:
    """Train a model on a task's rows, in an order that the seed says; the word embeddings stay as they are."""
    torch.manual_seed(seed)
    model.train()
    optimizer = optimizer_of(model, recipe.rate, recipe.head)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(recipe.steps * _WARM_UP), recipe.steps)
    begun = time.perf_counter()
    for step, rows in enumerate(batches(dataset.train, recipe.steps, recipe.batch, seed), start=1):
        loss = model(**encode(dataset, tokenizer, rows)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        taken = time.perf_counter() - begun
        print(
            f"\r{dataset.name}, seed {seed}: step {step} of {recipe.steps}, loss {loss:.3f}, {taken:.0f} s",
            end="\n" if step == recipe.steps else "",
            file=sys.stderr,
            flush=True,
        )
    return model.eval()


def optimizer_of(model: Any, rate: float, head: float) -> torch.optim.Optimizer:
    """The optimizer of all weights but the word embeddings, which stay as they are.

    Args:
        model: The model; it is changed: its word embeddings take no gradient any more.
        rate: The highest learning rate of the encoder.
        head: The head's, over the encoder's.
    """
    model.base_model.embeddings.word_embeddings.requires_grad_(False)
    groups = [
        {"params": [p for p in model.base_model.parameters() if p.requires_grad], "lr": rate},
        {"params": list(_head(model).parameters()), "lr": rate * head},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.01)


def _head(model: Any) -> nn.Module:
    return model.qa_outputs if hasattr(model, "qa_outputs") else model.classifier


def batches(rows: Sequence[Row], steps: int, size: int, seed: int) -> Iterator[list[Row]]:
    """Rows for each step: every one once, in an order that the seed says, before any comes again."""
    chance = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            order += torch.randperm(len(rows), generator=chance).tolist()
        yield [rows[index] for index in order[:size]]
        del order[:size]


def encode(dataset: Dataset, tokenizer: Any, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows as transformers' models are trained with them: inputs padded to the longest row, and labels."""
    call = answers.encode(dataset.task, tokenizer, rows, max_length=dataset.length)
    width = call.inputs["input_ids"].shape[1]
    windows = [window for (window,) in call.items]
    if dataset.task == "text-classification":
        return {**call.inputs, "labels": torch.tensor([dataset.labels.index(row["label"]) for row in rows])}
    if dataset.task == "token-classification":
        labels = [
            piece_labels(row, window.take("offsets"), dataset.labels) for row, window in zip(rows, windows, strict=True)
        ]
        padded = [[*own, *[_IGNORED] * (width - len(own))] for own in labels]
        return {**call.inputs, "labels": torch.tensor(padded)}
    ends = [
        answer_ends(row, window.take("offsets"), window.take("sequence_ids"))
        for row, window in zip(rows, windows, strict=True)
    ]
    first, last = zip(*ends, strict=True)
    return {**call.inputs, "start_positions": torch.tensor(first), "end_positions": torch.tensor(last)}


def piece_labels(row: Row, offsets: Sequence[tuple[int, int]], labels: Sequence[str]) -> list[int]:
    """The label of each word piece of a text: the first of a marked stretch begins it. Special tokens have none."""
    found = []
    for start, end in offsets:
        if start == end:
            found.append(_IGNORED)
            continue
        around = [entity for entity in row["entities"] if entity["start"] <= start and end <= entity["end"]]
        name = f"{'B' if around[0]['start'] == start else 'I'}-{around[0]['label']}" if around else "O"
        found.append(labels.index(name))
    return found


def answer_ends(row: Row, offsets: Sequence[tuple[int, int]], sequences: Sequence[int | None]) -> tuple[int, int]:
    """The first and the last token of a row's answer."""
    begin_at = row["answer_start"]
    end_at = begin_at + len(row["answers"][0])
    inside = [
        index
        for index, ((start, end), sequence) in enumerate(zip(offsets, sequences, strict=True))
        if sequence == 1 and begin_at <= start and end <= end_at
    ]
    return inside[0], inside[-1]
