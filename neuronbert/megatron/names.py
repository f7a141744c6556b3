"""Names of weights: Megatron-LM's, old and new, to one set, and that to transformers'.

Owns: the table of weights. Knows nothing of values.

The one set is that of Megatron core's flat layout (megatron/core/models/bert of version 0.15): the classic nested
layout (megatron/model of versions 1.0 to 23.04) and core's Transformer Engine layers are renamed to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert.errors import CheckpointCorruptError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from neuronbert.megatron.merging import Division

WORDS: Final = "embedding.word_embeddings.weight"
POSITIONS: Final = "embedding.position_embeddings.weight"
TYPES: Final = "embedding.tokentype_embeddings.weight"
DECODER: Final = "output_layer.weight"
BIAS: Final = "output_layer.bias"
UP: Final = "encoder.layers.0.mlp.linear_fc1.weight"
_LAYER: Final = re.compile(r"encoder\.layers\.(\d+)\.")
_IGNORED: Final = re.compile(r"(.*\.)?_extra_state\d*")
"""What Transformer Engine keeps for fp8."""
_MAX_ENTRIES: Final = 100_000
_MAX_NAME: Final = 200
_RENAMED: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^language_model\.", ""),
        (r"^(embedding\.)?(word|position|tokentype)_embeddings\.", r"embedding.\2_embeddings."),
        (r"^word_embeddings_for_head\.", "output_layer."),
        (r"^transformer\.", "encoder."),
        (r"\.attention\.", ".self_attention."),
        (r"\.self_attention\.query_key_value\.", ".self_attention.linear_qkv."),
        (r"\.self_attention\.dense\.", ".self_attention.linear_proj."),
        (r"\.self_attention\.linear_qkv\.layer_norm_", ".input_layernorm."),
        (r"\.post_attention_layernorm\.", ".pre_mlp_layernorm."),
        (r"\.mlp\.dense_h_to_4h\.", ".mlp.linear_fc1."),
        (r"\.mlp\.dense_4h_to_h\.", ".mlp.linear_fc2."),
        (r"\.mlp\.linear_fc1\.layer_norm_", ".pre_mlp_layernorm."),
        (r"^lm_head\.layernorm\.", "lm_head.layer_norm."),
        (r"^lm_head\.bias$", "output_layer.bias"),
    )
)


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of the model that is made.

    Attributes:
        name: transformers' name.
        source: The name in the one set.
        dims: What each dimension is as long as: names of sizes.
        division: How it lies over tensor-parallel parts.
        norm: It multiplies what a LayerNorm has normalised.
    """

    name: str
    source: str
    dims: tuple[str, ...]
    division: Division = "none"
    norm: bool = False


def flatten(content: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """The weights of one stage under the names of the one set.

    Raises:
        CheckpointCorruptError: two of them have the same name.
    """
    found: dict[str, Any] = {}
    for name, value in _leaves(content, path):
        if _IGNORED.fullmatch(name):
            continue
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        if name in found:
            raise CheckpointCorruptError(path, f"it holds {name} twice")
        found[name] = value
    return found


def _leaves(content: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, Any]]:
    # Not recursive, and limited: a dictionary from outside may hold itself, or grow where it is flattened.
    waiting, entries = [("", content)], 0
    while waiting:
        name, value = waiting.pop()
        if not isinstance(value, dict):
            yield name, value
            continue
        entries += len(value)
        if entries > _MAX_ENTRIES:
            raise CheckpointCorruptError(path, f"its model has more than {_MAX_ENTRIES} entries")
        for key, child in value.items():
            if not isinstance(key, str) or len(name) + len(key) > _MAX_NAME:
                raise CheckpointCorruptError(path, f"its model has names of more than {_MAX_NAME} characters")
            waiting.append((f"{name}.{key}" if name else key, child))


def layers_in(names: Collection[str]) -> int:
    """How many layers the names are of."""
    return len({match[1] for name in names if (match := _LAYER.match(name))})


def shift_layer(name: str, by: int) -> str:
    """The name of the same weight so many layers on."""
    return _LAYER.sub(lambda match: f"encoder.layers.{int(match[1]) + by}.", name, count=1)


def weights_of(names: Collection[str], layers: int) -> list[Weight]:
    """Every weight that a model with these names must have, encoder and heads, in order."""
    weights = [
        Weight("bert.embeddings.word_embeddings.weight", WORDS, ("padded", "hidden"), "rows"),
        Weight("bert.embeddings.position_embeddings.weight", POSITIONS, ("positions", "hidden")),
        Weight("bert.embeddings.token_type_embeddings.weight", TYPES, ("types", "hidden")),
    ]
    for index in range(layers):
        weights += _layer(f"bert.encoder.layer.{index}", f"encoder.layers.{index}")
    weights += _norm("bert.encoder.ln", "encoder.final_layernorm")
    has = {name.partition(".")[0] for name in names}
    if "pooler" in has:
        weights += _linear("bert.pooler.dense", "pooler.dense", "hidden", "hidden")
    if "lm_head" in has:
        weights += _predictions(untied=DECODER in names)
    if "binary_head" in has:
        weights += _linear("cls.seq_relationship", "binary_head", "relation", "hidden")
    for head in ("classification_head", "multichoice_head"):
        if head in has:
            weights += _linear("classifier", head, "labels", "hidden")
    return weights


def _layer(name: str, source: str) -> list[Weight]:
    attention = f"{source}.self_attention"
    packed: tuple[Division, ...] = ("query", "key", "value")
    weights = _norm(f"{name}.attention.ln", f"{source}.input_layernorm")
    for part in packed:
        weights += _linear(f"{name}.attention.self.{part}", f"{attention}.linear_qkv", "hidden", "hidden", part)
    weights += _linear(f"{name}.attention.output.dense", f"{attention}.linear_proj", "hidden", "hidden", "columns")
    weights += _norm(f"{name}.ln", f"{source}.pre_mlp_layernorm")
    weights += _linear(f"{name}.intermediate.dense", f"{source}.mlp.linear_fc1", "intermediate", "hidden", "rows")
    weights += _linear(f"{name}.output.dense", f"{source}.mlp.linear_fc2", "hidden", "intermediate", "columns")
    return weights


def _linear(name: str, source: str, rows: str, columns: str, division: Division = "none") -> list[Weight]:
    # A linear layer that is divided by columns adds its bias once, after the parts were summed up.
    bias: Division = "none" if division == "columns" else division
    return [
        Weight(f"{name}.weight", f"{source}.weight", (rows, columns), division),
        Weight(f"{name}.bias", f"{source}.bias", (rows,), bias),
    ]


def _norm(name: str, source: str) -> list[Weight]:
    return [
        Weight(f"{name}.weight", f"{source}.weight", ("hidden",), norm=True),
        Weight(f"{name}.bias", f"{source}.bias", ("hidden",)),
    ]


def _predictions(*, untied: bool) -> list[Weight]:
    name = "cls.predictions"
    weights = _linear(f"{name}.transform.dense", "lm_head.dense", "hidden", "hidden")
    weights += _norm(f"{name}.transform.LayerNorm", "lm_head.layer_norm")
    weights.append(Weight(f"{name}.bias", BIAS, ("padded",), "rows"))
    if untied:
        weights.append(Weight(f"{name}.decoder.weight", DECODER, ("padded", "hidden"), "rows"))
        weights.append(Weight(f"{name}.decoder.bias", BIAS, ("padded",), "rows"))
    return weights
