"""The tables of tasks and architectures: what goes in, what comes out, which class it is.

Owns: TASKS, and finding one's way in both tables. The rows of architectures are in families.py. Knows nothing of
transformers: classes are names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from neuronbert.errors import (
    TaskNotInferableError,
    UnknownTaskError,
    UnsupportedFeatureError,
    UnsupportedHeadError,
    UnsupportedModelError,
)
from neuronbert.families import REFUSED, ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neuronbert.families import Architecture

AnswerKind = Literal["embedding", "argmax", "span", "sign", "layers"]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a head.

    Attributes:
        name: Its field in transformers' output class.
        dims: The meaning of each dimension; "batch" and "sequence" ("choices") are sliced back to the caller's size.
        answer: How a row's answer is read off it: "embedding" (a vector at the last dimension), "argmax" (over the
            last dimension), "span" (over the sequence), "sign" (of each value), or "layers" (none: it tells how many
            layers a token has passed).
        needs: The submodule of the model that this output alone needs, or "".
    """

    name: str
    dims: tuple[str, ...]
    answer: AnswerKind
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        name: Its name.
        outputs: What its heads give, in order.
        output_class: transformers' class for them.
        trunk: The task whose class runs first, where the head itself is the checkpoint's own modules; or "".
    """

    name: str
    outputs: tuple[Output, ...]
    output_class: str
    trunk: str = ""


def _task(name: str, output_class: str, *outputs: Output) -> Task:
    return Task(name, outputs, output_class)


_LABELS = Output("logits", ("batch", "labels"), "argmax")
_TOKEN_LABELS = Output("logits", ("batch", "sequence", "labels"), "argmax")
_VOCABULARY = Output("logits", ("batch", "sequence", "vocabulary"), "argmax")
_MASKED = Output("prediction_logits", ("batch", "sequence", "vocabulary"), "argmax")
_HIDDEN = Output("last_hidden_state", ("batch", "sequence", "hidden"), "embedding")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _task(
            "feature-extraction",
            "BaseModelOutputWithPooling",
            _HIDDEN,
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
            _MASKED,
            Output("seq_relationship_logits", ("batch", "relation"), "argmax"),
        ),
        _task("text-generation", "CausalLMOutput", _VOCABULARY),
        _task(
            "replaced-token-detection",
            "ElectraForPreTrainingOutput",
            Output("logits", ("batch", "sequence"), "sign"),
        ),
        Task(
            "sentence-embedding",
            (
                Output("token_embeddings", ("batch", "sequence", "hidden"), "embedding"),
                Output("sentence_embedding", ("batch", "embedding"), "embedding"),
            ),
            "SentenceEmbeddingOutput",
            trunk="feature-extraction",
        ),
    )
}

FORMS: Mapping[str, Task] = {
    "hidden-states": _task("feature-extraction", "BaseModelOutput", _HIDDEN),
    "sentence-order": _task(
        "pre-training",
        "AlbertForPreTrainingOutput",
        _MASKED,
        Output("sop_logits", ("batch", "relation"), "argmax"),
    ),
}
"""What heads give that are of a task, but not like BERT's."""

ARCHITECTURES: Mapping[str, Architecture] = {row.model_type: row for row in ROWS}


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
        raise UnsupportedModelError(model_type, sorted(ARCHITECTURES), REFUSED.get(model_type, ""))
    return ARCHITECTURES[model_type]


def find_head(architecture: Architecture, task: str) -> str:
    """The name of the transformers class of this task's head.

    Raises:
        UnsupportedHeadError: the architecture has no such head.
    """
    held = TASKS[task].trunk or task if task in TASKS else task
    if held not in architecture.heads:
        raise UnsupportedHeadError(task, architecture.model_type, sorted(architecture.heads))
    return architecture.heads[held]


def find_form(architecture: Architecture, task: str) -> Task:
    """The task as the architecture's head has it: its own outputs, where they aren't BERT's.

    Raises:
        UnknownTaskError: there is no such task.
    """
    form = architecture.forms.get(task)
    return FORMS[form] if form else find_task(task)


def infer_task(architecture: Architecture, class_names: Sequence[str]) -> str:
    """The task of the first class in `config.architectures` that the table knows.

    Raises:
        TaskNotInferableError: it knows none of them.
        UnsupportedFeatureError: one of them is a head that can't be exported.
    """
    tasks = {head: task for task, head in architecture.heads.items()}
    for name in class_names:
        if name in architecture.refused:
            raise UnsupportedFeatureError("architectures", name, architecture.refused[name])
        if name in tasks:
            return tasks[name]
    raise TaskNotInferableError(class_names, sorted(architecture.heads))
