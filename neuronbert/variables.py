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
from neuronbert.sdk import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from neuronbert.sdk import Device

VISIBLE: Final = "NEURON_RT_VISIBLE_CORES"
NUMBER: Final = "NEURON_RT_NUM_CORES"
_LNC: Final = "NEURON_LOGICAL_NC_CONFIG"
_FLAGS: Final = "NEURON_CC_FLAGS"
_OVERRIDE: Final = "NEURON_PLATFORM_TARGET_OVERRIDE"
_ROUNDING: Final = "NEURON_RT_STOCHASTIC_ROUNDING_EN"

_RANGE: Final = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
_PHYSICAL: Final[Mapping[str, int]] = {"inf2": 2, "trn1": 2, "trn1n": 2, "trn2": 8, "trn3": 8}
"""Target to the cores of one device (about-neuron/arch/neuron-hardware)."""
_LNC_DEFAULT: Final = 2
_SHOWN: Final = 40
_LNC_OPTIONS: Final = ("--lnc", "-lnc", "--logical-nc-config")
_OURS: Final = (*_LNC_OPTIONS, "--auto-cast", "--auto-cast-type", "--optlevel", "-O", "--target", "--model-type")
"""The compiler's options that neuronbert gives in every export."""
_BF16: Final = ("XLA_USE_BF16", "XLA_DOWNCAST_BF16")
_REMOVED: Final[Mapping[str, str]] = {
    "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "it was removed in 2.31",
    "NEURONCORE_GROUP_SIZES": f"it was replaced by {VISIBLE} and {NUMBER}",
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
    if VISIBLE in given:
        parts = [_RANGE.fullmatch(part.strip()) for part in given[VISIBLE].split(",")]
        numbers = [int(number) for part in parts if part for number in part.groups() if number]
        return range(numbers[0], numbers[-1] + 1)
    count = int(given.get(NUMBER, "0")) or _count(given, device)
    return None if count is None else range(count)


def _count(given: Mapping[str, str], device: Device | None) -> int | None:
    """How many cores the runtime counts; None if it can't be told."""
    if device is None or device.target is None:
        return None
    physical = _PHYSICAL[device.target] * device.devices
    if not _has_lnc(device.target):
        return physical
    return physical // int(given[_LNC]) if given.get(_LNC) in ("1", "2") else physical // _LNC_DEFAULT


def _has_lnc(target: str) -> bool:
    return target in ("trn2", "trn3")


def _check_visible(given: Mapping[str, str], count: int | None) -> Iterator[Conflict]:
    """neuron-runtime/guides/nrt-developer-guide: a list of numbers and ranges, contiguous and increasing."""
    text = given.get(VISIBLE)
    if text is None:
        return
    parts = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
    ranges = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    if len(ranges) < len(parts):
        yield Conflict(VISIBLE, f"is {text[:_SHOWN]!r}, which is no list of cores", f"export {VISIBLE}=0-1", fatal=True)
        return
    joined = all(after[0] == before[1] + 1 for before, after in pairwise(ranges))
    if not joined or any(low > high for low, high in ranges):
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        problem = f"is {text}; its cores must follow one another, in increasing order"
        yield Conflict(VISIBLE, problem, f"export {VISIBLE}={min(low, high)}-{high}", fatal=True)
    elif count is not None and ranges[-1][1] >= count:
        problem = f"is {text}, but this machine has {count} cores, 0 to {count - 1}"
        yield Conflict(VISIBLE, problem, f"export {VISIBLE}=0-{count - 1}", fatal=True)


def _check_number(given: Mapping[str, str], count: int | None) -> Iterator[Conflict]:
    """neuron-runtime/guides/configuration-guide: 1 to all of them, 0 for all; the list of cores wins."""
    text = given.get(NUMBER)
    if text is None:
        return
    if VISIBLE in given:
        problem = f"is {text}, but {VISIBLE}={given[VISIBLE]} takes precedence over it"
        yield Conflict(NUMBER, problem, f"unset {NUMBER}", fatal=False)
    elif not re.fullmatch(r"[0-9]{1,6}", text):
        yield Conflict(NUMBER, f"is {text[:_SHOWN]!r}, which is no number of cores", f"unset {NUMBER}", fatal=True)
    elif count is not None and int(text) > count:
        problem = f"is {text}, but this machine has {count} cores"
        yield Conflict(NUMBER, problem, f"export {NUMBER}={count}", fatal=True)


def _check_lnc(given: Mapping[str, str], target: str | None) -> Iterator[Conflict]:
    """about-neuron/arch/neuron-features/logical-neuroncore-config; compiler/error-codes/EARG001: on trn1 only 1."""
    text = given.get(_LNC)
    if text is None:
        return
    if text not in ("1", "2"):
        yield Conflict(_LNC, f"is {text[:_SHOWN]!r}; it must be 1 or 2", f"unset {_LNC}", fatal=True)
    elif text == "2" and target is not None and not _has_lnc(target):
        yield Conflict(_LNC, f"is 2, but {target} has only logical cores of 1", f"unset {_LNC}", fatal=True)


def _check_flags(given: Mapping[str, str]) -> Iterator[Conflict]:
    """compiler/neuronx-cc/api-reference-guide/index; logical-neuroncore-config: both sides must have one LNC."""
    text = given.get(_FLAGS)
    if text is None:
        return
    try:
        words = shlex.split(text)
    except ValueError:
        yield Conflict(_FLAGS, "has a quotation mark without its pair", f"unset {_FLAGS}", fatal=True)
        return
    options = dict(_options(words))
    said = next((options[name] for name in _LNC_OPTIONS if name in options), None)
    runtime = given.get(_LNC)
    if said and runtime and said != runtime:
        problem = f"compiles for logical cores of {said}, but {_LNC} is {runtime}; they must be equal"
        yield Conflict(_FLAGS, problem, f"unset {_FLAGS}", fatal=True)
        return
    twice = [name for name in options if name in _OURS]
    what = f"has {', '.join(twice)}, which neuronbert gives itself" if twice else "adds flags that no manifest records"
    yield Conflict(_FLAGS, f"{what}: use the options of export", f"unset {_FLAGS}", fatal=False)


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Each option of a command line with its value, whether they are joined by "=", by nothing (-O1), or are apart."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, joined, value = word.partition("=")
        if name.startswith("-O") and len(name) > len("-O"):
            yield "-O", name[2:]
        elif name.startswith("-"):
            yield name, value if joined else following


def _check_override(given: Mapping[str, str], found: str | None, target: str | None) -> Iterator[Conflict]:
    """vllm-neuron/docs/design/compilation/cpu_compilation: it names the family that is compiled for."""
    text = given.get(_OVERRIDE)
    if text is None:
        return
    if text not in KINDS:
        problem, fatal = f"is {text[:_SHOWN]!r}, which is none of {', '.join(KINDS)}", True
    elif target is not None and text != target:
        problem, fatal = f"is {text}, but {target} is meant", True
    elif found is not None and text != found:
        problem, fatal = f"is {text}, but this machine has devices of type {found}", False
    else:
        return
    yield Conflict(_OVERRIDE, problem, f"unset {_OVERRIDE}", fatal)


def _check_numerics(given: Mapping[str, str]) -> Iterator[Conflict]:
    """about-neuron/arch/neuron-features/rounding-modes; about-neuron/announcements/neuron2.x/announce-eos-xla-bf16."""
    for name in _BF16:
        if _is_on(given.get(name)):
            problem = "casts the whole model to bf16, whatever --auto-cast says, and its support ends"
            yield Conflict(name, problem, f"unset {name}", fatal=False)
    if _is_on(given.get(_ROUNDING)):
        problem = "rounds at random, so that no two calls answer alike"
        yield Conflict(_ROUNDING, problem, f"export {_ROUNDING}=0", fatal=False)


def _check_others(given: Mapping[str, str]) -> Iterator[Conflict]:
    """neuron-runtime/guides/configuration-guide on NEURON_RT_ALLOW_LEGACY_NEFF, and variables that are gone."""
    legacy = "NEURON_RT_ALLOW_LEGACY_NEFF"
    if _is_on(given.get(legacy)):
        problem = "lets programs for an older device run, which may fail or stall"
        yield Conflict(legacy, problem, f"unset {legacy}", fatal=False)
    for name, why in _REMOVED.items():
        if name in given:
            yield Conflict(name, f"does nothing any more: {why}", f"unset {name}", fatal=False)


def _is_on(text: str | None) -> bool:
    # neuron-runtime/api/nrt-env-var-reference: 0, 1, false or true, in any case.
    return (text or "0").lower() not in ("0", "false")
