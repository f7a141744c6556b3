"""A row for each task, and what the tokenizer makes of one."""

from __future__ import annotations

from typing import Any

from neuronbert.answers import encode

Row = dict[str, Any]

ROWS: dict[str, Row] = {
    "feature-extraction": {"text": "Hello world."},
    "fill-mask": {"text": "Paris is the [MASK] of France."},
    "text-classification": {"text": "Fine.", "text_pair": "Good."},
    "token-classification": {"text": "Ada lives in Lisbon."},
    "question-answering": {"question": "Who lives there?", "context": "Ada lives in Lisbon."},
    "multiple-choice": {"text": "The sky is", "choices": ["blue", "a fish"]},
    "next-sentence-prediction": {"text": "First.", "text_pair": "Second."},
    "pre-training": {"text": "First [MASK].", "text_pair": "Second."},
    "text-generation": {"text": "Once upon"},
    "replaced-token-detection": {"text": "The chef ate the meal."},
    "sentence-embedding": {"text": "Hello world."},
}


def tokens_of(tokenizer: Any, task: str, row: Row) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(encode(task, tokenizer, [row]).inputs["input_ids"].view(-1).tolist()))
