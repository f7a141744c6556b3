"""What a model is like beside its weights: from the arguments of its training and the shapes of its weights.

Owns: which arguments matter, Megatron-LM's defaults for them, and what transformers' MegatronBert can't represent.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuronbert.errors import (
    CheckpointCorruptError,
    InvalidOptionError,
    MissingOptionError,
    UnsupportedFeatureError,
)
from neuronbert.megatron import names
from neuronbert.megatron.merging import part_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.megatron.shards import Shards

Sizes = dict[str, int]
"""What names.Weight.dims are as long as."""
_PUBLISHED: Final = {"hidden": 1024, "intermediate": 4096, "positions": 512}
"""The sizes of the 345M checkpoints that NVIDIA publishes, beside their 24 layers and 16 heads."""
_PUBLISHED_LAYERS: Final = 24
_PUBLISHED_HEADS: Final = 16
PUBLISHED_VOCABULARIES: Final = {29056: 28996, 30592: 30522}
"""Their vocabularies (BERT's, cased and uncased), by the number of rows that they are padded to."""
_EPS: Final = 1e-5
"""Megatron-LM's default since its first version; transformers' is 1e-12."""
_FUSED_SINCE: Final = 2.0
"""The first checkpoint_version of releases that fuse bias and GELU unless told otherwise; the fused one is tanh's."""

_NO_PLACE: Final = "transformers' MegatronBert has no such model"
_ACCEPTED: Final[Mapping[str, tuple[object, ...]]] = {
    "apply_residual_connection_post_layernorm": (False, None),
    "position_embedding_type": ("learned_absolute", None),
    "use_rotary_position_embeddings": (False, None),
    "add_position_embedding": (True, None),
    "normalization": ("LayerNorm", None),
    "swiglu": (False, None),
    "squared_relu": (False, None),
    "quick_geglu": (False, None),
    "glu_activation": (None,),
    "add_bias_linear": (True, None),
    "num_experts": (None, 0),
    "group_query_attention": (False, None),
    "qk_layernorm": (False, None),
    "multi_latent_attention": (False, None),
    "window_size": (None,),
    "retro_add_retriever": (False, None),
}
"""Argument to the values that leave the model as it is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a config needs beside sizes.

    Attributes:
        heads: Attention heads.
        layer_norm_eps: Epsilon of every LayerNorm.
        hidden_act: "gelu" (by erf) or "gelu_new" (by tanh).
        hidden_dropout: Probability.
        attention_dropout: Probability.
        initializer_range: Standard deviation.
        norm_plus_one: The weights of LayerNorms are stored less one.
        lowercase: The tokenizer's; None if nothing says so.
        note: What was assumed, or "".
    """

    heads: int
    layer_norm_eps: float
    hidden_act: str
    hidden_dropout: float
    attention_dropout: float
    initializer_range: float
    norm_plus_one: bool
    lowercase: bool | None
    note: str


def find_sizes(shards: Shards) -> Sizes:
    """The lengths that the weights themselves give.

    Raises:
        CheckpointCorruptError: a weight that they are read off isn't there, or has another number of dimensions.
    """
    parts = shards.parts

    def length(name: str, axis: int) -> int:
        if name not in parts:
            raise CheckpointCorruptError(shards.path, f"it has no {name}, so it is no whole BERT: is a shard missing?")
        shape = parts[name][0].shape
        if len(shape) <= axis or not shape[axis]:
            raise CheckpointCorruptError(shards.path, f"its {name} has shape {list(shape)}")
        return shape[axis]

    sizes = {
        "padded": length(names.WORDS, 0) * shards.ranks,
        "hidden": length(names.WORDS, 1),
        "positions": length(names.POSITIONS, 0),
        "types": length(names.TYPES, 0),
        "intermediate": length(names.UP, 0) * shards.ranks,
        "relation": 2,
    }
    for head in ("classification_head.weight", "multichoice_head.weight"):
        if head in parts:
            sizes["labels"] = length(head, 0)
    return sizes


def is_published(shards: Shards, sizes: Sizes) -> bool:
    """Whether the sizes are those of the published checkpoints."""
    same = all(sizes[name] == size for name, size in _PUBLISHED.items())
    return same and shards.layers == _PUBLISHED_LAYERS and sizes["padded"] in PUBLISHED_VOCABULARIES


def check_shapes(shards: Shards, weights: list[names.Weight], sizes: Sizes) -> None:
    """Refuse weights that are missing, left over, or of another shape than the sizes say.

    Raises:
        CheckpointCorruptError: one is.
    """
    missing = [weight.source for weight in weights if weight.source not in shards.parts]
    if missing:
        raise CheckpointCorruptError(shards.path, f"it has no {missing[0]}: is a shard missing?")
    left = sorted(shards.parts.keys() - {weight.source for weight in weights})
    if left:
        raise UnsupportedFeatureError("weights", left[0], _NO_PLACE)
    for weight in weights:
        whole = [sizes[name] for name in weight.dims]
        expected = part_shape(whole, weight.division, shards.ranks)
        found = tuple(shards.parts[weight.source][0].shape)
        if found != expected:
            text = f"its {weight.source} has shape {list(found)}, for {shards.ranks} shards it would be"
            raise CheckpointCorruptError(
                shards.path, f"{text} {list(expected)}: is a shard missing, or of another run?"
            )


def read(shards: Shards, sizes: Sizes, num_attention_heads: int | None) -> Settings:
    """The settings of a checkpoint.

    Args:
        shards: The checkpoint.
        sizes: The lengths that its weights give.
        num_attention_heads: What the user says.

    Raises:
        UnsupportedFeatureError: an argument says that transformers' model is another one.
        CheckpointCorruptError: the arguments contradict the weights.
        InvalidOptionError: the number of heads contradicts the weights or the arguments.
        MissingOptionError: nothing says how many heads there are.
    """
    arguments = _Arguments(shards)
    heads = _heads(arguments, sizes, num_attention_heads)
    arguments.refuse_unsupported(sizes["hidden"] // heads)
    arguments.compare_sizes(sizes)
    act, note = _activation(arguments)
    if shards.arguments is None:
        note = (
            f"It holds no arguments of its training, so Megatron's defaults were taken: layer_norm_eps {_EPS:g}, "
            f"hidden_act {act}. If it was trained otherwise, correct its config.json."
        )
    tokenizer = arguments.text("tokenizer_type")
    return Settings(
        heads=heads,
        layer_norm_eps=arguments.number("layernorm_epsilon", _EPS),
        hidden_act=act,
        hidden_dropout=arguments.number("hidden_dropout", 0.1),
        attention_dropout=arguments.number("attention_dropout", 0.1),
        initializer_range=arguments.number("init_method_std", 0.02),
        norm_plus_one=arguments.flag("apply_layernorm_1p"),
        lowercase={"BertWordPieceLowerCase": True, "BertWordPieceCase": False}.get(tokenizer),
        note=note,
    )


def _heads(arguments: _Arguments, sizes: Sizes, given: int | None) -> int:
    shards, hidden = arguments.shards, sizes["hidden"]
    said = arguments.whole("num_attention_heads")
    published = _PUBLISHED_HEADS if shards.arguments is None and is_published(shards, sizes) else None
    heads = given if given is not None else said if said is not None else published
    if heads is None:
        raise MissingOptionError(
            "--num-attention-heads", f"neuronbert convert-megatron {shards.path} OUT --num-attention-heads 16"
        )
    if said is not None and heads != said:
        raise InvalidOptionError("--num-attention-heads", heads, f"{said}, as the checkpoint's arguments say")
    if heads < 1 or hidden % heads or heads % shards.ranks:
        expected = f"a divisor of the {hidden} hidden units and a multiple of the {shards.ranks} shards"
        if said is None:
            raise InvalidOptionError("--num-attention-heads", heads, expected)
        raise CheckpointCorruptError(shards.path, f"its num_attention_heads is {heads}, not {expected}")
    return heads


def _activation(arguments: _Arguments) -> tuple[str, str]:
    fused = arguments.shards.arguments is None and arguments.shards.version >= _FUSED_SINCE
    if arguments.flag("openai_gelu"):
        return "gelu_new", ""
    if arguments.flag("bias_gelu_fusion", default=fused):
        note = (
            "It was trained with GELU by tanh in its layers and by erf in its prediction head; the config has one "
            "hidden_act for both: gelu_new, which differs from erf by less than 0.0005."
        )
        return "gelu_new", note
    return "gelu", ""


class _Arguments:
    """The arguments of the training, each of the type that it has to be."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self._values = shards.arguments or {}

    def _typed(self, name: str, kind: Any) -> Any:
        value = self._values.get(name)
        if value is not None and not (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
            raise CheckpointCorruptError(self.shards.path, f"its argument {name} is {value!r}")
        return value

    def whole(self, name: str) -> int | None:
        value: int | None = self._typed(name, int)
        return value

    def number(self, name: str, default: float) -> float:
        value = self._typed(name, int | float)
        if value is not None and not 0 <= value <= sys.float_info.max:
            raise CheckpointCorruptError(self.shards.path, f"its argument {name} is {value!r}")
        return default if value is None else float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._typed(name, bool)
        return default if value is None else bool(value)

    def text(self, name: str) -> str:
        return str(self._typed(name, str) or "")

    def refuse_unsupported(self, head_size: int) -> None:
        for name, accepted in _ACCEPTED.items():
            value = self._values.get(name)
            if not any(value is right or (type(value) is type(right) and value == right) for right in accepted):
                raise UnsupportedFeatureError(name, value, _NO_PLACE)
        size = self.whole("kv_channels")
        if size not in {None, head_size}:
            raise UnsupportedFeatureError("kv_channels", size, f"{_NO_PLACE}: its heads have {head_size} channels here")

    def compare_sizes(self, sizes: Sizes) -> None:
        shards = self.shards
        expected = {
            "num_layers": shards.layers,
            "hidden_size": sizes["hidden"],
            "ffn_hidden_size": sizes["intermediate"],
            "max_position_embeddings": sizes["positions"],
            "padded_vocab_size": sizes["padded"],
            "tensor_model_parallel_size": shards.ranks,
            "model_parallel_size": shards.ranks,
            "pipeline_model_parallel_size": shards.stages,
        }
        for name, size in expected.items():
            said = self.whole(name)
            if said not in {None, size}:
                problem = f"its arguments say {name} {said}, its files have {size}: are shards missing?"
                raise CheckpointCorruptError(shards.path, problem)
