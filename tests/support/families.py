"""Small random models of every row of the architecture table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from neuronbert.architectures import find_architecture, find_head

# Wide weights, so that logits differ by more than rounding does.
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
    "max_position_embeddings": 34,
    "initializer_range": 0.2,
}
_XLM = {
    "emb_dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "vocab_size": 99,
    "max_position_embeddings": 34,
    "embed_init_std": 0.2,
}
_ROBERTA = {**_SIZES, "max_position_embeddings": 36, "type_vocab_size": 1, "pad_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "megatron-bert": _SIZES,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "ibert": _ROBERTA,
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "vocab_size": 99,
        "max_position_embeddings": 34,
        "initializer_range": 0.2,
    },
    "electra": {**_SIZES, "embedding_size": 16},
    "albert": {**_SIZES, "embedding_size": 16},
    "mpnet": {**_SIZES, "max_position_embeddings": 36},
    "mobilebert": {**_SIZES, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
    "convbert": {**_SIZES, "embedding_size": 16, "conv_kernel_size": 5},
    "deberta-v2": {
        **_SIZES,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "conv_kernel_size": 3,
    },
    "roformer": {**_SIZES, "embedding_size": 16},
    "xlm": {**_XLM, "init_std": 0.2},
    "flaubert": {**_XLM, "init_std": 0.2},
    "esm": {
        **_SIZES,
        "pad_token_id": 1,
        "mask_token_id": 4,
        "position_embedding_type": "rotary",
        "token_dropout": True,
    },
    "modernbert": {
        **_SIZES,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "initializer_cutoff_factor": 2.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}
SHAPE = (2, 16)


def save(model_type: str, task: str, folder: Path, **settings: Any) -> Path:
    """Save a random checkpoint for a task, the same one each time."""
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **settings})
    if task.endswith("-classification"):
        config.num_labels = 4
    torch.manual_seed(0)
    model = getattr(transformers, find_head(find_architecture(model_type), task))(config)
    fill_in(model)
    model.save_pretrained(folder)
    return folder


def fill_in(model: torch.nn.Module) -> None:
    """Give values to what transformers begins with zeros or ones: biases, norms, the embedding of padding."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight += torch.randn_like(weight) * 0.1
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = torch.randn_like(module.weight[0]) * 0.2


def inputs_for(inputs: Sequence[str], task: str, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random ids, none of them padding's, whose last row is padded by the caller."""
    dims = (rows, 3, length) if task == "multiple-choice" else (rows, length)
    ids = torch.randint(5, 99, dims, generator=torch.Generator().manual_seed(rows * length))
    ids[..., length // 3] = 4  # what ESM masks
    mask = torch.ones_like(ids)
    mask[-1, ..., length // 2 + 1 :] = 0
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(length) > length // 2) * mask}
    return {name: given[name] for name in inputs if name in given}
