"""The releases of the AWS Neuron SDK: which versions of its packages were tested together.

Owns: the table, and finding a row of it. Knows nothing of what is installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from packaging.version import Version

_NUMBERS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the SDK: the versions that were tested together.

    Attributes:
        sdk: Its number.
        libraries: Versions of torch-neuronx in it; empty if it has none.
        compiler: Version of neuronx-cc.
        runtime: Version of aws-neuronx-runtime-lib.
        driver: Version of aws-neuronx-dkms.
        tools: Version of aws-neuronx-tools.
        python: The oldest and the newest Python that its compiler is built for.
    """

    sdk: str
    libraries: tuple[str, ...]
    compiler: str
    runtime: str
    driver: str
    tools: str
    python: tuple[str, str]


# From the first one with torch 2.9. Up to 2.32.0 as in src/helperscripts/n2-manifest.json of the SDK's repository;
# 2.33.0 as in release-notes/components/index, release-notes/releasecontent and release-notes/components/torchneuron of
# its documentation. 2.32.0 has no torch-neuronx of its own; setup/pytorch/manual pairs it with the last one before.
RELEASES: Final = (
    Release("2.27.0", ("2.9.0.2.11.19912",), "2.22.12471.0", "2.29.40.0", "2.25.4.0", "2.27.33.0", ("3.10", "3.12")),
    Release("2.27.1", ("2.9.0.2.11.19912",), "2.22.12471.0", "2.29.40.0", "2.25.4.0", "2.27.33.0", ("3.10", "3.12")),
    Release("2.28.0", ("2.9.0.2.12.22436",), "2.23.6484.0", "2.30.51.0", "2.26.5.0", "2.28.23.0", ("3.10", "3.12")),
    Release("2.28.1", ("2.9.0.2.12.22436",), "2.23.6484.0", "2.30.51.0", "2.26.10.0", "2.28.23.0", ("3.10", "3.12")),
    Release("2.29.0", ("2.9.0.2.13.24727",), "2.24.5133.0", "2.31.24.0", "2.27.4.0", "2.29.18.0", ("3.10", "3.12")),
    Release("2.29.1", ("2.9.0.2.13.26312",), "2.24.8799.0", "2.31.24.0", "2.27.4.0", "2.29.22.0", ("3.10", "3.12")),
    Release("2.30.0", ("2.9.0.2.14.27725",), "2.25.3371.0", "2.32.31.0", "2.28.0.0", "2.30.10.0", ("3.11", "3.13")),
    Release("2.31.0", ("2.9.0.2.15.32035",), "2.26.6360.0", "2.33.10.0", "2.29.0.0", "2.31.13.0", ("3.11", "3.13")),
    Release("2.31.1", ("2.9.0.2.15.32035",), "2.26.6360.0", "2.33.10.0", "2.29.0.0", "2.31.15.0", ("3.11", "3.13")),
    Release("2.32.0", ("2.9.0.2.15.32035",), "2.27.5334.0", "2.34.10.0", "2.30.2.0", "2.32.28.0", ("3.11", "3.13")),
    Release(
        "2.33.0",
        ("2.9.0.2.15.32035", "2.13.3.0", "2.14.3.0"),
        "2.28.7631.0",
        "2.35.30.0",
        "2.31.7.0",
        "2.33.38.0",
        ("3.12", "3.14"),
    ),
)
"""The SDK's table, oldest first."""


LAST_TRACE: Final = "2.9.0.2.15.32035"
"""The last torch-neuronx that has `trace` (setup/pytorch/manual)."""


def parse_version(version: str) -> Version:
    """The numbers that a version begins with, in which releases differ; 0, older than any, if it begins with none.

    What follows is of one build: PyTorch's "+cpu", a commit of the driver's, and Debian's revision, which to Python
    would be a later version.
    """
    found = _NUMBERS.match(version)
    return Version(found[0] if found else "0")


def release_of(compiler_version: str) -> Release | None:
    """The newest release with this version of neuronx-cc, whatever its build; None if none of the table has it."""
    wanted = str(parse_version(compiler_version))
    return next((release for release in reversed(RELEASES) if release.compiler == wanted), None)


def releases_of(library_version: str) -> tuple[Release, ...]:
    """The releases with this version of torch-neuronx, whatever its build, oldest first; TorchNeuron's by family."""
    public = str(parse_version(library_version))
    return tuple(
        release
        for release in RELEASES
        if any(public == version or public.startswith(f"{version}.") for version in release.libraries)
    )
