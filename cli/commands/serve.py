"""neuronbert serve."""

import os
from ipaddress import ip_network
from typing import Annotated

import typer

from neuronbert.errors import InvalidOptionError, MissingPackageError, first_line

from .. import _output
from .._options import Revision, Token

_KEY = "NEURONBERT_API_KEY"


def serve(
    artifacts: Annotated[
        list[str],
        typer.Argument(
            help="Artifacts: local folders or Hub ids, each called by its last part or as in NAME=ARTIFACT.",
            metavar="ARTIFACT...",
        ),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="On which port; 0 for one that is free.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Processes of each model, on Neuron one to a core.")] = 1,
    api_key: Annotated[str | None, typer.Option(help="What clients must send as bearer token.", envvar=_KEY)] = None,
    auto_truncate: Annotated[
        bool, typer.Option("--auto-truncate/--no-auto-truncate", help="Cut texts that are too long, or refuse them.")
    ] = True,
    max_concurrent_requests: Annotated[
        int, typer.Option(min=1, help="Texts of each model that wait or run; more are refused for now.")
    ] = 512,
    max_client_batch_size: Annotated[int, typer.Option(min=1, help="Texts in one request.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request that waits is given up.")] = 30.0,
    tokenization_workers: Annotated[int, typer.Option(min=1, help="Threads of each model that tokenize.")] = 1,
    grace: Annotated[
        float, typer.Option(min=0, max=60, help="Seconds that it answers on after SIGTERM, while it isn't ready.")
    ] = 5.0,
    forwarded_allow_ips: Annotated[
        str | None,
        typer.Option(help="Proxies whose X-Forwarded-For says who asks: addresses and networks, with commas."),
    ] = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Answer over HTTP, as text-embeddings-inference and others do.

    Example: neuronbert serve minilm/
    """
    with _output.progress() as progress:
        progress("opening")
        try:
            from neuronbert.server.process import run
            from neuronbert.server.scheduler import Limits
            from neuronbert.server.settings import Settings, by_name
        except ModuleNotFoundError as error:
            raise MissingPackageError("FastAPI", "serve", first_line(error)) from error
        from neuronbert.engine import Engine

        engines = {
            name: Engine.find(artifact, revision=revision, token=token) for name, artifact in by_name(artifacts).items()
        }
    settings = Settings(
        host=host,
        port=port,
        api_key=os.environ.get(_KEY) if api_key is None else api_key,  # Typer takes an empty variable for none
        workers=workers,
        tokenizers=tokenization_workers,
        limits=Limits(rows=max_concurrent_requests),
        max_client_batch_size=max_client_batch_size,
        auto_truncate=auto_truncate,
        timeout=timeout,
        grace=grace,
        forwarded_allow_ips=forwarded_allow_ips,
    )
    _check_proxies(forwarded_allow_ips)
    _check_tracing()
    run(engines, settings)


def _check_proxies(given: str | None) -> None:
    for each in given.split(",") if given else ():
        try:
            ip_network(each.strip(), strict=False)
        except ValueError as error:
            expected = f"addresses or networks, as in 10.0.0.0/8,192.168.1.7 ({first_line(error)})"
            raise InvalidOptionError("forwarded_allow_ips", given, expected) from error


def _check_tracing() -> None:
    """End here if traces are asked for and can't be had: the libraries would only warn of it.

    Raises:
        MissingPackageError: what sends them isn't installed.
    """
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if any(os.environ.get(name) for name in endpoints) and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
        os.environ.setdefault("OTEL_SERVICE_NAME", "neuronbert")
        try:
            import opentelemetry.exporter.otlp.proto.http  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingPackageError("OpenTelemetry", "telemetry", first_line(error)) from error
