"""The classes of what a call returns: transformers' own, and one that it hasn't.

Owns: which class a task's outputs go into. Knows nothing of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from transformers import modeling_outputs as output_classes
from transformers.models.albert import modeling_albert
from transformers.models.bert import modeling_bert
from transformers.models.electra import modeling_electra
from transformers.utils import ModelOutput

from neuronbert.architectures import find_architecture, find_form

if TYPE_CHECKING:
    from torch import Tensor

_PLACES: Final = (output_classes, modeling_bert, modeling_albert, modeling_electra)
"""Where transformers defines the classes of what a call returns."""


@dataclass
class SentenceEmbeddingOutput(ModelOutput):  # type: ignore[misc]  # transformers is untyped
    """What a sentence-transformers model gives.

    Attributes:
        token_embeddings: (batch, sequence, hidden).
        sentence_embedding: (batch, embedding).
    """

    token_embeddings: Tensor | None = None
    sentence_embedding: Tensor | None = None


def class_of(model_type: str, task: str) -> type[ModelOutput]:
    """The class of what a call returns.

    Args:
        model_type: The architecture's.
        task: One of the table.
    """
    return named(find_form(find_architecture(model_type), task).output_class)


def named(name: str) -> type[ModelOutput]:
    """The class of a name, as the table of architectures has it."""
    if name == SentenceEmbeddingOutput.__name__:  # the only one that isn't transformers'
        return SentenceEmbeddingOutput
    found: type[ModelOutput] = next(vars(place)[name] for place in _PLACES if name in vars(place))
    return found
