"""The command line of neuronx-cc, for both libraries that drive it.

Owns: the flags, which of them a target and a version of the compiler know, and the size of logical cores. Knows nothing
of torch. Source: Neuron Compiler CLI reference (neuronx-cc); Logical NeuronCore configuration.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from neuronbert.errors import InvalidOptionError, LogicalCoresError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from neuronbert.manifest import Manifest
    from neuronbert.spec import ExportSpec, LogicalCores

VARIABLE: Final = "NEURON_CC_FLAGS"
"""Flags for a compiler that isn't called with a command line of ours."""
LOGICAL_CORES: Final = "NEURON_LOGICAL_NC_CONFIG"
"""The size of logical cores that the runtime is set to; read when it starts."""

_LNC: Final[Mapping[str, LogicalCores]] = {"trn2": 2, "trn3": 2}
"""Targets that have logical cores, with the size that compiler and runtime take by default."""
_INTEGER_FLAGS_FROM: Final = Version("2.27")
"""The compiler that first had --native-int64 and --implicit-integer-downcast, and announced other defaults for them."""
_OPTION_OF: Final = {
    "--target": "--target",
    "--auto-cast": "--auto-cast",
    "--auto-cast-type": "--auto-cast-type",
    "--optlevel": "--optlevel",
    **dict.fromkeys(("--lnc", "-lnc", "--logical-nc-config"), "--lnc"),
    **dict.fromkeys(("--output", "--logfile"), "--compiler-workdir"),
}
"""Flags that have an option of ours, which is what the manifest records."""
_DOCUMENTED: Final = frozenset(
    {
        "--target",
        "--model-type",
        "--auto-cast",
        "--auto-cast-type",
        "--native-int64",
        "--implicit-integer-downcast",
        "--lnc",
        "--optlevel",
        "--enable-mixed-precision-accumulation",
        "--disable-mixed-precision-accumulation",
        "--enable-saturate-infinity",
        "--enable-fast-context-switch",
        "--enable-fast-loading-neuron-binaries",
        "--verbose",
    }
)
"""The flags of the reference that say what is compiled, and not where files are."""
_WORD: Final = re.compile(r"[\w.,:=+-]+", re.ASCII)


def command_line(spec: ExportSpec, version: str | None) -> list[str]:
    """The flags for one export: all that matters is said, since the compiler's defaults change between versions.

    Args:
        spec: What to make, with its target resolved.
        version: Of the compiler; None if another machine's will do it, so that only what every version knows is said.

    Raises:
        InvalidOptionError: one of the user's own flags has an option of ours, or the target has no such logical cores.
    """
    cast = "matmult" if spec.auto_cast == "matmul" else spec.auto_cast
    line = ["--target", spec.target, "--model-type", "transformer", "--optlevel", spec.optlevel]
    line += ["--auto-cast", cast, "--auto-cast-type", spec.auto_cast_type, "--enable-mixed-precision-accumulation"]
    cores = logical_cores(spec)
    if cores is not None:
        line += ["--lnc", str(cores)]
    if version is not None and _parse(version) >= _INTEGER_FLAGS_FROM:
        line += ["--implicit-integer-downcast", "all"]
        if cores is not None:  # "only available on trn2 and later"
            line += ["--native-int64", "disabled"]
    return [*line, *_own(spec)]


def logical_cores(spec: ExportSpec) -> LogicalCores | None:
    """Physical cores to a logical one; None for a target that has no such setting.

    Raises:
        InvalidOptionError: the target has no larger ones (NCC_EARG001).
    """
    if spec.target in _LNC:
        return spec.lnc or _LNC[spec.target]
    if spec.lnc not in (None, 1):
        raise InvalidOptionError("lnc", spec.lnc, f"1 for {spec.target}, which has no larger logical cores")
    return None


def unknown(words: Iterable[str]) -> Iterator[str]:
    """The words of a command line that aren't in the compiler's reference, nor values: what nobody else should set."""
    for word in words:
        if not _WORD.fullmatch(word) or (word.startswith("-") and word.partition("=")[0] not in _DOCUMENTED):
            yield word


def refuse_other_lnc(manifest: Manifest) -> None:
    """Refuse programs for logical cores of another size than the runtime's, which says so in its log only.

    Raises:
        LogicalCoresError: they are.
    """
    compiled = manifest.compiler.lnc
    if compiled is not None:
        configured = os.environ.get(LOGICAL_CORES) or str(_LNC.get(manifest.target, compiled))
        if configured != str(compiled):
            raise LogicalCoresError(compiled, configured)


def _own(spec: ExportSpec) -> list[str]:
    for flag in spec.compiler_args:
        option = "--optlevel" if flag.startswith("-O") else _OPTION_OF.get(flag.partition("=")[0])
        if option:
            raise InvalidOptionError("compiler_args", flag, f"left out: there is {option} for it")
    return list(spec.compiler_args)


def _parse(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")
