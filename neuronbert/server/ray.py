"""The server in replicas of Ray Serve: `serve run neuronbert.server.ray:app artifact=minilm/`.

Owns: app: what a replica asks of the cluster, when it is well, and when another one is wanted. Ray Serve gives requests
to replicas, replaces and drains them; which rows run next is decided in each of them by our scheduler.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray import serve

from neuronbert.engine import Engine
from neuronbert.errors import InvalidOptionError, WorkersUnwellError
from neuronbert.reference import RAY_CORES
from neuronbert.server.app import create_app
from neuronbert.server.scheduler import Limits
from neuronbert.server.settings import Settings, by_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.serve import Application
    from starlette.types import ASGIApp

KEY: Final = "NEURONBERT_API_KEY"
"""Environment variable of the replicas. No argument: those are shown by Ray's dashboard and `serve config`."""
_REFUSED: Final = 2
"""More requests go to a replica than it answers, by this factor, so that it is the scheduler that refuses them."""


class Arguments(BaseModel):
    """What `app` takes. Values may be texts, as `serve run` gives them.

    Attributes:
        artifact: Folders, the same on every node, or Hub ids; as NAME=ARTIFACT where they are to be named otherwise
            than by their last part. In a text, several are joined by commas.
        revision: Branch, tag or commit on the Hub.
        replicas: How many there are; with `max_replicas`, at least.
        max_replicas: How many there are at most, as load goes; None for a fixed number.
        workers: Processes of each model in a replica, on Neuron one to a core.
        cpus: CPUs of a replica; on the CPU target its models share as many threads.
        auto_truncate: As in Settings, and so are those that follow.
        max_concurrent_requests: Texts of each model in a replica that wait or run.
        max_client_batch_size: Texts in one request.
        timeout: Seconds until a request that waits is given up.
        tokenization_workers: Threads of each model that tokenize.
        drain: Seconds that the requests in a replica have when it is to end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: list[str] = Field(min_length=1)
    revision: str | None = None
    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    workers: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    auto_truncate: bool = True
    max_concurrent_requests: int = Field(default=512, ge=1)
    max_client_batch_size: int = Field(default=32, ge=1)
    timeout: float = Field(default=30.0, ge=0.1)
    tokenization_workers: int = Field(default=1, ge=1)
    drain: float = Field(default=15.0, ge=0)

    @field_validator("artifact", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return given.split(",") if isinstance(given, str) else given

    def settings(self) -> Settings:
        """Those of the server in each replica."""
        return Settings(
            api_key=os.environ.get(KEY),
            workers=self.workers,
            tokenizers=self.tokenization_workers,
            limits=Limits(rows=self.max_concurrent_requests),
            max_client_batch_size=self.max_client_batch_size,
            auto_truncate=self.auto_truncate,
            timeout=self.timeout,
            drain=self.drain,
        )


def app(arguments: Mapping[str, Any]) -> Application:
    """The application of Ray Serve, for `serve run` and for config files.

    Args:
        arguments: Those of Arguments.

    Raises:
        InvalidOptionError: one of them can't be used.
        NeuronBertError: an artifact can't be served.
    """
    try:
        asked = Arguments.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidOptionError(
            name, first["input"], f"an argument as docs/serving.md has them ({first['msg']})"
        ) from None
    if asked.max_replicas is not None and asked.max_replicas < asked.replicas:
        raise InvalidOptionError("max_replicas", asked.max_replicas, f"{asked.replicas} (replicas) or more")
    artifacts = {name: _everywhere(artifact) for name, artifact in by_name(asked.artifact).items()}
    engines = [Engine.find(artifact, revision=asked.revision) for artifact in artifacts.values()]
    cores = asked.workers * sum(engine.on_device for engine in engines)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="neuronbert",
        ray_actor_options={"num_cpus": asked.cpus, "resources": {RAY_CORES: cores} if cores else {}},
        max_ongoing_requests=_REFUSED * asked.max_concurrent_requests,
        graceful_shutdown_timeout_s=asked.drain,
        **_scale(asked, engines),
    )
    return deployment.bind(artifacts, asked)


def _everywhere(artifact: str) -> str:
    # Replicas are started in folders of their own.
    return str(Path(artifact).resolve()) if Path(artifact).is_dir() else artifact


def _scale(asked: Arguments, engines: list[Engine]) -> dict[str, Any]:
    if asked.max_replicas is None:
        return {"num_replicas": asked.replicas}
    # Ray adds replicas where there are more requests to each than this: those of one text that fill the batches that
    # run, and one more that is put together meanwhile.
    largest = max(shape.batch_size for engine in engines for shape in engine.shapes)
    scale = {"min_replicas": asked.replicas, "max_replicas": asked.max_replicas}
    return {"autoscaling_config": {**scale, "target_ongoing_requests": largest * (asked.workers + 1)}}


class Replica:
    """One server, with workers of its own. Its methods are Ray Serve's.

    Args:
        artifacts: By the names that clients know them by.
        asked: How it is set up.

    Raises:
        NeuronBertError: an artifact can't be served.
    """

    def __init__(self, artifacts: Mapping[str, str], asked: Arguments) -> None:
        engines = {name: Engine.find(artifact, revision=asked.revision) for name, artifact in artifacts.items()}
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._built, self._site = create_app(engines, asked.settings(), started=self._start)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The routes of `neuronbert serve`; loading begins when Ray Serve starts them."""
        return self._built

    def _start(self, error: Exception | None) -> None:
        if error is None:
            self._loaded.set_result(None)
        else:
            self._loaded.set_exception(error)

    async def check_health(self) -> None:
        """Send a call through a worker of every model; the first time, once all are loaded.

        No request comes before that. Three failures on end, and Ray Serve replaces the replica.

        Raises:
            NeuronBertError: a model couldn't be loaded, or its workers don't answer.
        """
        await asyncio.shield(self._loaded)
        if not await self._site.healthy():
            raise WorkersUnwellError(list(self._site.models))
