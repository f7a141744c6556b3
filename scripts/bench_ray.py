"""The figures of one replica of Ray Serve beside the single process: by Ray's own proxy, and by HAProxy.

Owns: how Ray is started, which ways to a replica there are, and what Ray takes of memory. Clients and texts are
those of bench_serving, and the replica has as many threads as the single process.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import bench_serving
from bench_tools import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench_tools import Models

HAPROXY: Final = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
"""What Ray's documentation recommends for throughput (kuberay/user-guides/serve-high-throughput)."""
WAYS: Final[Mapping[str, Mapping[str, str]]] = {"Ray's proxy": {}, "HAProxy": HAPROXY}
_PATIENCE: Final = 90.0
_RAY: Final = ("gcs_server", "raylet", "/ray/", "ray::", "haproxy")
"""What stands in the command lines of Ray's processes; in those of our workers it doesn't."""


def ray(models: Models, rounds: int) -> list[Row]:
    """All texts answered over HTTP, by `neuronbert serve` and by a replica of Ray Serve."""
    texts, artifact = bench_serving.prepared(models)
    found: list[Row] = []
    with ExitStack() as stack:
        clients = stack.enter_context(bench_serving._Clients(texts))
        ports = {"neuronbert serve": stack.enter_context(bench_serving._ours(artifact))}
        for name, flags in WAYS.items():
            ports[name], process = stack.enter_context(_serving(artifact, models.threads, flags))
            found.append(Row(f"ray: memory of {name}", (_memory(process.pid) / 2**20,), "MiB"))
        bench_serving._check(ports, clients, None)
        rates: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, port in ports.items():
                for kind in bench_serving.CLIENTS:
                    rates.setdefault((name, kind), []).append(clients.rate(port, kind, models.seconds))
    for (name, kind), values in rates.items():
        found.append(Row(f"ray: {name}, {kind}", tuple(values), "/s"))
    for name in WAYS:
        for kind in bench_serving.CLIENTS:
            share = bench_serving._over(rates[name, kind], rates["neuronbert serve", kind])
            found.append(Row(f"ray: {name} over the single process, {kind}", share, "x"))
    return found


@contextmanager
def _serving(artifact: Path, threads: int, flags: Mapping[str, str]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A replica in a cluster of its own, on a free port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = int(free.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="nb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ,
            **flags,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_TOKEN": secrets.token_hex(),
            "RAY_SERVE_DEFAULT_HTTP_PORT": str(port),
            "RAY_TMPDIR": folder,
        }
        command = [str(Path(sys.executable).with_name("serve")), "run", "neuronbert.server.ray:app"]
        given = [f"artifact={artifact}", f"cpus={threads}"]
        said = subprocess.DEVNULL
        with subprocess.Popen([*command, *given], stdout=said, stderr=said, env=environment) as process:
            try:
                bench_serving._wait_for(process, port, "/readyz")
                yield port, process
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


def _memory(pid: int) -> int:
    """Bytes of Ray's own processes, and of the replica's (but not of its workers); what is shared counts once."""
    total = 0
    for child in _children(pid):
        line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        if "neuronbert.workers" not in line and any(part in line for part in _RAY):
            rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
            total += 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def _children(pid: int) -> list[int]:
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid for child in found for pid in (child, *_children(child))]
