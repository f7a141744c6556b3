"""Environment variables of the Neuron SDK that contradict each other, the machine, or what neuronbert sets itself.

Owns: the rules, each with where it is documented. Knows nothing of how they are shown. Sources are paths in the SDK's
documentation.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from neuronbert.errors import InvalidOptionError
from neuronbert.reference import (
    COMPILER_FLAGS,
    GIVEN,
    LEGACY_NEFFS,
    LNC,
    LOGICAL_CORES,
    NO_FALLBACK,
    NUMBER_OF_CORES,
    PLATFORM,
    ROUNDING,
    VISIBLE_CORES,
    XLA_BF16,
    canonical,
    is_on,
    options,
    raises,
)
from neuronbert.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from neuronbert.sdk import Device

_RANGE: Final = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
_SHOWN: Final = 40
_REMOVED: Final[Mapping[str, str]] = {
    "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "it was removed in 2.31",
    "NEURONCORE_GROUP_SIZES": f"it was replaced by {VISIBLE_CORES} and {NUMBER_OF_CORES}",
}
"""release-notes/components/runtime; general/announcements/neuron1.x/eol-ncgs-env_2."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """One variable that can't stay as it is.

    Attributes:
        variable: Its name.
        problem: What is wrong.
        fix: What to type.
        fatal: Nothing can be loaded, or compiled, with it; else results or speed differ from what is asked for.
    """

    variable: str
    problem: str
    fix: str
    fatal: bool


def find_conflicts(
    environ: Mapping[str, str], device: Device | None, target: str | None = None
) -> tuple[Conflict, ...]:
    """Every conflict, in the order of the rules.

    Args:
        environ: The environment; empty values count as unset.
        device: The devices of this machine.
        target: What is compiled for, if one target is meant.
    """
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    found = device.target if device else None
    rules = (
        _check_visible(given, _count(given, device)),
        _check_number(given, _count(given, device)),
        _check_lnc(given, found or target),
        _check_flags(given),
        _check_override(given, found, target),
        _check_fallback(given, target or found),
        _check_numerics(given),
        _check_others(given),
    )
    return tuple(conflict for rule in rules for conflict in rule)


def find_cores(environ: Mapping[str, str], device: Device | None) -> range | None:
    """The NeuronCores that this process may use, by their numbers; None if that can't be told.

    Args:
        environ: The environment; empty values count as unset.
        device: The devices of this machine.

    Raises:
        InvalidOptionError: the environment names cores that there can't be.
    """
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    for conflict in (*_check_visible(given, _count(given, device)), *_check_number(given, _count(given, device))):
        if conflict.fatal:
            raise InvalidOptionError(conflict.variable, given[conflict.variable], f"another: {conflict.fix}")
    if VISIBLE_CORES in given:
        parts = [_RANGE.fullmatch(part.strip()) for part in given[VISIBLE_CORES].split(",")]
        numbers = [int(number) for part in parts if part for number in part.groups() if number]
        return range(numbers[0], numbers[-1] + 1)
    count = int(given.get(NUMBER_OF_CORES, "0")) or _count(given, device)
    return None if count is None else range(count)


def _count(given: Mapping[str, str], device: Device | None) -> int | None:
    """How many cores the runtime counts; None if it can't be told."""
    if device is None or device.target is None:
        return None
    target = TARGETS[device.target]
    said = given.get(LOGICAL_CORES)
    lnc = next((lnc for lnc in target.lncs if str(lnc) == said), target.default_lnc)
    return target.cores * device.devices // lnc


def _check_visible(given: Mapping[str, str], count: int | None) -> Iterator[Conflict]:
    """neuron-runtime/guides/nrt-developer-guide: a list of numbers and ranges, contiguous and increasing."""
    text = given.get(VISIBLE_CORES)
    if text is None:
        return
    parts = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
    ranges = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    if len(ranges) < len(parts):
        yield Conflict(
            VISIBLE_CORES, f"is {text[:_SHOWN]!r}, which is no list of cores", f"export {VISIBLE_CORES}=0-1", fatal=True
        )
        return
    joined = all(after[0] == before[1] + 1 for before, after in pairwise(ranges))
    if not joined or any(low > high for low, high in ranges):
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        problem = f"is {text}; its cores must follow one another, in increasing order"
        yield Conflict(VISIBLE_CORES, problem, f"export {VISIBLE_CORES}={min(low, high)}-{high}", fatal=True)
    elif count is not None and ranges[-1][1] >= count:
        problem = f"is {text}, but this machine has {count} cores, 0 to {count - 1}"
        yield Conflict(VISIBLE_CORES, problem, f"export {VISIBLE_CORES}=0-{count - 1}", fatal=True)


def _check_number(given: Mapping[str, str], count: int | None) -> Iterator[Conflict]:
    """neuron-runtime/guides/configuration-guide: 1 to all of them, 0 for all; the list of cores wins."""
    text = given.get(NUMBER_OF_CORES)
    if text is None:
        return
    if VISIBLE_CORES in given:
        problem = f"is {text}, but {VISIBLE_CORES}={given[VISIBLE_CORES]} takes precedence over it"
        yield Conflict(NUMBER_OF_CORES, problem, f"unset {NUMBER_OF_CORES}", fatal=False)
    elif not re.fullmatch(r"[0-9]{1,6}", text):
        yield Conflict(
            NUMBER_OF_CORES,
            f"is {text[:_SHOWN]!r}, which is no number of cores",
            f"unset {NUMBER_OF_CORES}",
            fatal=True,
        )
    elif count is not None and int(text) > count:
        problem = f"is {text}, but this machine has {count} cores"
        yield Conflict(NUMBER_OF_CORES, problem, f"export {NUMBER_OF_CORES}={count}", fatal=True)


def _check_lnc(given: Mapping[str, str], target: str | None) -> Iterator[Conflict]:
    """about-neuron/arch/neuron-features/logical-neuroncore-config; compiler/error-codes/EARG001: on trn1 only 1."""
    text = given.get(LOGICAL_CORES)
    if text is None:
        return
    if text not in ("1", "2"):
        yield Conflict(LOGICAL_CORES, f"is {text[:_SHOWN]!r}; it must be 1 or 2", f"unset {LOGICAL_CORES}", fatal=True)
    elif text == "2" and target is not None and not TARGETS[target].has_lnc:
        yield Conflict(
            LOGICAL_CORES, f"is 2, but {target} has only logical cores of 1", f"unset {LOGICAL_CORES}", fatal=True
        )


def _check_flags(given: Mapping[str, str]) -> Iterator[Conflict]:
    """compiler/neuronx-cc/api-reference-guide/index; logical-neuroncore-config: both sides must have one LNC."""
    text = given.get(COMPILER_FLAGS)
    if text is None:
        return
    try:
        words = shlex.split(text)
    except ValueError:
        yield Conflict(COMPILER_FLAGS, "has a quotation mark without its pair", f"unset {COMPILER_FLAGS}", fatal=True)
        return
    found = dict(options(words))
    said = next((value for name, value in found.items() if canonical(name) == LNC), None)
    runtime = given.get(LOGICAL_CORES)
    if said and runtime and said != runtime:
        problem = f"compiles for logical cores of {said}, but {LOGICAL_CORES} is {runtime}; they must be equal"
        yield Conflict(COMPILER_FLAGS, problem, f"unset {COMPILER_FLAGS}", fatal=True)
        return
    twice = [name for name in found if canonical(name) in GIVEN]
    what = f"has {', '.join(twice)}, which neuronbert gives itself" if twice else "adds flags that no manifest records"
    yield Conflict(COMPILER_FLAGS, f"{what}: use the options of export", f"unset {COMPILER_FLAGS}", fatal=False)


def _check_override(given: Mapping[str, str], found: str | None, target: str | None) -> Iterator[Conflict]:
    """vllm-neuron/docs/design/compilation/cpu_compilation: it names the family that is compiled for."""
    text = given.get(PLATFORM)
    if text is None:
        return
    if text not in TARGETS:
        problem, fatal = f"is {text[:_SHOWN]!r}, which is none of {', '.join(TARGETS)}", True
    elif target is not None and text != target:
        problem, fatal = f"is {text}, but {target} is meant", True
    elif found is not None and text != found:
        problem, fatal = f"is {text}, but this machine has devices of type {found}", False
    else:
        return
    yield Conflict(PLATFORM, problem, f"unset {PLATFORM}", fatal)


def _check_fallback(given: Mapping[str, str], target: str | None) -> Iterator[Conflict]:
    """torch/reference/env-vars, TorchNeuron's; the library before it doesn't read the variable."""
    if not raises(given.get(NO_FALLBACK)):
        problem = (
            f"is {given[NO_FALLBACK][:_SHOWN]!r}: what TorchNeuron can't compile would run uncompiled, so it is refused"
        )
        fatal = target is not None and TARGETS[target].kinds == ("native",)
        yield Conflict(NO_FALLBACK, problem, f"unset {NO_FALLBACK}", fatal)


def _check_numerics(given: Mapping[str, str]) -> Iterator[Conflict]:
    """about-neuron/arch/neuron-features/rounding-modes; about-neuron/announcements/neuron2.x/announce-eos-xla-bf16."""
    for name in XLA_BF16:
        if is_on(given.get(name)):
            problem = "casts the whole model to bf16, whatever --auto-cast says, and its support ends"
            yield Conflict(name, problem, f"unset {name}", fatal=False)
    if is_on(given.get(ROUNDING)):
        problem = "rounds at random, so that no two calls answer alike"
        yield Conflict(ROUNDING, problem, f"export {ROUNDING}=0", fatal=False)


def _check_others(given: Mapping[str, str]) -> Iterator[Conflict]:
    """neuron-runtime/guides/configuration-guide on NEURON_RT_ALLOW_LEGACY_NEFF, and variables that are gone."""
    if is_on(given.get(LEGACY_NEFFS)):
        problem = "lets programs for an older device run, which may fail or stall"
        yield Conflict(LEGACY_NEFFS, problem, f"unset {LEGACY_NEFFS}", fatal=False)
    for name, why in _REMOVED.items():
        if name in given:
            yield Conflict(name, f"does nothing any more: {why}", f"unset {name}", fatal=False)
