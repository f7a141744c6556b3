"""A program's outputs to answers, task by task.

Owns: Call, and a function for each task from it and the outputs to a reply for each row; those whose answers are
stretches of a text are in `spans`. Knows nothing of programs, artifacts or how texts were tokenized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from neuronbert.windows import Window

    Row = Mapping[str, Any]
    Reply = dict[str, Any]
    Item = tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """Rows as one call.

    Attributes:
        rows: The rows; one that was cut into windows stands there for each of them.
        items: The windows that each is tokenized to: one, or for multiple choice one for each choice.
        inputs: Their tensors, as programs take them.
        tokenizer: The tokenizer.
        labels: Names of the labels by index, from the config.
        independent: Whether labels exclude each other or not (multi-label classification).
        top_k: How many candidates to give where there are many.
    """

    rows: Sequence[Row]
    items: Sequence[Item]
    inputs: dict[str, Tensor]
    tokenizer: Any
    labels: Mapping[int, str] = field(default_factory=dict)
    independent: bool = False
    top_k: int = 5


def embed(call: Call, outputs: Mapping[str, Tensor]) -> Tensor:
    """Mean of the last hidden states over real tokens: (batch, hidden)."""
    mask = call.inputs["attention_mask"].unsqueeze(-1).float()
    hidden = outputs["last_hidden_state"]
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def decode_embedding(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The mean of the real tokens' last hidden states."""
    return [{"embedding": vector.tolist()} for vector in embed(call, outputs)]


def _candidates(call: Call, logits: Tensor) -> list[Reply]:
    top = torch.softmax(logits, dim=-1).topk(min(call.top_k, logits.shape[-1]))
    return [
        {"token": call.tokenizer.decode([index]).strip(), "score": score}
        for index, score in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _decode_masks(call: Call, logits: Tensor) -> list[list[list[Reply]]]:
    masked = call.inputs["input_ids"] == call.tokenizer.mask_token_id
    return [
        [_candidates(call, logits[row, place]) for place in masked[row].nonzero().flatten().tolist()]
        for row in range(len(call.rows))
    ]


def decode_fill_mask(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The likeliest tokens for each mask."""
    return [{"masks": found} for found in _decode_masks(call, outputs["logits"])]


def decode_label(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The likeliest label, and the score of each; the value itself for a regression head."""
    logits = outputs["logits"]
    if logits.shape[-1] == 1:  # a regression head: its value is the answer
        return [{"score": float(value)} for value in logits[:, 0]]
    scores = torch.sigmoid(logits) if call.independent else torch.softmax(logits, dim=-1)
    return [
        {
            "label": call.labels.get(int(row.argmax()), f"LABEL_{int(row.argmax())}"),
            "score": float(row.max()),
            "scores": {call.labels.get(i, f"LABEL_{i}"): float(value) for i, value in enumerate(row)},
        }
        for row in scores
    ]


def decode_choice(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The likeliest choice."""
    scores = torch.softmax(outputs["logits"], dim=-1)
    return [
        {
            "choice": int(row.argmax()),
            "text": call.rows[index]["choices"][int(row.argmax())],
            "scores": row.tolist(),
        }
        for index, row in enumerate(scores)
    ]


def _next(logits: Tensor) -> list[Reply]:
    # BERT's first label means that the second text follows the first.
    return [{"is_next": bool(row[0] >= row[1]), "score": float(row[0])} for row in torch.softmax(logits, dim=-1)]


def decode_next(_call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """Whether the second text follows the first."""
    return _next(outputs["logits"])


def decode_pre_training(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """Both: the masks' tokens, and whether the second text follows."""
    masks = _decode_masks(call, outputs["prediction_logits"])
    follows = _next(outputs["seq_relationship_logits"])
    return [{**answer, "masks": found} for answer, found in zip(follows, masks, strict=True)]


def decode_generation(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The likeliest next tokens."""
    # A tokenizer of BERT's ends a text with a special token, so the last token of the text itself is asked.
    answers = []
    for index, (window,) in enumerate(call.items):
        special = window.take("special_tokens_mask")
        last = max(place for place, mark in enumerate(special) if not mark)
        answers.append({"next": _candidates(call, outputs["logits"][index, last])})
    return answers
