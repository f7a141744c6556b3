"""The JSON of Hugging Face's inference API, at the root and where SageMaker asks.

Owns: POST / and /invocations: which task's form a model takes. Source: the types that huggingface_hub generates, and
what its InferenceClient sends. A parameter that a task doesn't have here is refused, not ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from neuronbert.engine import MOST_CANDIDATES
from neuronbert.server import scores
from neuronbert.server.exchange import EMBEDDING, Exchange, Open
from neuronbert.server.refusals import Refusal
from neuronbert.server.routes import tei
from neuronbert.server.routes.tei import Direction, Ids, SimilarityInputs, best_first

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from neuronbert.server.served import Served

router = APIRouter(tags=["huggingface"])


MOST_CHARACTERS: Final = 1000
"""Of a label, or of the template that it is put into."""
Label = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class QuestionInputs(BaseModel):
    """A question, and the text that its answer stands in."""

    question: str
    context: str


class Parameters(BaseModel):
    """How inputs are read and answers worded: for each task its own."""

    model_config = ConfigDict(extra="forbid")

    truncate: bool | None = None
    truncation_direction: Direction = "right"
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    aggregation_strategy: Literal["simple"] = "simple"
    candidate_labels: Annotated[list[Label], Field(min_length=1)] | None = None
    multi_label: bool = False
    hypothesis_template: Label = "This example is {}."
    raw_scores: bool = False
    return_text: bool = False


class Inference(Parameters):
    """What the root takes. Parameters may stand beside the inputs, too."""

    model_config = ConfigDict(extra="ignore")

    inputs: str | Ids | list[str | Ids] | SimilarityInputs | QuestionInputs | list[QuestionInputs] | None = None
    parameters: Parameters | None = None
    query: str | None = None
    texts: list[str] | None = None
    model: str | None = None


_A_TEXT: Final = "a text, or a list of texts"
_A_QUESTION: Final = '{"question": ..., "context": ...}, or a list of them'
_CUTTING: Final = {"truncate", "truncation_direction"}
_EMBEDDING: Final = {*_CUTTING, "normalize", "prompt_name", "dimensions"}
_TAKEN: Final = {
    "feature-extraction": _EMBEDDING,
    "sentence-embedding": _EMBEDDING,
    "text-classification": {
        *_CUTTING,
        *("top_k", "function_to_apply", "candidate_labels", "multi_label", "hypothesis_template"),
        *("raw_scores", "return_text"),
    },
    "token-classification": {"aggregation_strategy"},
    "question-answering": set[str](),
    "fill-mask": {"top_k"},
}
"""The parameters that each task has."""


@router.post("/", response_model=Any)
@router.post("/invocations", response_model=Any)
async def infer(asked: Inference, exchange: Open) -> Response:
    """The answer of the model's own task, in its form."""
    return await _infer(asked.model, asked, exchange)


@router.post("/models/{name}", response_model=Any)
async def infer_by(name: str, asked: Inference, exchange: Open) -> Response:
    """The same of one of several models: Hugging Face's clients name it by its address."""
    if name not in exchange.site.models:
        raise exchange.unknown()
    return await _infer(name, asked, exchange)


async def _infer(name: str | None, asked: Inference, exchange: Exchange) -> Response:
    parameters = asked.parameters or Parameters()
    at_root = {name: getattr(asked, name) for name in asked.model_fields_set & Parameters.model_fields.keys()}
    parameters = parameters.model_copy(update=at_root)
    given = {*at_root, *(asked.parameters.model_fields_set if asked.parameters else ())}
    suits = _suited(asked, parameters)
    model = exchange.pick(
        name, tuple(_TAKEN), "inference", lambda model: given <= _TAKEN[model.engine.task] and suits(model)
    )
    for unknown in given - _TAKEN[model.engine.task]:
        raise Refusal(422, "Validation", f"`{unknown}` is not a parameter of {model.engine.task} here.")
    return exchange.reply(await _ANSWERS[model.engine.task](exchange, model, asked, parameters))


def _suited(asked: Inference, given: Parameters) -> Callable[[Served], bool]:
    """Which of several models a body is for that names none."""
    inputs = asked.inputs
    first = inputs[0] if isinstance(inputs, list) and inputs else inputs
    if isinstance(first, QuestionInputs):
        return lambda model: model.engine.task == "question-answering"
    if isinstance(inputs, SimilarityInputs):
        return lambda model: model.engine.task in EMBEDDING
    if asked.query is not None and asked.texts is not None:
        return lambda model: model.engine.task in tei.CLASSIFYING and tei.is_reranker(model)
    if given.candidate_labels is not None:
        return lambda model: model.engine.task in tei.CLASSIFYING and _entailing(model) is not None
    return lambda _model: True


async def _embed(exchange: Exchange, model: Served, asked: Inference, given: Parameters) -> Any:
    cut = exchange.cut(given.truncate, given.truncation_direction)
    inputs: Any = asked.inputs
    if isinstance(inputs, SimilarityInputs):
        return await tei.likeness(exchange, model, inputs, given.prompt_name, cut)
    if not isinstance(inputs, str | list) or any(isinstance(each, QuestionInputs) for each in inputs):
        raise _expected(_A_TEXT)
    rows = tei.prompted(model, inputs, given.prompt_name)
    exchange.count(len(rows))
    found = await exchange.ask(model, rows, "vector", cut)
    return scores.vectors(found, normalize=given.normalize, dimensions=given.dimensions)


async def _classify(exchange: Exchange, model: Served, asked: Inference, given: Parameters) -> Any:
    cut = exchange.cut(given.truncate, given.truncation_direction)
    if asked.query is not None and asked.texts is not None:
        exchange.count(len(asked.texts), "texts")
        found = await tei.relevance(exchange, model.name, asked.query, asked.texts, cut, raw=given.raw_scores)
        return tei.ranks(found, asked.texts if given.return_text else None)
    texts = _texts(asked)
    if given.candidate_labels is not None:
        return await _zero_shot(exchange, model, texts, given)
    exchange.count(len(texts))
    logits = await exchange.ask(model, [{"text": text} for text in texts], "logits", cut)
    return [_labelled(model, row, given) for row in logits]


def _labelled(model: Served, logits: np.ndarray, given: Parameters) -> list[dict[str, Any]]:
    apply = given.function_to_apply
    if apply is None:
        ranked = tei.ranked(model, logits, raw=given.raw_scores)
    else:
        values = logits if apply == "none" else scores.chances(logits, independent=apply == "sigmoid")
        labels = model.engine.labels
        ranked = [{"score": float(values[place]), "label": labels[place]} for place in best_first(values)]
    return ranked[: given.top_k]


async def _zero_shot(exchange: Exchange, model: Served, texts: list[str], given: Parameters) -> Any:
    entails = _entailing(model)
    if entails is None or len(texts) != 1:
        said = "The model has no label for entailment." if entails is None else "Give one text with candidate labels."
        raise Refusal(424 if entails is None else 422, "Validation", said)
    if given.hypothesis_template.count("{}") != 1:
        raise Refusal(422, "Validation", "`hypothesis_template` must hold {} once, where the label belongs")
    labels = given.candidate_labels or []
    exchange.count(len(labels), "candidate_labels")
    rows = [{"text": texts[0], "text_pair": given.hypothesis_template.replace("{}", label)} for label in labels]
    logits = np.stack(await exchange.ask(model, rows, "logits", exchange.cut(given.truncate)))
    if given.multi_label or len(labels) == 1:
        against = len(model.engine.labels) - 1 if entails == 0 else 0
        found = np.array([scores.chances(row[[against, entails]])[1] for row in logits])
    else:
        found = scores.chances(logits[:, entails])
    return [{"label": labels[place], "score": float(found[place])} for place in best_first(found)]


def _entailing(model: Served) -> int | None:
    # As transformers' pipeline has it: a label that begins with "entail", and the first of the others against it.
    names = [label.lower() for label in model.engine.labels.values()]
    return next((place for place, name in enumerate(names) if name.startswith("entail")), None)


async def _label_tokens(exchange: Exchange, model: Served, asked: Inference, _given: Parameters) -> Any:
    texts = _texts(asked)
    exchange.count(len(texts))
    found = await exchange.ask(model, [{"text": text} for text in texts], "reading", "windows")
    replies = [[_entity(entity) for entity in reply["entities"]] for reply in found]
    return replies[0] if isinstance(asked.inputs, str) else replies


def _entity(entity: dict[str, Any]) -> dict[str, Any]:
    renamed = {"label": "entity_group", "text": "word"}
    return {renamed.get(name, name): value for name, value in entity.items()}


async def _answer(exchange: Exchange, model: Served, asked: Inference, _given: Parameters) -> Any:
    inputs = [asked.inputs] if isinstance(asked.inputs, QuestionInputs) else asked.inputs
    if not isinstance(inputs, list) or not all(isinstance(each, QuestionInputs) for each in inputs):
        raise _expected(_A_QUESTION)
    exchange.count(len(inputs))
    rows = [each.model_dump() for each in inputs if isinstance(each, QuestionInputs)]
    found = await exchange.ask(model, rows, "reading", "windows")
    return found[0] if isinstance(asked.inputs, QuestionInputs) else found


async def _fill(exchange: Exchange, model: Served, asked: Inference, given: Parameters) -> Any:
    texts = _texts(asked)
    exchange.count(len(texts))
    fill, most = model.engine.texts.fill, given.top_k or 5
    rows = [{"text": text} for text in texts]
    filled = await exchange.ask(model, rows, "masks", "refuse", lambda found: fill(found, most))
    replies = [masks[0] if len(masks) == 1 else masks for masks in filled]
    return replies[0] if isinstance(asked.inputs, str) else replies


def _texts(asked: Inference) -> list[str]:
    inputs = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
    if not isinstance(inputs, list) or not all(isinstance(each, str) for each in inputs):
        raise _expected(_A_TEXT)
    return [text for text in inputs if isinstance(text, str)]


def _expected(form: str) -> Refusal:
    return Refusal(422, "Validation", f"`inputs` must be {form} for this model")


_ANSWERS: Final[dict[str, Callable[[Exchange, Served, Inference, Parameters], Awaitable[Any]]]] = {
    "feature-extraction": _embed,
    "sentence-embedding": _embed,
    "text-classification": _classify,
    "token-classification": _label_tokens,
    "question-answering": _answer,
    "fill-mask": _fill,
}
