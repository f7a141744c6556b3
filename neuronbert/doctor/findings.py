"""What was looked at, and how it is; and the looks at what any machine has: a network, disks, memory.

Owns: Finding, and the checks that have nothing to do with Neuron. Knows nothing of the SDK.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from neuronbert import hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Status = Literal["ok", "warning", "failed"]

_GIB: Final = 1 << 30
_LOW: Final = 4 * _GIB
"""Below this, of disk or of memory, a compilation of a base-sized encoder is likely to end in its middle."""
_HUB_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        status: "failed" where something can't work as it is, "warning" where it may not do what is meant.
        text: What was found.
        fix: What to type, where it is not "ok".
    """

    name: str
    status: Status
    text: str
    fix: str = ""


def check_surroundings(root: Path) -> Iterator[Finding]:
    """The Hub, the disks that an export writes to, and the memory; `root` is where /proc is."""
    yield _check_hub(hub.reach(_HUB_SECONDS))
    yield from _check_disk()
    yield from _check_memory(root)


def _check_hub(found: hub.Reach) -> Finding:
    if found.offline:
        return Finding("hub", "ok", f"{found.endpoint} is not asked: HF_HUB_OFFLINE is set")
    if found.problem:
        fix = "to use what is on this machine only, export HF_HUB_OFFLINE=1"
        return Finding("hub", "warning", f"{found.endpoint} can't be reached: {found.problem}", fix)
    known = {True: "a token is known", False: "no token is known (hf auth login)", None: "no token was looked up"}
    return Finding("hub", "ok", f"{found.endpoint} answers; {known[found.token]}")


def _check_disk() -> Iterator[Finding]:
    yield _check_place("disk of outputs", Path.cwd, "cd /another/disk")
    yield _check_place("disk of work files", lambda: Path(tempfile.gettempdir()), "export TMPDIR=/another/disk")


def _check_place(name: str, find: Callable[[], Path], fix: str) -> Finding:
    try:
        place = find()
        free = shutil.disk_usage(place).free
    except OSError as error:  # a working directory that was removed; no place that takes a temporary file
        return Finding(name, "failed", f"it can't be used: {error.strerror or error}", fix)
    text = f"{free / _GIB:.1f} GiB free in {place}"
    return Finding(name, "ok", text) if free >= _LOW else Finding(name, "warning", text, fix)


def _check_memory(root: Path) -> Iterator[Finding]:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration, IndexError):
        return
    text = f"{free / _GIB:.1f} GiB available"
    yield Finding("memory", "ok", text) if free >= _LOW else Finding("memory", "warning", text, "use a larger instance")
