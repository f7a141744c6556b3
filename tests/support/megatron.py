"""Megatron-LM checkpoints made from transformers' models: the way back, written without the converter's code.

The layouts are those of Megatron-LM's own sources: megatron/model of v1.0, v2.0 and 23.04, and core 0.15.
"""

from __future__ import annotations

import argparse
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

SIZES = {
    "vocab_size": 117,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.2,
}


def make_model(class_name: str = "MegatronBertForPreTraining", **settings: Any) -> Any:
    """A random model, every one of its values another."""
    torch.manual_seed(0)
    config = transformers.MegatronBertConfig(**{**SIZES, **settings})
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return model


@dataclass
class Layout:
    """How a model is to be written."""

    version: float = 3.0
    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1
    core: bool = False
    transformer_engine: bool = False
    arguments: dict[str, Any] | None = field(default_factory=dict)
    unit: int = 8
    dtype: torch.dtype = torch.float32


def pack_rows(query: Tensor, key: Tensor, value: Tensor, heads: int, version: float) -> Tensor:
    """Query, key and value, one row after the other, as one rank of a version has them."""
    size = query.shape[0] // heads
    blocks = {"q": query, "k": key, "v": value}
    if version == 0:
        order = [(part, head, unit) for part in "qkv" for head in range(heads) for unit in range(size)]
    elif version == 1:
        order = [(part, head, unit) for head in range(heads) for unit in range(size) for part in "qkv"]
    else:
        order = [(part, head, unit) for head in range(heads) for part in "qkv" for unit in range(size)]
    return torch.stack([blocks[part][head * size + unit] for part, head, unit in order])


def arguments_of(model: Any, layout: Layout) -> argparse.Namespace:
    config = model.config
    padded = padded_size(config.vocab_size, layout)
    known = {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "kv_channels": config.hidden_size // config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "padded_vocab_size": padded,
        "vocab_size": config.vocab_size,
        "make_vocab_size_divisible_by": layout.unit,
        "tensor_model_parallel_size": layout.tensor,
        "pipeline_model_parallel_size": layout.pipeline,
        "layernorm_epsilon": config.layer_norm_eps,
        "bias_gelu_fusion": False,
        "openai_gelu": False,
        "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "init_method_std": config.initializer_range,
        "apply_residual_connection_post_layernorm": False,
        "params_dtype": torch.float16,
        "tokenizer_type": "BertWordPieceLowerCase",
    }
    return argparse.Namespace(**{**known, **(layout.arguments or {})})


def padded_size(vocab_size: int, layout: Layout) -> int:
    unit = layout.unit * layout.tensor
    return (vocab_size + unit - 1) // unit * unit


def _pad(table: Tensor, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.cat([table, torch.randn(rows - table.shape[0], *table.shape[1:], generator=generator).to(table.dtype)])


def _cut(tensor: Tensor, count: int, axis: int, rank: int) -> Tensor:
    return tensor.chunk(count, dim=axis)[rank].clone()


def _layer(state: dict[str, Tensor], source: str, heads: int, layout: Layout, rank: int) -> dict[str, Tensor]:
    """One layer of a rank, under the classic names."""
    count, packed = layout.tensor, {}
    attention = "attention" if layout.version == 0 else "self_attention"
    for kind in ("weight", "bias"):
        own = [_cut(state[f"{source}.attention.self.{p}.{kind}"], count, 0, rank) for p in ("query", "key", "value")]
        packed[f"{attention}.query_key_value.{kind}"] = pack_rows(*own, heads // count, layout.version)
        packed[f"input_layernorm.{kind}"] = state[f"{source}.attention.ln.{kind}"]
        packed[f"post_attention_layernorm.{kind}"] = state[f"{source}.ln.{kind}"]
        packed[f"mlp.dense_h_to_4h.{kind}"] = _cut(state[f"{source}.intermediate.dense.{kind}"], count, 0, rank)
    for name, own in ((f"{attention}.dense", "attention.output.dense"), ("mlp.dense_4h_to_h", "output.dense")):
        packed[f"{name}.weight"] = _cut(state[f"{source}.{own}.weight"], count, 1, rank)
        packed[f"{name}.bias"] = state[f"{source}.{own}.bias"]
    return packed


_CORE = {
    "self_attention.query_key_value": "self_attention.linear_qkv",
    "self_attention.dense": "self_attention.linear_proj",
    "post_attention_layernorm": "pre_mlp_layernorm",
    "mlp.dense_h_to_4h": "mlp.linear_fc1",
    "mlp.dense_4h_to_h": "mlp.linear_fc2",
}
_ENGINE = {"input_layernorm": "self_attention.linear_qkv.layer_norm", "pre_mlp_layernorm": "mlp.linear_fc1.layer_norm"}


def _core_name(name: str, layout: Layout) -> str:
    stem, kind = name.rsplit(".", 1)
    stem = _CORE.get(stem, stem)
    return f"{_ENGINE[stem]}_{kind}" if layout.transformer_engine and stem in _ENGINE else f"{stem}.{kind}"


def shard(model: Any, layout: Layout, rank: int, stage: int) -> dict[str, Any]:
    """What one file holds."""
    state = {name: tensor.detach().to(layout.dtype) for name, tensor in model.state_dict().items()}
    if "embeddings.word_embeddings.weight" in state:
        state = {f"bert.{name}": tensor for name, tensor in state.items()}
    layers = model.config.num_hidden_layers // (layout.pipeline * layout.virtual)
    content: dict[str, Any] = {"iteration": 1000, "optimizer": {"step": 3}}
    for chunk in range(layout.virtual):
        first = (chunk * layout.pipeline + stage) * layers
        own: dict[str, Tensor] = {}
        for index in range(layers):
            source = f"bert.encoder.layer.{first + index}"
            found = _layer(state, source, model.config.num_attention_heads, layout, rank)
            own |= {f"layers.{index}.{name}": tensor for name, tensor in found.items()}
        starts, ends = (stage, chunk) == (0, 0), (stage, chunk) == (layout.pipeline - 1, layout.virtual - 1)
        write = _core_chunk if layout.core else _classic_chunk
        name = "model" if layout.virtual == 1 else f"model{chunk}"
        content[name] = write(state, own, layout, rank, starts, ends)
    if layout.version != 0:
        content["checkpoint_version"] = layout.version
    if layout.arguments is not None:
        content["args"] = arguments_of(model, layout)
    return content


def _embeddings(state: dict[str, Tensor], layout: Layout, rank: int) -> dict[str, Tensor]:
    words = state["bert.embeddings.word_embeddings.weight"]
    return {
        "word_embeddings": _cut(_pad(words, padded_size(len(words), layout)), layout.tensor, 0, rank),
        "position_embeddings": state["bert.embeddings.position_embeddings.weight"],
        "tokentype_embeddings": state["bert.embeddings.token_type_embeddings.weight"],
    }


def _pairs(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    return {kind: state[f"{source}.{kind}"] for kind in ("weight", "bias")}


def _heads(state: dict[str, Tensor], layout: Layout, rank: int, norm: str) -> dict[str, dict[str, Tensor]]:
    heads: dict[str, dict[str, Tensor]] = {}
    if "cls.predictions.bias" in state:
        bias = state["cls.predictions.bias"]
        dense = _pairs(state, "cls.predictions.transform.dense")
        layer_norm = _pairs(state, "cls.predictions.transform.LayerNorm")
        heads["lm_head"] = {f"dense.{kind}": value for kind, value in dense.items()}
        heads["lm_head"] |= {f"{norm}.{kind}": value for kind, value in layer_norm.items()}
        heads["lm_head"]["bias"] = _cut(_pad(bias, padded_size(len(bias), layout)), layout.tensor, 0, rank)
    if "cls.seq_relationship.weight" in state:
        heads["binary_head"] = _pairs(state, "cls.seq_relationship")
    if "classifier.weight" in state:
        name = "multichoice_head" if len(state["classifier.weight"]) == 1 else "classification_head"
        heads[name] = _pairs(state, "classifier")
    return heads


def _classic_chunk(
    state: dict[str, Tensor], layers: dict[str, Tensor], layout: Layout, rank: int, starts: bool, ends: bool
) -> dict[str, Any]:
    language: dict[str, Any] = {}
    model: dict[str, Any] = {"language_model": language}
    if starts:
        language["embedding"] = {name: {"weight": t} for name, t in _embeddings(state, layout, rank).items()}
    language["transformer" if layout.version == 0 else "encoder"] = layers
    if not ends:
        return model
    for kind, value in _pairs(state, "bert.encoder.ln").items():
        layers[f"final_layernorm.{kind}"] = value
    if "bert.pooler.dense.weight" in state:
        language["pooler"] = {f"dense.{kind}": value for kind, value in _pairs(state, "bert.pooler.dense").items()}
    model |= _heads(state, layout, rank, "layernorm")
    if not starts and "lm_head" in model:
        model["word_embeddings_for_head"] = {"weight": _embeddings(state, layout, rank)["word_embeddings"]}
    return model


def _core_chunk(
    state: dict[str, Tensor], layers: dict[str, Tensor], layout: Layout, rank: int, starts: bool, ends: bool
) -> dict[str, Any]:
    model: dict[str, Any] = {}
    if starts:
        model |= {f"embedding.{name}.weight": t for name, t in _embeddings(state, layout, rank).items()}
    model |= {f"encoder.{_core_name(name, layout)}": tensor for name, tensor in layers.items()}
    if not ends:
        return model
    model |= {f"encoder.final_layernorm.{kind}": value for kind, value in _pairs(state, "bert.encoder.ln").items()}
    model |= {f"pooler.dense.{kind}": value for kind, value in _pairs(state, "bert.pooler.dense").items()}
    for head, weights in _heads(state, layout, rank, "layer_norm").items():
        model |= {f"{head}.{name}": tensor for name, tensor in weights.items()}
    model["output_layer.bias"] = model.pop("lm_head.bias")
    decoder = state["cls.predictions.decoder.weight"]
    tied = torch.equal(decoder, state["bert.embeddings.word_embeddings.weight"])
    if not (tied and starts):
        padded = _pad(decoder, padded_size(len(decoder), layout))
        model["output_layer.weight"] = _cut(padded, layout.tensor, 0, rank)
    if layout.transformer_engine:
        model["encoder.layers.0.self_attention.linear_qkv._extra_state"] = torch.zeros(3, dtype=torch.uint8)
    return model


def write_folder(folder: Path, model: Any, layout: Layout, *, legacy: bool = False, tracker: str = "1000") -> Path:
    """A whole run's folder, as training leaves it."""
    inner = folder / ("release" if tracker == "release" else f"iter_{int(tracker):07d}")
    for rank in range(layout.tensor):
        for stage in range(layout.pipeline):
            place = inner / (f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if layout.pipeline > 1 else ""))
            place.mkdir(parents=True)
            content = shard(model, layout, rank, stage)
            torch.save(content, place / "model_optim_rng.pt", _use_new_zipfile_serialization=not legacy)
    (folder / "latest_checkpointed_iteration.txt").write_text(tracker)
    return folder


def write_zip(path: Path, folder: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A folder as a zip, as the published checkpoints are."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path
