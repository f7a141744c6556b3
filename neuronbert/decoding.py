"""A program's outputs to answers, task by task.

Owns: Call, and a function for each task from it and the outputs to a reply for each row. Knows nothing of programs,
artifacts or how texts were tokenized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import NoMaskError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    Row = Mapping[str, Any]
    Reply = dict[str, Any]

MAX_ANSWER_TOKENS: Final = 30
"""The longest answer looked for in question answering."""


@dataclass(frozen=True, slots=True)
class Call:
    """Rows as one call.

    Attributes:
        rows: The rows.
        encoding: What the tokenizer made of them, with offsets.
        inputs: Its tensors, as programs take them.
        tokenizer: The tokenizer.
        labels: Names of the labels by index, from the config.
        independent: Whether labels exclude each other or not (multi-label classification).
        top_k: How many candidates to give where there are many.
    """

    rows: Sequence[Row]
    encoding: Any
    inputs: dict[str, Tensor]
    tokenizer: Any
    labels: Mapping[int, str] = field(default_factory=dict)
    independent: bool = False
    top_k: int = 5

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return int(self.inputs["input_ids"].shape[-1])


def embed(call: Call, outputs: Mapping[str, Tensor]) -> Tensor:
    """Mean of the last hidden states over real tokens: (batch, hidden)."""
    mask = call.inputs["attention_mask"].unsqueeze(-1).float()
    hidden = outputs["last_hidden_state"]
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def decode_sentence(_call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The vectors that the program gives itself."""
    return [{"embedding": vector.tolist()} for vector in outputs["sentence_embedding"]]


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
    masks = _decode_masks(call, outputs["logits"])
    if not all(masks):
        raise NoMaskError(call.tokenizer.mask_token)
    return [{"masks": found} for found in masks]


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


@dataclass(frozen=True, slots=True)
class _Piece:
    """A word piece of a text: where it stands, which word it is of, and what it was labelled."""

    start: int
    end: int
    word: int | None
    label: str
    score: float


def _label_pieces(call: Call, outputs: Mapping[str, Tensor], row: int) -> list[_Piece]:
    scores = torch.softmax(outputs["logits"][row], dim=-1)
    offsets = call.encoding["offset_mapping"][row].tolist()
    words = call.encoding.word_ids(row)
    found = []
    for place, (start, end) in enumerate(offsets):
        if words[place] is not None and end > start:
            best = int(scores[place].argmax())
            label = call.labels.get(best, f"LABEL_{best}")
            found.append(_Piece(start, end, words[place], label, float(scores[place, best])))
    return found


def decode_tokens(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The entities: neighbouring pieces of one label."""
    return [
        {"entities": _group(str(row["text"]), _label_pieces(call, outputs, index))}
        for index, row in enumerate(call.rows)
    ]


def _group(text: str, pieces: list[_Piece]) -> list[Reply]:
    # Neighbouring pieces of one kind are one entity; B- begins another, unless it stands inside a word.
    groups: list[dict[str, Any]] = []
    for piece in pieces:
        kind = piece.label[2:] if piece.label[:2] in ("B-", "I-") else piece.label
        if kind == "O":
            continue
        last = groups[-1] if groups else None
        if last is not None and _goes_on(last, piece, kind, text):
            last.update(end=piece.end, word=piece.word)
            last["scores"].append(piece.score)
        else:
            found = {"label": kind, "start": piece.start, "end": piece.end, "word": piece.word}
            groups.append({**found, "scores": [piece.score]})
    return [
        {
            "label": group["label"],
            "text": text[group["start"] : group["end"]],
            "start": group["start"],
            "end": group["end"],
            "score": sum(group["scores"]) / len(group["scores"]),
        }
        for group in groups
    ]


def _goes_on(last: Reply, piece: _Piece, kind: str, text: str) -> bool:
    if last["label"] != kind or text[last["end"] : piece.start].strip():
        return False
    return piece.word == last["word"] or not piece.label.startswith("B-")


def decode_span(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The likeliest span of the context."""
    answers = []
    for index, row in enumerate(call.rows):
        context = torch.tensor([sequence == 1 for sequence in call.encoding.sequence_ids(index)])
        hidden = torch.finfo(torch.float32).min
        start = outputs["start_logits"][index].masked_fill(~context, hidden).log_softmax(-1)
        end = outputs["end_logits"][index].masked_fill(~context, hidden).log_softmax(-1)
        pairs = (start[:, None] + end[None, :]).masked_fill(
            ~torch.ones(len(start), len(end), dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1),
            hidden,
        )
        first, last = divmod(int(pairs.argmax()), len(end))
        offsets = call.encoding["offset_mapping"][index].tolist()
        begin, stop = offsets[first][0], offsets[last][1]
        answers.append(
            {
                "answer": str(row["context"])[begin:stop],
                "start": begin,
                "end": stop,
                "score": float(pairs[first, last].exp()),
            }
        )
    return answers


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


def _order(logits: Tensor) -> list[Reply]:
    # ALBERT's first label means that both texts stand in their own order.
    return [{"in_order": bool(row[0] >= row[1]), "score": float(row[0])} for row in torch.softmax(logits, dim=-1)]


def decode_next(_call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """Whether the second text follows the first."""
    return _next(outputs["logits"])


def decode_pre_training(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """Both: the masks' tokens, and whether the second text follows, or for ALBERT which text comes first."""
    masks = _decode_masks(call, outputs["prediction_logits"])
    order = outputs.get("sop_logits")
    follows = _next(outputs["seq_relationship_logits"]) if order is None else _order(order)
    return [{**answer, "masks": found} for answer, found in zip(follows, masks, strict=True)]


def decode_replaced(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The tokens that don't belong into their text, by ELECTRA's discriminator."""
    answers = []
    for index, row in enumerate(call.rows):
        places = zip(call.encoding["offset_mapping"][index].tolist(), outputs["logits"][index].tolist(), strict=True)
        found = [(start, end, score) for (start, end), score in places if end > start and score > 0]
        answers.append({"replaced": [_span(str(row["text"]), *token) for token in found]})
    return answers


def _span(text: str, start: int, end: int, logit: float) -> Reply:
    score = float(torch.sigmoid(torch.tensor(logit)))
    return {"text": text[start:end], "start": start, "end": end, "score": score}


def decode_generation(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    """The likeliest next tokens."""
    # A tokenizer of BERT's ends a text with a special token, so the last token of the text itself is asked.
    special = call.encoding["special_tokens_mask"].bool()
    answers = []
    for index in range(len(call.rows)):
        last = int((~special[index]).nonzero().flatten()[-1])
        answers.append({"next": _candidates(call, outputs["logits"][index, last])})
    return answers
