"""The command line of neuronx-cc, for both libraries that drive it.

Owns: the flags of an export, which of them a target and a version of the compiler know, what is taken from an artifact,
and the size of logical cores. Knows nothing of torch. Source: Neuron Compiler CLI reference (neuronx-cc); Logical
NeuronCore configuration.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from packaging.version import Version

from neuronbert.errors import InvalidOptionError, LogicalCoresError
from neuronbert.reference import LNC, LOGICAL_CORES, OPTION_OF, canonical, is_documented, options
from neuronbert.releases import parse_version
from neuronbert.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neuronbert.manifest import Manifest
    from neuronbert.spec import ExportSpec
    from neuronbert.targets import LogicalCores

_INTEGER_FLAGS_FROM: Final = Version("2.27")
"""The compiler that first had --native-int64 and --implicit-integer-downcast, and announced other defaults for them."""
_NATIVE_INT64_FROM: Final = TARGETS["trn2"].core
"""The NeuronCores that have --native-int64: "only available on trn2 and later"."""
_SPELLED: Final = {"matmul": "matmult"}
"""What the compiler calls otherwise than we do."""


def command_line(spec: ExportSpec, version: str | None) -> list[str]:
    """The flags for one export: all that matters is said, since the compiler's defaults change between versions.

    Args:
        spec: What to make, with its target resolved.
        version: Of the compiler; None if another machine's will do it, so that only what every version knows is said.

    Raises:
        InvalidOptionError: one of the user's own flags has an option of ours, or the target has no such logical cores.
    """
    cast = _SPELLED.get(spec.auto_cast, spec.auto_cast)
    line = ["--target", spec.target, "--model-type", "transformer", "--optlevel", spec.optlevel]
    line += ["--auto-cast", cast, "--auto-cast-type", spec.auto_cast_type, "--enable-mixed-precision-accumulation"]
    cores = logical_cores(spec)
    if cores is not None:
        line += [LNC, str(cores)]
    if version is not None and parse_version(version) >= _INTEGER_FLAGS_FROM:
        line += ["--implicit-integer-downcast", "all"]
        if TARGETS[spec.target].core >= _NATIVE_INT64_FROM:
            line += ["--native-int64", "disabled"]
    return [*line, *_own(spec)]


def logical_cores(spec: ExportSpec) -> LogicalCores | None:
    """Physical cores to a logical one; None for a target that has no such setting.

    Raises:
        InvalidOptionError: the target has no larger ones (NCC_EARG001).
    """
    target = TARGETS[spec.target]
    if target.has_lnc:
        return spec.lnc or target.default_lnc
    if spec.lnc not in (None, 1):
        raise InvalidOptionError("lnc", spec.lnc, f"1 for {spec.target}, which has no larger logical cores")
    return None


def unknown(words: Sequence[str]) -> Iterator[str]:
    """What of a command line isn't in the compiler's reference: flags, values, and what is neither."""
    for name, value in options(words):
        if not is_documented(name, value):
            yield f"{name} {value}".rstrip()


def unlike(manifest: Manifest) -> Iterator[str]:
    """What an artifact's command line asks for other than its manifest says, by which it is checked and shown."""
    compiler = manifest.compiler
    said = {
        "--target": manifest.target,
        "--auto-cast": _SPELLED.get(compiler.auto_cast, compiler.auto_cast),
        "--auto-cast-type": compiler.auto_cast_type,
        "--optlevel": compiler.optlevel,
        LNC: None if compiler.lnc is None else str(compiler.lnc),
    }
    asked = {canonical(name): value for name, value in options(compiler.flags)}  # of competing ones the right-most wins
    for name, value in said.items():
        if asked.get(name) != value:
            yield f"{name} {asked[name]}" if name in asked else f"no {name}"


def refuse_other_lnc(manifest: Manifest) -> None:
    """Refuse programs for logical cores of another size than the runtime's, which says so in its log only.

    Raises:
        LogicalCoresError: they are.
    """
    compiled = manifest.compiler.lnc
    if compiled is not None:
        target = TARGETS[manifest.target]
        configured = os.environ.get(LOGICAL_CORES) or str(target.default_lnc if target.has_lnc else compiled)
        if configured != str(compiled):
            raise LogicalCoresError(compiled, configured)


def _own(spec: ExportSpec) -> list[str]:
    for flag in spec.compiler_args:
        ((name, _),) = options((flag,))
        option = OPTION_OF.get(canonical(name))
        if option:
            raise InvalidOptionError("compiler_args", flag, f"left out: there is {option} for it")
    return list(spec.compiler_args)
