"""A Ray cluster of this machine for tests: its own ports, folder and token, nothing of it left behind."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import neuron
from tests.support.distributions import lay_out_compiler

CORES = 2
"""NeuronCores that it has, all of them of a double."""
KEY = "s3cret"


def environment(site: Path) -> dict[str, str]:
    """That of a machine with one inf2 device of two cores: of the vendor's library's double, in every process."""
    site.mkdir()
    neuron.install(site, neuron.TRACE, "torch_neuronx")
    device = """
        from neuronbert import sdk
        sdk.find_device = lambda *_: sdk.Device("inf2", 1)
    """
    (site / "sitecustomize.py").write_text(textwrap.dedent(device))
    return {
        "PYTHONPATH": f"{site}:{Path(__file__).parents[2]}",  # the double is in the tests
        "PATH": f"{lay_out_compiler(site, neuron.COMPILER)}:{os.environ['PATH']}",
        "NEURON_DOUBLE": json.dumps({"device": "inf2", "compiler": neuron.COMPILER}),
    }


@contextmanager
def cluster() -> Iterator[str]:
    """A cluster that this process is connected to; its address."""
    folder = tempfile.mkdtemp(prefix="nb-", dir="/tmp")  # a socket's name is short
    held = signal.getsignal(signal.SIGTERM)
    given = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(),
        "NEURONBERT_API_KEY": KEY,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        import ray

        options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs
                ray.init("local", num_cpus=4, resources={"neuron_cores": CORES}, _temp_dir=folder, **options)
            signal.signal(signal.SIGTERM, held)
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def children(pid: int) -> list[int]:
    """All that a process started, and what that started."""
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid for child in found for pid in (child, *_alive(child))]


def _alive(pid: int) -> list[int]:
    try:
        return children(pid)
    except OSError:  # it has ended meanwhile
        return []


def named(pid: int, title: str) -> list[int]:
    """Those of the children whose command line holds a text."""
    found = []
    for child in _alive(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if title in line:
            found.append(child)
    return found


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("neuronbert")), *map(str, arguments)]
