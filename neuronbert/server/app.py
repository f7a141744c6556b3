"""The application: models behind routes.

Owns: create_app: what is put together, and how errors become responses. Knows nothing of sockets or signals.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as RoutingError

from neuronbert._version import __version__
from neuronbert.errors import NeuronBertError
from neuronbert.server.exchange import Site
from neuronbert.server.guard import NOTES, OPEN, Guard
from neuronbert.server.meters import Meters
from neuronbert.server.refusals import Kind, Refusal, refused
from neuronbert.server.routes import cohere, huggingface, inference, openai, operations, tei
from neuronbert.server.served import Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from fastapi import Response
    from fastapi.telemetry import TelemetryConfig
    from starlette.types import ASGIApp

    from neuronbert.engine import Engine
    from neuronbert.server.settings import Settings

_FIELD = re.compile(r"(?!(?:str|int|float|bool|bytes)$)[a-z_]+")
_FAILED = "Something unexpected went wrong. The server's log says what, under the x-request-id of this response."

# Spans of requests, and nothing more: there are meters and a log of our own. Without OTEL_'s variables there are none.
_TELEMETRY: TelemetryConfig = {
    "auto_configure": True,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope["path"] in OPEN,
}


def create_app(
    engines: Mapping[str, Engine], settings: Settings, *, started: Callable[[Exception | None], None]
) -> tuple[ASGIApp, Site]:
    """The application for some models. They are loaded when it is started, and it answers 503 until they are.

    Args:
        engines: By the names that clients know them by.
        settings: How it is set up.
        started: Called once all are loaded, or with the error if one can't be.
    """
    meters = Meters()
    models = {name: Served(name, engine, settings, meters) for name, engine in engines.items()}
    meters.watch(list(models.values()))
    site = Site(models, settings, meters)

    @asynccontextmanager
    async def living(_app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.ensure_future(_load(site, started))
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(*(model.stop() for model in models.values()))

    app = FastAPI(
        title="neuronbert",
        version=__version__,
        lifespan=living,
        docs_url=None,  # they would load their scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # it would send clients wherever their Host header says
        max_body_size=settings.max_body,
        telemetry=_TELEMETRY,
    )
    app.state.site = site
    for module in (operations, tei, openai, huggingface, cohere, inference):
        app.include_router(module.router)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Guard(app, site), site


async def _load(site: Site, started: Callable[[Exception | None], None]) -> None:
    first_core = 0
    try:
        for model in site.models.values():
            await model.start(first_core)
            first_core += site.settings.workers if model.engine.on_device else 0
    except Exception as error:  # noqa: BLE001  it ends the server, and is told where that was started
        started(error)
    else:
        started(None)


def _answered(request: Request, refusal: Refusal) -> Response:
    site: Site = request.app.state.site
    return site.refuse(request.scope, refusal)


async def _refuse(request: Request, refusal: Any) -> Response:
    return _answered(request, refusal)


async def _refuse_error(request: Request, error: Any) -> Response:
    request.scope[NOTES]["error"] = str(error)  # for the log: not all of it is for the client
    return _answered(request, refused(error))


async def _refuse_content(request: Request, error: Any) -> Response:
    """What a body lacks; without what it holds."""
    # Of all forms that a value could have had, the one that the body comes nearest to.
    first = max(error.errors(), key=lambda each: len(_place(each)))
    if first["type"] == "json_invalid":
        return _answered(request, Refusal(400, "Validation", "The body is not JSON."))
    if "json" not in request.headers.get("content-type", ""):
        return _answered(request, Refusal(415, "Validation", "Send JSON, with `Content-Type: application/json`."))
    place = ".".join(_place(first)) or "body"
    if first["type"] == "extra_forbidden":
        place = str(first["loc"][-1])  # as it was sent, whatever it is
    return _answered(request, Refusal(422, "Validation", f"`{place[:80]}`: {first['msg']}"))


def _place(error: Mapping[str, Any]) -> list[str]:
    """Where it is in the body. pydantic puts the form of a value that it tried in between."""
    return [str(part) for part in error["loc"][1:] if isinstance(part, int) or _FIELD.fullmatch(part)]


async def _refuse_route(request: Request, error: Any) -> Response:
    kind: Kind = "Overloaded" if error.status_code == 429 else "Validation"
    answer = _answered(request, Refusal(error.status_code, kind, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


async def _fail(request: Request, _error: Exception) -> Response:
    return _answered(request, Refusal(500, "Backend", _FAILED))


_HANDLERS: dict[Any, Any] = {
    Refusal: _refuse,
    NeuronBertError: _refuse_error,
    RequestValidationError: _refuse_content,
    HTTPException: _refuse_route,
    RoutingError: _refuse_route,
    Exception: _fail,
}
