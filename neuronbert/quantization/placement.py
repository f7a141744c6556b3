"""Where QDQBERT's quantizers go: twenty in every layer.

Owns: their names, hanging them into a model's modules, choosing some by name, and reading and writing their ranges.
Knows nothing of how ranges are found. Not quantized: embeddings, LayerNorm, softmax, GELU, pooler and heads. Source:
the modelling code of QDQBERT in transformers 4.34.
"""

from __future__ import annotations

from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import safe_open

from neuronbert.encoder.model import Encoder
from neuronbert.errors import CheckpointCorruptError, InvalidOptionError, UncalibratedError
from neuronbert.quantization.quantizers import Quantizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from neuronbert.schemes import Scheme

LINEARS: Final = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
INPUT: Final = "_input_quantizer"
WEIGHT: Final = "_weight_quantizer"
_OTHERS: Final = (
    *(f"attention.self.matmul_{part}_input_quantizer" for part in "qkva"),
    *(
        f"{place}.add_{part}_input_quantizer"
        for place in ("attention.output", "output")
        for part in ("local", "residual")
    ),
)
SITES: Final = (*(f"{linear}.{kind}" for linear in LINEARS for kind in (INPUT, WEIGHT)), *_OTHERS)
"""The twenty names within a layer."""
_SHARED: Final = (
    (
        *(f"attention.self.{part}.{INPUT}" for part in ("query", "key", "value")),
        f"attention.output.add_residual{INPUT}",
    ),
    (f"intermediate.dense.{INPUT}", f"output.add_residual{INPUT}"),
)
"""Places within a layer that are given one tensor: with one range, a program rounds it once for all of them."""
_STEM: Final = "encoder."
_RANGE: Final = "_quantizer._amax"


def attach(model: Any, scheme: Scheme) -> dict[str, Quantizer]:
    """Hang the quantizers of a scheme into a model with our encoder.

    Returns:
        By their names, as layer.0.output.dense._input_quantizer. Those of weights have their ranges already.

    Raises:
        InvalidOptionError: a name of the scheme is none of this model's.
    """
    layers = _trunk(model).encoder.layer
    quantizers: dict[str, Quantizer] = {}
    for index, layer in enumerate(layers):
        for site in SITES:
            owner, _, attribute = site.rpartition(".")
            name = f"layer.{index}.{site}"
            descriptor = scheme.weights if attribute == WEIGHT else scheme.inputs
            quantizers[name] = Quantizer(name, descriptor)
            setattr(layer.get_submodule(owner), attribute, quantizers[name])
    for name in scheme.kept_float:
        if name not in quantizers:
            raise InvalidOptionError("kept_float", name, "the name of a quantizer of this model")
        quantizers[name].enabled = False
    return quantizers


def of(model: Any) -> dict[str, Quantizer]:
    """The quantizers that hang in a model, by name."""
    return {module.name: module for module in model.modules() if isinstance(module, Quantizer)}


def tied(quantizers: Iterable[Quantizer]) -> list[list[Quantizer]]:
    """Quantizers in groups, in their order: those that are given one tensor together, each other alone."""
    groups: dict[tuple[str, object], list[Quantizer]] = {}
    for quantizer in quantizers:
        _, layer, site = quantizer.name.split(".", 2)
        place: object = next((sites for sites in _SHARED if site in sites), site)
        groups.setdefault((layer, place), []).append(quantizer)
    return list(groups.values())


@contextmanager
def switches(model: Any) -> Iterator[dict[str, Quantizer]]:
    """The quantizers of a model; those that are switched on or off in the block are as they were after it."""
    quantizers = of(model)
    before = {name: quantizer.enabled for name, quantizer in quantizers.items()}
    try:
        yield quantizers
    finally:
        for name, quantizer in quantizers.items():
            quantizer.enabled = before[name]


def ranges_of(model: Any) -> dict[str, Tensor]:
    """The ranges of the quantizers that quantize, by name.

    Raises:
        UncalibratedError: one of them was never set.
    """
    return {name: quantizer.amax() for name, quantizer in of(model).items() if quantizer.enabled}


def select(names: Iterable[str], patterns: Sequence[str], option: str) -> tuple[str, ...]:
    """The quantizers that patterns name: by their own name, or by that of a module or a layer that they are in.

    Args:
        names: Of all quantizers.
        patterns: As layer.2, layer.*.output.dense; a * stands for one part of a name, or for some of it.
        option: What errors call them.

    Raises:
        InvalidOptionError: a pattern names none.
    """
    names = tuple(names)
    chosen = set()
    for pattern in patterns:
        found = {name for name in names if _named(name, pattern.removeprefix(_STEM))}
        if not found:
            raise InvalidOptionError(
                option, pattern, "the name of a layer or a module, as layer.0 or layer.*.output.dense"
            )
        chosen |= found
    return tuple(name for name in names if name in chosen)


def set_ranges(model: Any, ranges: Mapping[str, Tensor], path: object) -> None:
    """Give a model's quantizers the ranges of a checkpoint.

    Raises:
        CheckpointCorruptError: a range can't be one, or belongs to no quantizer.
        UncalibratedError: one that quantizes has none.
    """
    quantizers = of(model)
    for name, amax in ranges.items():
        if name not in quantizers:
            raise CheckpointCorruptError(path, f"its range {name} belongs to no quantizer")
        check_ranges({name: amax}, path)
        quantizers[name].set_amax(_shaped(amax, quantizers[name], _rows(model, name), path))
    for name, quantizer in quantizers.items():
        if quantizer.enabled and name not in ranges:
            raise UncalibratedError(name)


def check_ranges(ranges: Mapping[str, Tensor], path: object) -> None:
    """Refuse ranges that none can be.

    Raises:
        CheckpointCorruptError: one is negative, infinite or not a number, or that of an input is 0.
    """
    for name, amax in ranges.items():
        if not bool(torch.isfinite(amax).all()) or bool((amax < 0).any()):
            raise CheckpointCorruptError(path, f"the range of {name} is not a finite number of 0 or more")
        if not name.endswith(WEIGHT) and not bool(amax.any()):  # a row of a weight may well be nothing
            raise CheckpointCorruptError(path, f"the range of {name} is 0, so that it would let nothing through")


def read_ranges(files: Iterable[Path]) -> dict[str, Tensor]:
    """The ranges in the weight files of a checkpoint, by the names of their quantizers."""
    ranges = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  it is no mapping
                if is_range(key):
                    name = key[key.find("layer.") :].removesuffix("._amax")
                    ranges[name] = file.get_tensor(key)
    return ranges


def is_range(key: str) -> bool:
    """Whether a key of a checkpoint's weights is a quantizer's range."""
    return key.endswith(_RANGE)


def linear_of(model: Any, name: str) -> Any:
    """The nn.Linear that a weight's or an input's quantizer belongs to, or None if it belongs to none."""
    owner, _, attribute = name.rpartition(".")
    return _trunk(model).encoder.get_submodule(owner) if attribute in (INPUT, WEIGHT) else None


def _trunk(model: Any) -> Any:
    return next(module for module in model.modules() if isinstance(module, Encoder))


def _named(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted))


def _rows(model: Any, name: str) -> int:
    weight = name.endswith(WEIGHT)
    return int(linear_of(model, name).weight.shape[0]) if weight else 1


def _shaped(amax: Tensor, quantizer: Quantizer, rows: int, path: object) -> Tensor:
    # Old checkpoints hold what NumPy made of a scalar: (), (1,) and (1, 1) all occur.
    count = 1 if quantizer.descriptor.axis is None else rows
    if amax.numel() != count:
        raise CheckpointCorruptError(path, f"the range of {quantizer.name} has {amax.numel()} values, not {count}")
    return amax.reshape(()) if quantizer.descriptor.axis is None else amax.reshape(-1, 1)
