"""The Ray cluster that work is given to.

Owns: connected: a cluster of this machine for as long as it is needed, or one that is there already. Knows nothing of
what is run in it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

# Before Ray is imported, which reads it then: what one command starts and ends tells nobody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from neuronbert.errors import ClusterError, ClusterUnreachableError, InvalidOptionError, first_line
from neuronbert.reference import RAY_CORES

if TYPE_CHECKING:
    from collections.abc import Iterator

_STORE: Final = 1 << 28
"""Bytes that processes here may share: what they tell each other is small."""
_LONGEST: Final = 20
"""Characters of the folder for what is temporary."""
_UNSTARTED: Final = "doesn't start"
_PATIENCE: Final = 10.0
"""Seconds for a connection to a cluster."""
_TOKEN: Final = "RAY_AUTH_TOKEN"
_TOKENS: Final = ("RAY_AUTH_MODE", _TOKEN, "RAY_AUTH_TOKEN_PATH")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster: the one that this process is connected to, or that of an address, or one of its own.

    Args:
        address: As for ray.init; None for a cluster of this machine that ends with the block and leaves nothing.

    Raises:
        ClusterError: there is none.
    """
    if ray.is_initialized():
        yield
        return
    folder = None if address else _own_folder()
    own_token = folder is not None and not any(name in os.environ for name in _TOKENS)
    try:
        with _core_silenced():
            try:
                if own_token:
                    os.environ[_TOKEN] = secrets.token_hex()  # else Ray leaves one in the home folder
                _connect(address, folder)
                yield
            finally:
                ray.shutdown()
    finally:
        if own_token:
            os.environ.pop(_TOKEN, None)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def check(address: str | None) -> None:
    """See that somebody listens at the address of a cluster: Ray itself would wait for minutes, and say nothing.

    Raises:
        ClusterUnreachableError: nobody does.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or ray.is_initialized():
        return  # "auto", for instance
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterUnreachableError(str(address), first_line(error)) from error


def is_own(address: str | None) -> bool:
    """Whether `connected` would start a cluster of this machine."""
    return not address and not ray.is_initialized()


def _own_folder() -> str:
    # Ray's sockets are in it, and the name of a socket has 107 bytes at most.
    below = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="neuronbert-", dir=below if len(below) <= _LONGEST else "/tmp")


def _connect(address: str | None, folder: str | None) -> None:
    held = signal.getsignal(signal.SIGTERM)
    own = {"include_dashboard": False, "object_store_memory": _STORE, "_temp_dir": folder} if folder else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except SystemExit:  # by Ray's own handler of SIGTERM, from where it was set until here
        _restore(held)
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:  # its own errors have no class in common
        if address:
            raise ClusterUnreachableError(address, first_line(error)) from error
        raise ClusterError(_UNSTARTED, first_line(error)) from error
    finally:
        _restore(held)


def _restore(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's would end the process, and nothing would be put in order


@contextmanager
def _core_silenced() -> Iterator[None]:
    # Ray's core writes to stderr past Python, of what goes well, too. What goes wrong is raised.
    held = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere, os.fdopen(held, "w", buffering=1, closefd=False) as stderr:
            os.dup2(nowhere.fileno(), 2)
            with redirect_stderr(stderr):
                yield
    finally:
        os.dup2(held, 2)
        os.close(held)


def share(workers: int | None, *, on_device: bool) -> tuple[int, int]:
    """How many processes there are to be, and the CPUs of each.

    Args:
        workers: How many are asked for; None for one to a NeuronCore, or one to a node where the CPU is the target.
        on_device: Whether each takes a NeuronCore.

    Raises:
        InvalidOptionError: the cluster can't have so many.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    cores = sum(int(node.get(RAY_CORES, 0)) for node in nodes)
    most = cores if on_device else sum(cpus)
    asked = workers or (max(1, cores) if on_device else sum(count > 0 for count in cpus))
    if asked > most:
        what = f"{RAY_CORES}, of which each takes one" if on_device else "CPUs"
        raise InvalidOptionError("workers", asked, f"{most} or less: the cluster has {most} {what}")
    if on_device:
        return asked, 1
    return asked, next(size for size in range(max(cpus), 0, -1) if sum(count // size for count in cpus) >= asked)
