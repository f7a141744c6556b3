"""What probes, scrapers, load balancers and people ask.

Owns: the page for browsers; who is live, ready and healthy. Live: the process answers. Ready: every program of every
model has run, and the server wasn't told to end. Healthy: ready, and a worker of every model answers in time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from neuronbert.server.exchange import Open
from neuronbert.server.refusals import Refusal

_PAGE: Final = Path(__file__).parents[1] / "page.html"
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(tags=["operations"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def live() -> Response:
    """Whether the process answers at all."""
    return Response()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
@router.head("/ping", include_in_schema=False)
@router.get("/ping")
async def ready(exchange: Open) -> Response:
    """Whether requests should be sent here."""
    if not exchange.site.ready:
        raise Refusal(503, "Unhealthy", "not ready")
    return Response()


@router.head("/", include_in_schema=False)
@router.get("/")
async def root(request: Request, exchange: Open) -> Response:
    """For browsers a page to try a model and to watch the queue; for everybody else as /health."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(_PAGE.read_bytes(), media_type="text/html", headers={"content-security-policy": _POLICY})
    return await health(exchange)


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(exchange: Open) -> Response:
    """Whether every model's workers answer."""
    if not await exchange.site.healthy():
        raise Refusal(503, "Unhealthy", "unhealthy")
    return Response()


@router.get("/metrics")
async def metrics(exchange: Open) -> Response:
    """Everything that is counted and measured, for Prometheus."""
    return Response(exchange.site.meters.text(), media_type=CONTENT_TYPE_LATEST)
