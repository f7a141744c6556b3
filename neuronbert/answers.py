"""Rows of text to a program's inputs, and its outputs to answers; one reader for each task.

Owns: READERS. A row is a mapping as it stands in a JSON Lines file. Knows nothing of programs or artifacts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import (
    EmptyInputError,
    EmptyTextError,
    InvalidTextError,
    MissingTextError,
    NoMaskError,
    QuestionTooLongError,
    UnevenRowsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    Row = Mapping[str, Any]
    Reply = dict[str, Any]

_ROWS: Final = "The list of texts"
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


@dataclass(frozen=True, slots=True)
class Reader:
    """How one task reads a row and words an answer.

    Attributes:
        fields: What a row must have: the names of texts.
        decode: A call and its outputs to an answer for each row.
        optional: A second text that a row may have.
        many: The field that holds several texts, for multiple choice.
    """

    fields: tuple[str, ...]
    decode: Callable[[Call, Mapping[str, Tensor]], list[Reply]]
    optional: str = ""
    many: str = ""


def encode(task: str, tokenizer: Any, rows: Sequence[Row], **options: Any) -> Call:
    """Tokenize rows for a task, padded to the longest.

    Args:
        task: A canonical task name.
        tokenizer: A fast tokenizer.
        rows: What to answer.
        options: `max_length` truncates; the rest as in Call.

    Raises:
        TextError: a row lacks a text, or has an empty one.
    """
    if not rows:
        raise EmptyInputError(_ROWS)
    reader = READERS[task]
    for row in rows:
        check(task, row)
    firsts, seconds = _texts(reader, rows)
    truncation = _truncation(task, tokenizer, firsts, options.pop("max_length", None))
    encoding = tokenizer(
        firsts,
        seconds,
        padding=True,
        return_tensors="pt",
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # a text that is too long is the program's to refuse
        **truncation,
    )
    for index in range(len(firsts)):
        found = set(encoding.sequence_ids(index))
        for place, name in enumerate(("text", "second text")[: 1 + (seconds is not None)]):
            if place not in found:  # white space of a kind that the tokenizer drops
                raise EmptyTextError(name)
    inputs = {name: encoding[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoding}
    if reader.many:
        inputs = {name: tensor.view(len(rows), -1, tensor.shape[-1]) for name, tensor in inputs.items()}
    return Call(rows, encoding, inputs, tokenizer, **options)


def _truncation(task: str, tokenizer: Any, firsts: list[str], max_length: int | None) -> dict[str, Any]:
    if max_length is None:
        return {}
    if task != "question-answering":
        return {"truncation": "longest_first", "max_length": max_length}
    for question in firsts:
        taken = len(tokenizer(question)["input_ids"]) + 1  # and the separator after the context
        if taken >= max_length:
            raise QuestionTooLongError(taken, max_length)
    return {"truncation": "only_second", "max_length": max_length}


def check(task: str, row: Row) -> None:
    """Refuse a row that lacks a text that the task takes, or has one that can't be tokenized.

    Raises:
        TextError: it says which.
    """
    reader = READERS[task]
    second = [reader.optional] if reader.optional and row.get(reader.optional) is not None else []
    for name in (*reader.fields, *second):
        if not isinstance(row.get(name), str):
            raise MissingTextError(name, list(row))
        _check_text(name, row[name])
    if reader.many:
        texts = row.get(reader.many)
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise MissingTextError(reader.many, list(row))
        for text in texts:
            _check_text(reader.many, text)


def _check_text(name: str, text: str) -> None:
    if not text.strip():
        raise EmptyTextError(name)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(name) from error


def _texts(reader: Reader, rows: Sequence[Row]) -> tuple[list[str], list[str] | None]:
    if reader.many:
        if len({len(row[reader.many]) for row in rows}) > 1:
            raise UnevenRowsError(reader.many)
        firsts = [row[reader.fields[0]] for row in rows for _ in row[reader.many]]
        return firsts, [text for row in rows for text in row[reader.many]]
    firsts = [row[reader.fields[0]] for row in rows]
    name = reader.fields[1] if len(reader.fields) > 1 else reader.optional
    seconds = [row[name] for row in rows if name and row.get(name) is not None]
    if seconds and len(seconds) < len(rows):
        raise UnevenRowsError(name)
    return firsts, seconds or None


def embed(call: Call, outputs: Mapping[str, Tensor]) -> Tensor:
    """Mean of the last hidden states over real tokens: (batch, hidden)."""
    mask = call.inputs["attention_mask"].unsqueeze(-1).float()
    hidden = outputs["last_hidden_state"]
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def _decode_embedding(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
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


def _decode_fill_mask(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    masks = _decode_masks(call, outputs["logits"])
    if not all(masks):
        raise NoMaskError(call.tokenizer.mask_token)
    return [{"masks": found} for found in masks]


def _decode_label(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
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


def _decode_tokens(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
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


def _decode_span(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
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


def _decode_choice(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
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


def _decode_next(_call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    return _next(outputs["logits"])


def _decode_pre_training(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    masks = _decode_masks(call, outputs["prediction_logits"])
    follows = _next(outputs["seq_relationship_logits"])
    return [{**answer, "masks": found} for answer, found in zip(follows, masks, strict=True)]


def _decode_generation(call: Call, outputs: Mapping[str, Tensor]) -> list[Reply]:
    # A tokenizer of BERT's ends a text with a special token, so the last token of the text itself is asked.
    special = call.encoding["special_tokens_mask"].bool()
    answers = []
    for index in range(len(call.rows)):
        last = int((~special[index]).nonzero().flatten()[-1])
        answers.append({"next": _candidates(call, outputs["logits"][index, last])})
    return answers


READERS: Final[Mapping[str, Reader]] = {
    "feature-extraction": Reader(("text",), _decode_embedding, optional="text_pair"),
    "fill-mask": Reader(("text",), _decode_fill_mask),
    "text-classification": Reader(("text",), _decode_label, optional="text_pair"),
    "token-classification": Reader(("text",), _decode_tokens),
    "question-answering": Reader(("question", "context"), _decode_span),
    "multiple-choice": Reader(("text",), _decode_choice, many="choices"),
    "next-sentence-prediction": Reader(("text", "text_pair"), _decode_next),
    "pre-training": Reader(("text", "text_pair"), _decode_pre_training),
    "text-generation": Reader(("text",), _decode_generation),
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config.json decides how answers are worded: the options of `encode`."""
    names = config.get("id2label")
    named = names.items() if isinstance(names, dict) else ()
    return {
        "labels": {int(index): str(name) for index, name in named if str(index).isdecimal()},
        "independent": config.get("problem_type") == "multi_label_classification",
    }
