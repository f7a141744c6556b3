"""transformers' pipelines over artifacts.

Owns: pipeline: which pipeline runs which head, and a tokenizer that cuts at what the programs take; question answering,
which transformers has dropped. Knows nothing of programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import transformers

from neuronbert import answers, tokenization
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import InvalidOptionError, TextError, WrongPipelineError
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
        doc_stride: Tokens that windows share; by default a quarter of the longest program, at most 128, and at most
            half of what the question leaves for its context.
        device: "cpu", where texts go in and answers come out.
        others: None: transformers' other options are refused by name.

    Raises:
        InvalidOptionError: an option that there is none of.

    Example:
        >>> answer = QuestionAnswering(model)(question="Who?", context="It was Ada.")  # doctest: +SKIP
    """

    task = "question-answering"

    def __init__(
        self, model: NeuronTracedModel, *, doc_stride: int | None = None, device: Any = "cpu", **others: Any
    ) -> None:
        _refuse(others)
        self.model = model.to(device)
        self.doc_stride = doc_stride
        self._tokenizer = tokenization.require(model.session.artifact.path)

    def __call__(
        self,
        rows: Row | Sequence[Row] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        **others: Any,
    ) -> Reply | list[Reply]:
        """Answer questions.

        Args:
            rows: A mapping with "question" and "context", or several.
            question: In place of rows: one, or several.
            context: A context for each question, or one for all of them.
            others: None, as in the class.

        Returns:
            "answer", its "start" and "end" in the context, and its "score"; a list of them for several questions.

        Raises:
            InputError: a question can't be answered.
        """
        _refuse(others)
        if rows is None:
            rows = _paired(question, context)
        return self._answer([rows])[0] if isinstance(rows, Mapping) else self._answer(list(rows))

    def _answer(self, rows: Sequence[Row]) -> list[Reply]:
        if self.doc_stride is not None or not rows:
            return self.model.predict(rows, stride=self.doc_stride)
        answers.check_all(self.task, rows)
        strides = self._strides([row["question"] for row in rows])
        replies: list[Reply] = [{}] * len(rows)
        for stride in sorted(set(strides)):
            places = [place for place, other in enumerate(strides) if other == stride]
            try:
                found = self.model.predict([rows[place] for place in places], stride=stride)
            except TextError as error:
                raise error.of_row(places[error.row]) from None
            for place, reply in zip(places, found, strict=True):
                replies[place] = reply
        return replies

    def _strides(self, questions: Sequence[str]) -> list[int]:
        # By each question alone: what a row is answered must not depend on its companions.
        longest = _longest(self.model)
        most = min(longest // 4, 128)
        around = self._tokenizer.num_special_tokens_to_add(pair=True)
        ids = self._tokenizer(list(questions), add_special_tokens=False, verbose=False)["input_ids"]
        return [max(0, min(most, (longest - around - len(each)) // 2)) for each in ids]


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


def _refuse(others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        expected = "left out: question answering takes doc_stride and device, and a question and its context"
        raise InvalidOptionError(name, value, expected)


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
        raise InvalidOptionError("len(context)", len(contexts), f"{len(question)}: one for each question")
    return [{"question": one, "context": other} for one, other in zip(question, contexts, strict=True)]
