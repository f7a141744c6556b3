"""What probes, scrapers and load balancers ask.

Owns: who is live, ready and healthy. Live: the process answers. Ready: every program of every model has run, and the
server wasn't told to end. Healthy: ready, and a worker of every model answers in time.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from neuronbert.server.exchange import Open
from neuronbert.server.refusals import Refusal

router = APIRouter(tags=["operations"])


@router.get("/livez")
async def live() -> Response:
    """Whether the process answers at all."""
    return Response()


@router.get("/readyz")
@router.get("/ping")
async def ready(exchange: Open) -> Response:
    """Whether requests should be sent here."""
    if not exchange.site.ready:
        raise Refusal(503, "Unhealthy", "not ready")
    return Response()


@router.get("/health")
@router.get("/")
async def health(exchange: Open) -> Response:
    """Whether every model's workers answer: a call goes through one, unless one was answered in the last second."""
    site = exchange.site
    if not site.ready or not all(await asyncio.gather(*(model.healthy() for model in site.models.values()))):
        raise Refusal(503, "Unhealthy", "unhealthy")
    return Response()


@router.get("/metrics")
async def metrics(exchange: Open) -> Response:
    """Everything that is counted and measured, for Prometheus."""
    return Response(exchange.site.meters.text(), media_type=CONTENT_TYPE_LATEST)
