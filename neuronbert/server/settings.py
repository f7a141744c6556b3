"""How a server is set up.

Owns: Settings, and how models are named. Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuronbert.errors import InvalidOptionError
from neuronbert.server.scheduler import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is set up; the defaults are text-embeddings-inference's where it has the same.

    Attributes:
        host: Where it listens.
        port: And on which port; 0 for one that is free.
        api_key: What clients must send as their bearer token; None lets everybody in.
        workers: Processes of each model: one for each NeuronCore, or a share of the CPU's threads.
        tokenizers: Threads that tokenize, for each model.
        limits: What each model holds at most.
        max_client_batch_size: Texts in one request.
        max_body: Bytes of a request's body.
        auto_truncate: Whether long texts are cut where a request doesn't say.
        timeout: Seconds until a request that is still waiting is given up.
        call_timeout: Seconds that a call may take in a worker until that is ended and replaced.
        health_timeout: Seconds that a call for the health check may take.
        body_timeout: Seconds between two parts of a request's body.
        whole_body_timeout: Seconds until all of it has arrived.
        requests: Requests at a time, whatever they are for and however far, besides one for each text that may be held.
        grace: Seconds that a server that is told to end is not ready but still answers.
        drain: Seconds that requests in flight then have.
        forwarded_allow_ips: Addresses and networks of proxies, separated by commas, that say for whom they ask.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = field(default=None, repr=False)
    workers: int = 1
    tokenizers: int = 1
    limits: Limits = field(default_factory=Limits)
    max_client_batch_size: int = 32
    max_body: int = 2_000_000
    auto_truncate: bool = True
    timeout: float = 30.0
    call_timeout: float = 60.0
    health_timeout: float = 5.0
    body_timeout: float = 10.0
    whole_body_timeout: float = 60.0
    requests: int = 2048
    grace: float = 5.0
    drain: float = 15.0
    forwarded_allow_ips: str | None = None

    def __post_init__(self) -> None:
        """Refuse a key that no client could send, or that none would need to.

        Raises:
            InvalidOptionError: it is such a key.
        """
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            expected = "visible ASCII characters, without spaces; for a server without a key leave it out"
            raise InvalidOptionError("api_key", "" if not self.api_key else "(not shown)", expected)


_KEY: Final = re.compile(r"[!-~]+")
_NAME: Final = re.compile(r"[^/\x00-\x1f\x7f]+")


def by_name(artifacts: Iterable[str]) -> dict[str, str]:
    """Artifacts by what clients call them: the last part of each, or NAME as in NAME=ARTIFACT.

    Raises:
        InvalidOptionError: two are called the same, or one as no address can have it.
    """
    named: dict[str, str] = {}
    for given in artifacts:
        before, found, after = given.partition("=")
        name, artifact = (before, after) if found else (Path(given).resolve().name, given)
        if not _NAME.fullmatch(name) or not artifact:
            raise InvalidOptionError("ARTIFACT", given, "NAME=ARTIFACT, with a name without / or line breaks")
        if name in named:
            raise InvalidOptionError("ARTIFACT", name, "called differently than the others, as in NAME=ARTIFACT")
        named[name] = artifact
    return named
