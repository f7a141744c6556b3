"""A machine as the doctor sees it: packages, devices, driver, system.

Owns: Machine, and gathering it. Knows nothing of what is good or bad about it.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuronbert import sdk

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything about a machine that the checks ask.

    Attributes:
        host: Packages and devices, as the backends see them.
        instance: The type of the instance; None if it can't be told.
        numbers: Those of the device files, in order.
        locked: Those of them that this user may not open.
        driver: The version that is loaded.
        packages: Debian packages of the SDK to their versions; empty on other systems.
        python: Its version.
        system: Kernel and processor, as in "Linux x86_64".
        glibc: Its version; None where there is none.
    """

    host: sdk.Host
    instance: str | None
    numbers: tuple[int, ...]
    locked: tuple[int, ...]
    driver: str | None
    packages: Mapping[str, str]
    python: str
    system: str
    glibc: str | None


def find_machine(root: Path = Path("/")) -> Machine:
    """Look at a machine; nothing is run, and no package imported."""
    numbers = sdk.find_numbers(root)
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ") or None
    except (ValueError, OSError):
        glibc = None
    return Machine(
        host=sdk.find_host(root),
        instance=sdk.find_instance(root),
        numbers=numbers,
        locked=tuple(n for n in numbers if not os.access(root / f"dev/neuron{n}", os.R_OK | os.W_OK)),
        driver=sdk.find_driver(root),
        packages=_find_packages(root),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        glibc=glibc,
    )


def _find_packages(root: Path) -> dict[str, str]:
    """The SDK's Debian packages that are installed, from dpkg's own file (deb822: a paragraph for each)."""
    try:
        text = (root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = {}
    for paragraph in re.findall(r"^Package: aws-neuronx-[^\n]+(?:\n[^\n]+)*", text, re.MULTILINE):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version", "")
    return found
