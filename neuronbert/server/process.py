"""The server as a process: a socket, signals, and a log.

Owns: run. SIGTERM: not ready any more, but answering, for as long as load balancers need to notice; then what is in
flight is finished, and the process ends. Ctrl-C ends it without that pause; once more, at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvicorn

from neuronbert.errors import InvalidOptionError, first_line
from neuronbert.server.app import create_app
from neuronbert.server.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from neuronbert.engine import Engine
    from neuronbert.server.exchange import Site
    from neuronbert.server.settings import Settings

logger = logging.getLogger("neuronbert.server")

_UVICORN = "uvicorn.error"
_OTHERS = (_UVICORN, "fastapi", "opentelemetry", "neuronbert.workers")
"""Loggers of libraries, whose warnings are lines of ours."""
_KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: more than the 60 after which load balancers close theirs."""


def run(engines: Mapping[str, Engine], settings: Settings) -> None:
    """Serve until a signal ends it.

    Args:
        engines: By the names that clients know them by.
        settings: How the server is set up.

    Raises:
        InvalidOptionError: nobody can listen there.
        NeuronBertError: a model can't be loaded.
    """
    listening = _listen(settings)
    _log_as_json()
    _allow_files()
    failures: list[Exception] = []

    def started(error: Exception | None) -> None:
        if error is None:
            logger.info("ready", extra={"fields": {"url": url}})
            return
        failures.append(error)
        server.should_exit = True

    app, site = create_app(engines, settings, started=started)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.forwarded_allow_ips is not None,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(settings.drain),
    )
    server = _Server(config, site)
    with listening:
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logger.info("listening", extra={"fields": {"url": url, "models": list(engines)}})
        server.run(sockets=[listening])
    if failures:
        raise failures[0]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site = site

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Go by signals while it serves. uvicorn's own would end the process by the signal once more."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._end, number, loop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _end(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        if self._site.ending or number == signal.SIGINT or not self._site.ready:  # nobody was sent here who must know
            self.force_exit = self.should_exit
            self.should_exit = True
            if self.force_exit:
                logging.getLogger(_UVICORN).setLevel(logging.CRITICAL)  # what is broken off now fails as it must
        else:
            loop.call_later(self._site.settings.grace, setattr, self, "should_exit", True)
        self._site.ending = True
        logger.info("ending", extra={"fields": {"signal": signal.Signals(number).name}})


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        expected = f"where this process can listen ({first_line(error)}). Choose another --host or --port"
        raise InvalidOptionError("port", f"{settings.host}:{settings.port}", expected) from error


def _allow_files() -> None:
    """Let the process open as many files as it may: each connection is one, and the usual 1,024 are soon gone."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # not every system takes a limit that it says is the highest
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Lines(logging.Formatter):
    """A record as a line of JSON: the time, what happened, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname.lower()}
        line["event"] = record.getMessage()
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in (("neuronbert.server", logging.INFO), *((name, logging.WARNING) for name in _OTHERS)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
