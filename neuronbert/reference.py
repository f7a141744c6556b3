"""Names that the Neuron SDK's reference gives: environment variables, and the compiler's flags with their values.

Owns: the names, which of the flags every export gives, and reading a command line by them. Knows nothing of what is
done with them. Sources: Neuron Compiler CLI reference (compiler/neuronx-cc/api-reference-guide); others beside them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from neuronbert.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COMPILER_FLAGS: Final = "NEURON_CC_FLAGS"
"""Flags for a compiler that isn't called with a command line of ours."""
LOGICAL_CORES: Final = "NEURON_LOGICAL_NC_CONFIG"
"""The size of logical cores that the runtime is set to; read when it starts."""
PLATFORM: Final = "NEURON_PLATFORM_TARGET_OVERRIDE"
"""What torch_neuronx takes as its platform where there is no device; read when it is imported."""
NEFF_CACHE: Final = "TORCH_NEURONX_NEFF_CACHE_DIR"
"""Where TorchNeuron keeps NEFFs; its own default is a folder in /tmp that every user of the machine can write to."""
NO_FALLBACK: Final = "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION"
"""Whether TorchNeuron raises for what it can't compile, its default, or runs it as it is (torch/reference/env-vars)."""
VISIBLE_CORES: Final = "NEURON_RT_VISIBLE_CORES"
RAY_CORES: Final = "neuron_cores"
"""What Ray calls NeuronCores. Who is given some sees no others, by VISIBLE_CORES."""
NUMBER_OF_CORES: Final = "NEURON_RT_NUM_CORES"
ROUNDING: Final = "NEURON_RT_STOCHASTIC_ROUNDING_EN"
LEGACY_NEFFS: Final = "NEURON_RT_ALLOW_LEGACY_NEFF"
XLA_BF16: Final = ("XLA_USE_BF16", "XLA_DOWNCAST_BF16")

LNC: Final = "--logical-nc-config"
_SAME_AS: Final = {"-O": "--optlevel", "-lnc": LNC, "--lnc": LNC}
"""Other spellings. The last stands on other pages only (compiler/error-codes/EARG001): it is known, and not given."""

FLAGS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "--target": tuple(TARGETS),  # trn3 isn't listed there; the release notes have it
    "--model-type": ("generic", "transformer", "unet-inference"),
    "--auto-cast": ("none", "matmult", "all"),
    "--auto-cast-type": ("bf16", "fp16", "tf32", "fp8_e4m3"),
    "--native-int64": ("default", "enabled", "disabled"),
    "--implicit-integer-downcast": None,
    "--distribution-strategy": ("llm-training",),
    LNC: ("1", "2"),
    "--optlevel": ("1", "2", "3"),
    "--verbose": ("info", "warning", "error", "critical", "debug"),
    "--enable-mixed-precision-accumulation": (),
    "--disable-mixed-precision-accumulation": (),
    "--enable-saturate-infinity": (),
    "--enable-fast-context-switch": (),
    "--enable-fast-loading-neuron-binaries": (),
}
"""The flags that say what is compiled, and not where files are, to their values: none for a switch, None for a list."""

OPTION_OF: Final[Mapping[str, str]] = {
    **{name: name for name in ("--target", "--auto-cast", "--auto-cast-type", "--optlevel")},
    LNC: "--lnc",
    **dict.fromkeys(("--output", "--logfile"), "--compiler-workdir"),
}
"""Flags that have an option of ours, which is what the manifest records."""

GIVEN: Final = frozenset(
    {
        *(name for name in OPTION_OF if name in FLAGS),
        "--model-type",
        "--native-int64",
        "--implicit-integer-downcast",
        "--enable-mixed-precision-accumulation",
        "--disable-mixed-precision-accumulation",
    }
)
"""Flags that exports give, with what undoes them: the same from elsewhere would compete with ours."""

_LIST: Final = re.compile(r"[a-z_]+(,[a-z_]+)*")


def raises(text: str | None) -> bool:
    """Whether TorchNeuron raises for what it can't compile, by NO_FALLBACK; as it does where that isn't set.

    Which values it knows isn't documented: only what is surely on counts.
    """
    return (text or "1").lower() in ("1", "true")


def is_on(text: str | None) -> bool:
    """Whether a switch is: 0, 1, false or true, in any case (neuron-runtime/api/nrt-env-var-reference)."""
    return (text or "0").lower() not in ("0", "false")


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag of a command line with its value, whether they are joined by "=", by nothing (-O1), or are apart.

    A word that is no flag, and no value of the one before it, is a flag without a value.
    """
    left = list(words)
    while left:
        name, joined, value = left.pop(0).partition("=")
        if name.startswith("-O") and len(name) > len("-O"):
            name, value = "-O", f"{name[2:]}{joined}{value}"
        elif not joined and name.startswith("-") and FLAGS.get(name) != () and left and not left[0].startswith("-"):
            value = left.pop(0)
        yield name, value


def canonical(name: str) -> str:
    """The spelling under which a flag is in FLAGS, if it is; else the name itself."""
    return _SAME_AS.get(name, name)


def is_documented(name: str, value: str) -> bool:
    """Whether there is a flag of this name, in any spelling, with this value."""
    known = canonical(name)
    allowed = FLAGS.get(known, ())
    if allowed is None:
        return _LIST.fullmatch(value) is not None
    return known in FLAGS and value in (allowed or ("",))
