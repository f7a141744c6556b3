"""Cohere's rerank.

Owns: /v2/rerank. Source: what its client sends and reads.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from neuronbert.server.exchange import Open
from neuronbert.server.routes import tei

router = APIRouter(prefix="/v2", tags=["cohere"])


class Rerank(BaseModel):
    """What /v2/rerank takes. What there is none of here is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    query: str
    documents: list[str]
    top_n: Annotated[int, Field(ge=1)] | None = None


@router.post("/rerank", response_model=dict[str, Any])
async def rerank(asked: Rerank, exchange: Open) -> Response:
    """Documents by how well they answer a query, the best first."""
    exchange.count(len(asked.documents), "documents")
    found = await tei.relevance(exchange, asked.model, asked.query, asked.documents, exchange.cut(None))
    results = [{"index": rank["index"], "relevance_score": rank["score"]} for rank in tei.ranks(found, None)]
    body = {"id": str(uuid4()), "results": results[: asked.top_n], "meta": {"api_version": {"version": "2"}}}
    return exchange.reply(body)
