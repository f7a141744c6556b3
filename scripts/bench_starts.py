"""The figures of what needs no model: imports, the command line, the doctor, the header of a NEFF.

Owns: what each is compared with, and the limits.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench_tools import (
    ROOT,
    Row,
    alternate,
    peak_bytes,
    python,
)

from neuronbert.neff import HEADER_SIZE, read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_tools import Models


IMPORTED: Final = 0
HELP_SECONDS: Final = 0.4
HEADER_US: Final = 10_000.0
HEADER_MIB: Final = 16.0
DOCTOR_SECONDS: Final = 2.0


def imports(models: Models, rounds: int) -> list[Row]:  # noqa: ARG001  every figure is called alike
    """What `import neuronbert` brings in, and what the command line's help costs a fresh process."""
    count = "import neuronbert, sys; print(len({'torch', 'transformers'} & set(sys.modules)))"
    rows = [Row("import: torch and transformers, imported", (float(python("-c", count)),), "", IMPORTED)]
    commands: dict[str, Callable[[], str]] = {"python -m cli --help": lambda: python("-m", "cli", "--help")}
    script = Path(sys.executable).parent / "neuronbert"
    if script.is_file():
        commands["neuronbert --help"] = lambda: python("--help", program=script)
    for name, command in commands.items():
        command()
        taken = [alternate((command, lambda: python("-c", "pass")), calls=5) for _ in range(rounds)]
        more = tuple(statistics.median(helped) - statistics.median(idle) for helped, idle in taken)
        rows.append(Row(f"import: {name} over python -c pass", more, "s", HELP_SECONDS))
    return rows


def doctor(models: Models, rounds: int) -> list[Row]:  # noqa: ARG001  every figure is called alike
    """The whole command, in a fresh process: without the Hub, and with one that never answers."""

    def seconds(**environ: str) -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "cli", "doctor"]
        # Its exit code says what this machine lacks, which is no matter here.
        subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, check=False)
        return time.perf_counter() - start

    with socket.create_server(("127.0.0.1", 0)) as mute:
        slow = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{mute.getsockname()[1]}", "NO_PROXY": "*"}
        offline, waiting = zip(*((seconds(HF_HUB_OFFLINE="1"), seconds(**slow)) for _ in range(rounds)), strict=True)
    return [
        Row("doctor: offline", offline, "s", DOCTOR_SECONDS),
        Row("doctor: with a Hub that never answers", waiting, "s", DOCTOR_SECONDS),
    ]


def neff(models: Models, rounds: int) -> list[Row]:
    """The header of a NEFF of 1 GiB: the time of one read, and the memory of a process that does nothing else.

    The memory is what it takes over a bare interpreter, imports included.
    """
    path = models.folder / "huge.neff"
    header = bytearray(HEADER_SIZE)
    struct.pack_into("<5Q", header, 0, 2, HEADER_SIZE, (1 << 30) - HEADER_SIZE, 2, 0)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(1 << 30)
    seconds = [statistics.median(alternate([partial(read_header, path)], calls=50)[0]) for _ in range(rounds)]
    code = f"from neuronbert.neff import read_header\nread_header({str(path)!r})\n"
    more = [(peak_bytes(code) - peak_bytes("pass\n")) / 2**20 for _ in range(rounds)]
    return [
        Row("neff: header of a 1 GiB file", tuple(1e6 * value for value in seconds), "us", HEADER_US),
        Row("neff: the same, memory over python -c pass", tuple(more), "MiB", HEADER_MIB),
    ]
