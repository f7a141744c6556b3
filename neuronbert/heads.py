"""One class for each head, and the auto class that picks one.

Owns: the names that users import. Everything they do is NeuronTracedModel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from neuronbert import hub, sources
from neuronbert.architectures import ARCHITECTURES
from neuronbert.artifact import Artifact
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import InvalidOptionError
from neuronbert.models import NeuronTracedModel

if TYPE_CHECKING:
    import os

T = TypeVar("T", bound=NeuronTracedModel)


class NeuronModelForFeatureExtraction(NeuronTracedModel):
    """Hidden states: last_hidden_state (batch, sequence, hidden) and pooler_output (batch, hidden)."""

    task = "feature-extraction"


class NeuronModelForMaskedLM(NeuronTracedModel):
    """Masked language modelling: logits (batch, sequence, vocabulary)."""

    task = "fill-mask"


class NeuronModelForSequenceClassification(NeuronTracedModel):
    """Sequence classification or regression: logits (batch, labels)."""

    task = "text-classification"


class NeuronModelForTokenClassification(NeuronTracedModel):
    """Token classification: logits (batch, sequence, labels)."""

    task = "token-classification"


class NeuronModelForQuestionAnswering(NeuronTracedModel):
    """Extractive question answering: start_logits and end_logits (batch, sequence)."""

    task = "question-answering"


class NeuronModelForMultipleChoice(NeuronTracedModel):
    """Multiple choice, inputs (batch, choices, sequence): logits (batch, choices)."""

    task = "multiple-choice"


class NeuronModelForNextSentencePrediction(NeuronTracedModel):
    """Next sentence prediction: logits (batch, 2); the first means that the second text follows."""

    task = "next-sentence-prediction"


class NeuronModelForPreTraining(NeuronTracedModel):
    """Both pre-training heads: prediction_logits (batch, sequence, vocabulary), seq_relationship_logits (batch, 2)."""

    task = "pre-training"


class NeuronModelForCausalLM(NeuronTracedModel):
    """Causal language modelling without a cache: logits (batch, sequence, vocabulary)."""

    task = "text-generation"


class NeuronModelForReplacedTokenDetection(NeuronTracedModel):
    """ELECTRA's discriminator: logits (batch, sequence); above 0 for a token that doesn't belong there."""

    task = "replaced-token-detection"


class NeuronSentenceTransformers(NeuronTracedModel):
    """A sentence-transformers model: token_embeddings (batch, sequence, hidden), sentence_embedding (batch, size)."""

    task = "sentence-embedding"


class NeuronBertModel(NeuronModelForFeatureExtraction):
    """BERT's hidden states: last_hidden_state (batch, sequence, hidden) and pooler_output (batch, hidden)."""

    model_type = "bert"


class NeuronBertForMaskedLM(NeuronModelForMaskedLM):
    """BERT with its masked language modelling head: logits (batch, sequence, vocabulary)."""

    model_type = "bert"


class NeuronBertForSequenceClassification(NeuronModelForSequenceClassification):
    """BERT with a sequence classification or regression head: logits (batch, labels)."""

    model_type = "bert"


class NeuronBertForTokenClassification(NeuronModelForTokenClassification):
    """BERT with a token classification head: logits (batch, sequence, labels)."""

    model_type = "bert"


class NeuronBertForQuestionAnswering(NeuronModelForQuestionAnswering):
    """BERT with a span head: start_logits and end_logits (batch, sequence)."""

    model_type = "bert"


class NeuronBertForMultipleChoice(NeuronModelForMultipleChoice):
    """BERT with a multiple choice head, inputs (batch, choices, sequence): logits (batch, choices)."""

    model_type = "bert"


class NeuronBertForNextSentencePrediction(NeuronModelForNextSentencePrediction):
    """BERT with its next sentence head: logits (batch, 2); the first means that the second text follows."""

    model_type = "bert"


class NeuronBertForPreTraining(NeuronModelForPreTraining):
    """BERT with both heads: prediction_logits (batch, sequence, vocabulary), seq_relationship_logits (batch, 2)."""

    model_type = "bert"


class NeuronBertLMHeadModel(NeuronModelForCausalLM):
    """BERT as a causal language model without a cache: logits (batch, sequence, vocabulary)."""

    model_type = "bert"


def _own(model_type: str, neutral: type[T]) -> type[T]:
    """The class of an architecture's head, named after transformers' class for it."""
    name = f"Neuron{ARCHITECTURES[model_type].heads[str(neutral.task)]}"
    doc = f"{model_type}: {neutral.__doc__}"
    return type(name, (neutral,), {"model_type": model_type, "__module__": __name__, "__doc__": doc})


NeuronMegatronBertModel = _own("megatron-bert", NeuronModelForFeatureExtraction)
NeuronMegatronBertForMaskedLM = _own("megatron-bert", NeuronModelForMaskedLM)
NeuronMegatronBertForSequenceClassification = _own("megatron-bert", NeuronModelForSequenceClassification)
NeuronMegatronBertForTokenClassification = _own("megatron-bert", NeuronModelForTokenClassification)
NeuronMegatronBertForQuestionAnswering = _own("megatron-bert", NeuronModelForQuestionAnswering)
NeuronMegatronBertForMultipleChoice = _own("megatron-bert", NeuronModelForMultipleChoice)
NeuronMegatronBertForNextSentencePrediction = _own("megatron-bert", NeuronModelForNextSentencePrediction)
NeuronMegatronBertForPreTraining = _own("megatron-bert", NeuronModelForPreTraining)
NeuronMegatronBertForCausalLM = _own("megatron-bert", NeuronModelForCausalLM)


_BY_TASK: dict[str | None, type[NeuronTracedModel]] = {head.task: head for head in NeuronTracedModel.__subclasses__()}
_BY_BOTH: dict[tuple[str | None, str | None], type[NeuronTracedModel]] = {
    (head.model_type, head.task): head for row in _BY_TASK.values() for head in row.__subclasses__()
}

# transformers' pipelines name a model that isn't registered as not supported, and then run it. The key is no config's
# class: no config is ever taken for one of ours.
for _auto, _head in (
    (AutoModelForSequenceClassification, NeuronModelForSequenceClassification),
    (AutoModelForTokenClassification, NeuronModelForTokenClassification),
):
    _auto.register(_head, (_head, *_head.__subclasses__()), exist_ok=True)


class NeuronAutoModel:
    """Opens an artifact with the class of its own head."""

    @staticmethod
    def from_pretrained(model_id: str | os.PathLike[str], **options: Any) -> NeuronTracedModel:
        """Load an artifact; or, with `export=True`, export a checkpoint and load the result.

        Args:
            model_id: An artifact (with export, a checkpoint): a local folder or a Hub id.
            options: As NeuronTracedModel.from_pretrained takes them.

        Returns:
            For instance a NeuronBertForMaskedLM.
        """
        revision, token = options.pop("revision", None), options.pop("token", None)
        if options.get("export"):
            with sources.opened(str(model_id), revision=revision, token=token) as (resolved, checkpoint):
                task = canonical_task(options.pop("task", "auto"), checkpoint)
                head = _find_class(checkpoint.architecture.model_type, task)
            return head.from_pretrained(model_id, revision=resolved.revision, token=token, **options)
        resolved = hub.resolve(str(model_id), revision=revision, token=token, files=None)
        manifest = Artifact.open(resolved.path, verify=False).manifest
        return _find_class(manifest.model_type, manifest.task).from_pretrained(resolved.path, **options)


def opened(
    model: NeuronTracedModel | str | os.PathLike[str], *, workers: int | None = None, **options: Any
) -> NeuronTracedModel:
    """A model that may be loaded already.

    Args:
        model: It, or its artifact: a local folder or a Hub id.
        workers: Load the artifact in so many processes.
        options: For opening the artifact: revision, token, placement.

    Raises:
        InvalidOptionError: workers for a model that is loaded.
    """
    if not isinstance(model, NeuronTracedModel):
        return NeuronAutoModel.from_pretrained(model, workers=workers, **options)
    if workers is not None:
        raise InvalidOptionError("workers", workers, "left out where the model is loaded already, or given when it is")
    return model


def _find_class(model_type: str, task: str) -> type[NeuronTracedModel]:
    return _BY_BOTH.get((model_type, task), _BY_TASK[task])
