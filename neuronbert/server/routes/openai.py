"""OpenAI's embeddings.

Owns: /v1/embeddings and /v1/models. Source: what the openai client sends and reads, and what
text-embeddings-inference answers on the same route.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from neuronbert.server import scores
from neuronbert.server.exchange import EMBEDDING, Open, as_json
from neuronbert.server.routes.tei import Input, prompted

router = APIRouter(prefix="/v1", tags=["openai"])


class Embeddings(BaseModel):
    """What /v1/embeddings takes."""

    input: Input | list[Input]
    model: str | None = None
    user: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


@router.post("/embeddings", response_model=dict[str, Any])
async def embeddings(asked: Embeddings, exchange: Open) -> Response:
    """A vector of length 1 for each text; in base64 as little-endian float32, if that is asked for."""
    model = exchange.pick(asked.model, EMBEDDING, "embedding")
    rows = prompted(model, asked.input, None)
    exchange.count(len(rows), "input")
    found = scores.vectors(await exchange.ask(model, rows, "vector", exchange.cut(None)), dimensions=asked.dimensions)
    values: list[Any] = list(found)
    if asked.encoding_format == "base64":
        values = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in np.asarray(found)]
    data = [{"object": "embedding", "embedding": value, "index": index} for index, value in enumerate(values)]
    usage = {"prompt_tokens": exchange.tokens, "total_tokens": exchange.tokens}
    return exchange.reply({"object": "list", "data": data, "model": model.name, "usage": usage})


@router.get("/models", response_model=dict[str, Any])
async def models(exchange: Open) -> Response:
    """What is served."""
    data = [_described(name) for name in exchange.site.models]
    return Response(as_json({"object": "list", "data": data}), media_type="application/json")


@router.get("/models/{name}", response_model=dict[str, Any])
async def model(name: str, exchange: Open) -> Response:
    """One of them."""
    if name not in exchange.site.models:
        raise exchange.unknown()
    return Response(as_json(_described(name)), media_type="application/json")


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "neuronbert"}
