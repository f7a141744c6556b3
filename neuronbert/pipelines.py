"""transformers' pipelines over artifacts.

Owns: pipeline: which pipeline runs which head, and a tokenizer that cuts at what the programs take; question answering,
which transformers has dropped. Knows nothing of programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import transformers

from neuronbert import tokenization
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import InvalidOptionError, WrongPipelineError
from neuronbert.heads import opened

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from neuronbert.backends.base import Placement
    from neuronbert.decoding import Reply, Row
    from neuronbert.models import NeuronTracedModel

PIPELINES: Final = {
    "feature-extraction": "feature-extraction",
    "fill-mask": "fill-mask",
    "text-classification": "text-classification",
    "sentiment-analysis": "text-classification",
    "zero-shot-classification": "text-classification",
    "token-classification": "token-classification",
    "ner": "token-classification",
    "question-answering": "question-answering",
}
"""The head that each pipeline runs."""


class QuestionAnswering:
    """What transformers 4 had as its question-answering pipeline: contexts longer than the programs run in windows.

    Args:
        model: A model for question answering.
        doc_stride: Tokens that windows share; by default a quarter of the longest program, at most 128.

    Example:
        >>> answer = QuestionAnswering(model)(question="Who?", context="It was Ada.")  # doctest: +SKIP
    """

    task = "question-answering"

    def __init__(self, model: NeuronTracedModel, *, doc_stride: int | None = None) -> None:
        self.model = model
        self.doc_stride = min(_longest(model) // 4, 128) if doc_stride is None else doc_stride

    def __call__(
        self,
        rows: Row | Sequence[Row] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
    ) -> Reply | list[Reply]:
        """Answer questions.

        Args:
            rows: A mapping with "question" and "context", or several.
            question: In place of rows: one, or several.
            context: A context for each question, or one for all of them.

        Returns:
            "answer", its "start" and "end" in the context, and its "score"; a list of them for several questions.

        Raises:
            InputError: a question can't be answered.
        """
        if rows is None:
            rows = _paired(question, context)
        if isinstance(rows, Mapping):
            return self.model.predict([rows], stride=self.doc_stride)[0]
        return self.model.predict(rows, stride=self.doc_stride)


def pipeline(
    task: str,
    model: NeuronTracedModel | str | os.PathLike[str],
    *,
    tokenizer: Any | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    placement: Placement = ANYWHERE,
    **options: Any,
) -> Any:
    """Transformers' pipeline for a task, running an artifact.

    Args:
        task: A pipeline that runs the model's head: a name of PIPELINES.
        model: A loaded model, or an artifact: a local folder or a Hub id.
        tokenizer: In place of the artifact's own, whose model_max_length is lowered to that of the longest program:
            truncation=True, and windows, cut there.
        revision: Branch, tag or commit of a Hub id.
        token: For the Hub; None takes the one that is logged in.
        placement: Which NeuronCores the programs go to.
        options: workers, to load it in so many processes (Pool) in place of this one, which `session.close()` of the
            pipeline's model ends; and the others of `transformers.pipeline`, or of `QuestionAnswering`.

    Raises:
        WrongPipelineError: it isn't for the model's head.
        NoTokenizerError: the artifact has no tokenizer.
        NeuronBertError: whatever else `NeuronAutoModel.from_pretrained` finds wrong.

    Example:
        >>> classify = pipeline("text-classification", "my-artifact/")  # doctest: +SKIP
        >>> classify(["A sentence.", "Another one."])  # doctest: +SKIP
    """
    where = {"placement": placement, "workers": options.pop("workers", None)}
    model = opened(model, revision=revision, token=token, **where)
    own = model.session.manifest.task
    if PIPELINES.get(task) != own:
        raise WrongPipelineError(task, own, [name for name, head in PIPELINES.items() if head == own])
    if task == QuestionAnswering.task:
        return QuestionAnswering(model, **options)
    return transformers.pipeline(
        task, model=model, tokenizer=tokenizer or _tokenizer(model), **{"device": model.device, **options}
    )


def _tokenizer(model: NeuronTracedModel) -> Any:
    tokenizer = tokenization.require(model.session.artifact.path)
    tokenizer.model_max_length = min(tokenizer.model_max_length, _longest(model))
    return tokenizer


def _longest(model: NeuronTracedModel) -> int:
    return max(shape.sequence_length for shape in model.session.manifest.shapes)


def _paired(question: str | Sequence[str] | None, context: str | Sequence[str] | None) -> Row | list[Row]:
    if question is None or context is None:
        raise InvalidOptionError("question", question, "given, together with a context")
    if isinstance(question, str):
        return {"question": question, "context": context}
    contexts = [context] * len(question) if isinstance(context, str) else context
    if len(contexts) != len(question):
        raise InvalidOptionError("context", f"{len(contexts)} texts", f"one, or {len(question)}: one for each question")
    return [{"question": one, "context": other} for one, other in zip(question, contexts, strict=True)]
