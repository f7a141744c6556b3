"""text-embeddings-inference's routes.

Owns: its JSON. Source: its docs/openapi.json and router/src/http of version 1.9; where the two differ, as the server
behaves. What differs here on purpose stands in docs/serving.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from neuronbert._version import __version__
from neuronbert.pieces import IDS
from neuronbert.server import scores
from neuronbert.server.exchange import EMBEDDING, Exchange, Open, as_json, as_long_json
from neuronbert.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neuronbert.pieces import Cut
    from neuronbert.server.served import Served

CLASSIFYING: Final = ("text-classification",)
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Input = str | Ids
Direction = Literal["right", "left", "Right", "Left"]
Pair = Annotated[list[str], Field(min_length=1, max_length=2)]
router = APIRouter(tags=["text-embeddings-inference"])


class _Cutting(BaseModel):
    truncate: bool | None = None
    truncation_direction: Direction = "right"
    model: str | None = None
    """Which of several models; text-embeddings-inference has one."""


class Embed(_Cutting):
    """What /embed takes."""

    inputs: Input | list[Input]
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbedAll(_Cutting):
    """What /embed_all takes."""

    inputs: Input | list[Input]
    prompt_name: str | None = None


class Predict(_Cutting):
    """What /predict takes: a text, a pair of texts as a list, or a list of such lists."""

    inputs: str | Pair | list[Pair]
    raw_scores: bool = False


class Rerank(_Cutting):
    """What /rerank takes."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class SimilarityInputs(BaseModel):
    """One text, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(BaseModel):
    """How texts are read."""

    truncate: bool | None = None
    truncation_direction: Direction = "right"
    prompt_name: str | None = None


class Similarity(BaseModel):
    """What /similarity takes."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None
    model: str | None = None


class Tokenize(BaseModel):
    """What /tokenize takes."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None


class Decode(BaseModel):
    """What /decode takes."""

    ids: Ids | list[Ids]
    skip_special_tokens: bool = True
    model: str | None = None


@router.post("/embed", response_model=list[list[float]])
async def embed(asked: Embed, exchange: Open) -> Response:
    """A vector for each text."""
    model = exchange.pick(asked.model, EMBEDDING, "embedding")
    rows = prompted(model, asked.inputs, asked.prompt_name)
    exchange.count(len(rows))
    found = await exchange.ask(model, rows, "vector", exchange.cut(asked.truncate, asked.truncation_direction))
    return exchange.reply(scores.vectors(found, normalize=asked.normalize, dimensions=asked.dimensions))


@router.post("/embed_all", response_model=list[list[list[float]]])
async def embed_all(asked: EmbedAll, exchange: Open) -> Response:
    """A vector for each token of each text."""
    model = exchange.pick(asked.model, EMBEDDING, "embedding")
    rows = prompted(model, asked.inputs, asked.prompt_name)
    exchange.count(len(rows))
    found = await exchange.ask(model, rows, "tokens", exchange.cut(asked.truncate, asked.truncation_direction))
    return exchange.reply(await as_long_json([scores.finite(np.ascontiguousarray(values)) for values in found]))


@router.post("/predict", response_model=list[dict[str, Any]] | list[list[dict[str, Any]]])
async def predict(asked: Predict, exchange: Open) -> Response:
    """The chance of each label, the likeliest first."""
    model = exchange.pick(asked.model, CLASSIFYING, "prediction")
    many = isinstance(asked.inputs, list) and (not asked.inputs or isinstance(asked.inputs[0], list))
    given: Any = asked.inputs if many else [asked.inputs]
    exchange.count(len(given))
    rows = [_pair(texts) for texts in given]
    found = await exchange.ask(model, rows, "logits", exchange.cut(asked.truncate, asked.truncation_direction))
    labelled = [ranked(model, logits, raw=asked.raw_scores) for logits in found]
    return exchange.reply(labelled if many else labelled[0])


@router.post("/rerank", response_model=list[dict[str, Any]])
async def rerank(asked: Rerank, exchange: Open) -> Response:
    """Texts by how well they answer a query, the best first."""
    exchange.count(len(asked.texts), "texts")
    cut = exchange.cut(asked.truncate, asked.truncation_direction)
    found = await relevance(exchange, asked.model, asked.query, asked.texts, cut, raw=asked.raw_scores)
    return exchange.reply(ranks(found, asked.texts if asked.return_text else None))


@router.post("/similarity", response_model=list[float])
async def similarity(asked: Similarity, exchange: Open) -> Response:
    """How alike a text is to each of some others: the cosine between their vectors."""
    model = exchange.pick(asked.model, EMBEDDING, "similarity")
    given = asked.parameters or SimilarityParameters()
    cut = exchange.cut(given.truncate, given.truncation_direction)
    return exchange.reply(await likeness(exchange, model, asked.inputs, given.prompt_name, cut))


@router.post("/tokenize", response_model=list[list[dict[str, Any]]])
async def tokenize(asked: Tokenize, exchange: Open) -> Response:
    """The tokens of each text, with their places in it."""
    model = exchange.pick(asked.model, tuple(each.engine.task for each in exchange.site.models.values()), "tokenizing")
    texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
    exchange.count(len(texts))
    rows = prompted(model, texts, asked.prompt_name)
    exchange.characters = sum(map(len, texts))
    given = [row["text"] for row in rows]
    special = asked.add_special_tokens
    found = await exchange.convert(model, lambda: model.engine.texts.tokens(given, special=special))
    return exchange.reply(await as_long_json(found))


@router.post("/decode", response_model=list[str])
async def decode(asked: Decode, exchange: Open) -> Response:
    """The text of token ids."""
    model = exchange.pick(asked.model, tuple(each.engine.task for each in exchange.site.models.values()), "decoding")
    many = isinstance(asked.ids[0], list) if asked.ids else True
    lists: Any = asked.ids if many else [asked.ids]
    exchange.count(len(lists), "ids")
    skip = asked.skip_special_tokens
    found = await exchange.convert(model, lambda: model.engine.texts.decode(lists, skip_special=skip))
    return exchange.reply(await as_long_json(found))


@router.get("/info", response_model=dict[str, Any])
async def info(exchange: Open) -> Response:
    """What is served, and within which limits."""
    first, settings = next(iter(exchange.site.models.values())), exchange.site.settings
    manifest = first.engine.artifact.manifest
    body = {
        "model_id": manifest.source.model,
        "model_sha": manifest.source.revision,
        "model_dtype": "float32" if manifest.compiler.auto_cast == "none" else manifest.compiler.auto_cast_type,
        "served_model_name": first.name,
        "model_type": _model_type(first),
        "max_concurrent_requests": settings.limits.rows,
        "max_input_length": first.engine.texts.limit,
        "max_batch_tokens": max(shape.tokens for shape in first.engine.shapes),
        "max_batch_requests": max(shape.batch_size for shape in first.engine.shapes),
        "max_client_batch_size": settings.max_client_batch_size,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": settings.tokenizers,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "models": [_described(model) for model in exchange.site.models.values()],
    }
    return Response(as_json(body), media_type="application/json")


def _described(model: Served) -> dict[str, Any]:
    manifest = model.engine.artifact.manifest
    buckets = [shape.name for shape in manifest.shapes]
    return {"name": model.name, "task": manifest.task, "target": manifest.target, "buckets": buckets}


def _model_type(model: Served) -> dict[str, Any]:
    engine = model.engine
    if engine.task in EMBEDDING:
        return {"embedding": {"pooling": engine.pooling}}
    if engine.task not in CLASSIFYING:
        return {engine.task: {}}
    labels = {str(index): label for index, label in engine.labels.items()}
    kind = "reranker" if len(labels) == 1 else "classifier"
    return {kind: {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}}


def prompted(model: Served, inputs: Input | Sequence[Input], name: str | None) -> list[dict[str, Any]]:
    """Rows of texts or token ids, with the prompt that is asked for before each text.

    Raises:
        Refusal: there is none of that name.
    """
    engine = model.engine
    if name is not None and name not in engine.texts.prompts:
        listed = ", ".join(engine.texts.prompts) or "none"
        raise Refusal(422, "Validation", f"`prompt_name` is not one of the model's prompts: {listed}")
    prompt = engine.texts.default_prompt if name is None else engine.texts.prompts[name]
    single = isinstance(inputs, str) or (bool(inputs) and isinstance(inputs[0], int))
    listed_inputs: Any = [inputs] if single else inputs
    return [{"text": (prompt or "") + given} if isinstance(given, str) else {IDS: given} for given in listed_inputs]


async def likeness(
    exchange: Exchange, model: Served, inputs: SimilarityInputs, prompt_name: str | None, cut: Cut
) -> np.ndarray:
    """The cosine between the vector of a text and those of some others."""
    exchange.count(len(inputs.sentences) and len(inputs.sentences) + 1, "sentences")
    rows = prompted(model, [inputs.source_sentence, *inputs.sentences], prompt_name)
    found = scores.vectors(await exchange.ask(model, rows, "vector", cut))
    cosines: np.ndarray = found[1:] @ found[0]
    return cosines


def ranked(model: Served, logits: np.ndarray, *, raw: bool = False) -> list[dict[str, Any]]:
    """Labels with their chances (or logits), the likeliest first."""
    values = scores.finite(logits) if raw else scores.chances(logits, independent=model.engine.independent)
    labels = model.engine.labels
    return [{"score": float(values[place]), "label": labels[place]} for place in best_first(values)]


def ranks(found: list[float], texts: list[str] | None) -> list[dict[str, Any]]:
    """Places of texts with their scores, the best first; with the texts themselves if they are given."""
    return [
        {"index": place, **({"text": texts[place]} if texts else {}), "score": found[place]}
        for place in best_first(found)
    ]


def best_first(values: Any) -> list[int]:
    """Places by their values, the highest first."""
    return sorted(range(len(values)), key=lambda place: -values[place])


async def relevance(
    exchange: Exchange, name: str | None, query: str, texts: list[str], cut: Cut, *, raw: bool = False
) -> list[float]:
    """How well each text answers a query.

    Raises:
        Refusal: the model has several labels, which is no reranker.
    """
    model = exchange.pick(name, CLASSIFYING, "reranking", is_reranker)
    if not is_reranker(model):
        raise Refusal(424, "Backend", "The model has more than one label, so it does not rerank.")
    rows = [{"text": query, "text_pair": text} for text in texts]
    found = await exchange.ask(model, rows, "logits", cut)
    return [float((scores.finite(logits) if raw else scores.chances(logits))[0]) for logits in found]


def is_reranker(model: Served) -> bool:
    """Whether a classifier says how well a text answers another."""
    return len(model.engine.labels) == 1


def _pair(texts: str | list[str]) -> dict[str, str]:
    if isinstance(texts, str):
        return {"text": texts}
    return dict(zip(("text", "text_pair"), texts, strict=False))
