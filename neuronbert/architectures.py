"""The tables of tasks and architectures: what goes in, what comes out, which class it is.

Owns: TASKS and ARCHITECTURES. A new architecture is a row here. Knows nothing of transformers: classes are names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from neuronbert.errors import (
    TaskNotInferableError,
    UnknownTaskError,
    UnsupportedHeadError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


AnswerKind = Literal["embedding", "argmax", "span"]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a head.

    Attributes:
        name: Its field in transformers' output class.
        dims: The meaning of each dimension; "batch" and "sequence" ("choices") are sliced back to the caller's size.
        answer: How a row's answer is read off it: "embedding" (a vector at the last dimension), "argmax" (over the
            last dimension), or "span" (over the sequence).
        needs: The submodule of the model that this output alone needs, or "".
    """

    name: str
    dims: tuple[str, ...]
    answer: AnswerKind
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its outputs in order, and transformers' class for them."""

    name: str
    outputs: tuple[Output, ...]
    output_class: str


def _task(name: str, output_class: str, *outputs: Output) -> Task:
    return Task(name, outputs, output_class)


_LABELS = Output("logits", ("batch", "labels"), "argmax")
_TOKEN_LABELS = Output("logits", ("batch", "sequence", "labels"), "argmax")
_VOCABULARY = Output("logits", ("batch", "sequence", "vocabulary"), "argmax")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _task(
            "feature-extraction",
            "BaseModelOutputWithPooling",
            Output("last_hidden_state", ("batch", "sequence", "hidden"), "embedding"),
            Output("pooler_output", ("batch", "hidden"), "embedding", needs="pooler"),
        ),
        _task("fill-mask", "MaskedLMOutput", _VOCABULARY),
        _task("text-classification", "SequenceClassifierOutput", _LABELS),
        _task("token-classification", "TokenClassifierOutput", _TOKEN_LABELS),
        _task(
            "question-answering",
            "QuestionAnsweringModelOutput",
            Output("start_logits", ("batch", "sequence"), "span"),
            Output("end_logits", ("batch", "sequence"), "span"),
        ),
        _task(
            "multiple-choice",
            "MultipleChoiceModelOutput",
            Output("logits", ("batch", "choices"), "argmax"),
        ),
        _task(
            "next-sentence-prediction",
            "NextSentencePredictorOutput",
            Output("logits", ("batch", "relation"), "argmax"),
        ),
        _task(
            "pre-training",
            "BertForPreTrainingOutput",
            Output("prediction_logits", ("batch", "sequence", "vocabulary"), "argmax"),
            Output("seq_relationship_logits", ("batch", "relation"), "argmax"),
        ),
        _task("text-generation", "CausalLMOutput", _VOCABULARY),
    )
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model type.

    Attributes:
        model_type: `config.model_type`.
        inputs: What its programs take, in order.
        heads: Task name to the name of the transformers class that has the head.
        position_offset: Positions that the embedding table keeps for padding (0 for BERT).
        attention: transformers' attention that programs are traced with: its fused one, where the model has it.
    """

    model_type: str
    inputs: tuple[str, ...]
    heads: Mapping[str, str]
    position_offset: int = 0
    attention: Literal["sdpa", "eager"] = "sdpa"


ARCHITECTURES: Mapping[str, Architecture] = {
    row.model_type: row
    for row in (
        Architecture(
            "bert",
            ("input_ids", "attention_mask", "token_type_ids"),
            {
                "feature-extraction": "BertModel",
                "fill-mask": "BertForMaskedLM",
                "text-classification": "BertForSequenceClassification",
                "token-classification": "BertForTokenClassification",
                "question-answering": "BertForQuestionAnswering",
                "multiple-choice": "BertForMultipleChoice",
                "next-sentence-prediction": "BertForNextSentencePrediction",
                "pre-training": "BertForPreTraining",
                "text-generation": "BertLMHeadModel",
            },
        ),
        Architecture(
            "megatron-bert",
            ("input_ids", "attention_mask", "token_type_ids"),
            {
                "feature-extraction": "MegatronBertModel",
                "fill-mask": "MegatronBertForMaskedLM",
                "text-classification": "MegatronBertForSequenceClassification",
                "token-classification": "MegatronBertForTokenClassification",
                "question-answering": "MegatronBertForQuestionAnswering",
                "multiple-choice": "MegatronBertForMultipleChoice",
                "next-sentence-prediction": "MegatronBertForNextSentencePrediction",
                "pre-training": "MegatronBertForPreTraining",
                "text-generation": "MegatronBertForCausalLM",
            },
            attention="eager",
        ),
    )
}


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UnknownTaskError: no task has it.
    """
    if name not in TASKS:
        raise UnknownTaskError(name, sorted(TASKS))
    return TASKS[name]


def find_architecture(model_type: str) -> Architecture:
    """The row for a `config.model_type`.

    Raises:
        UnsupportedModelError: there is none.
    """
    if model_type not in ARCHITECTURES:
        raise UnsupportedModelError(model_type, sorted(ARCHITECTURES))
    return ARCHITECTURES[model_type]


def find_head(architecture: Architecture, task: str) -> str:
    """The name of the transformers class of this task's head.

    Raises:
        UnsupportedHeadError: the architecture has no such head.
    """
    if task not in architecture.heads:
        raise UnsupportedHeadError(task, architecture.model_type, sorted(architecture.heads))
    return architecture.heads[task]


def infer_task(architecture: Architecture, class_names: Sequence[str]) -> str:
    """The task of the first class in `config.architectures` that the table knows.

    Raises:
        TaskNotInferableError: it knows none of them.
    """
    tasks = {head: task for task, head in architecture.heads.items()}
    for name in class_names:
        if name in tasks:
            return tasks[name]
    raise TaskNotInferableError(class_names, sorted(architecture.heads))
