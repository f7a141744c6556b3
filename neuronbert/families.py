"""The rows of the architecture table: which heads a model type has, and what is particular about it.

Owns: Architecture and ROWS. Knows nothing of transformers: classes, settings and modules are names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Leak:
    """A place where a column that the loader adds reaches what the caller gets, whatever the mask says.

    A program that has one takes "call_mask" after its other inputs: 1 in the columns of a call, 0 in those added.

    Attributes:
        module: How the names of its modules end.
        side: What of the module reads across columns: what it is given ("input"), what is done with what it gives
            ("output"), or itself, as one vector for the row ("summary", by `config.summary_type`).
        axis: Which dimension of the tensor there is the sequence.
        tasks: The tasks that it plays a part in; all of them if none is named.
        usual: The summary_type that is meant where config.json doesn't say.
    """

    module: str
    side: Literal["input", "output", "summary"]
    axis: Literal[1, 2] = 1
    tasks: tuple[str, ...] = ()
    usual: str = "last"


@dataclass(frozen=True, slots=True)
class Only:
    """A setting of config.json of which only some values can be exported.

    Attributes:
        setting: Its name.
        values: The values that can; what stands first is meant where config.json doesn't say.
        reason: Why no other can.
        tasks: The tasks that it plays a part in; all of them if none is named.
    """

    setting: str
    values: tuple[object, ...]
    reason: str
    tasks: tuple[str, ...] = ()


_NO_POSITIONS: Final = "transformers 5 ignores it and would answer wrongly; only absolute positions are exported"
_ABSOLUTE: Final = Only("position_embedding_type", (None, "absolute"), _NO_POSITIONS)
_CHUNKS: Final = Only(
    "chunk_size_feed_forward", (None, 0, False), "it works only for lengths that are a multiple of it"
)
_SUMMARY: Final = Leak("sequence_summary", "summary", tasks=("text-classification", "multiple-choice"), usual="first")
_LAST: Final = Leak("sequence_summary", "summary", tasks=("multiple-choice",))


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model type.

    Attributes:
        model_type: `config.model_type`.
        inputs: What its programs take, in order.
        heads: Task name to the name of the transformers class that has the head.
        position_offset: Positions that the table keeps for padding; "pad" for those up to the padding's token id.
        attention: transformers' attention that programs are traced with: its fused one, where the model has it.
        names: What config.json calls the settings that BERT's calls hidden_size, vocab_size and so on.
        pad_token_id: What it is where config.json doesn't say.
        least: Inputs that are there only if there are so many ids for them.
        layers: What the names of its layers' weights hold.
        idle: How the names of weights begin that no program uses.
        forms: Tasks whose heads give something else than BERT's, and the form that they have.
        leaks: What the loader's padding is to be kept out of.
        only: The settings that aren't free.
        lengths: Whether the model is to be told that rows are full: else it reads that off the ids, on the host.
        distances: Whether it takes logarithms of relative positions, and so of 0: to be kept from it.
        refused: Classes of transformers that are no heads here, and why.
    """

    model_type: str
    inputs: tuple[str, ...]
    heads: Mapping[str, str]
    position_offset: int | Literal["pad"] = 0
    attention: Literal["sdpa", "eager"] = "sdpa"
    names: Mapping[str, str] = field(default_factory=dict)
    pad_token_id: int = 0
    least: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[str, ...] = ("encoder.layer.",)
    idle: tuple[str, ...] = ()
    forms: Mapping[str, str] = field(default_factory=dict)
    leaks: tuple[Leak, ...] = ()
    only: tuple[Only, ...] = (_ABSOLUTE, _CHUNKS)
    lengths: bool = False
    distances: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)


_CLASSES: Final = {
    "feature-extraction": "Model",
    "fill-mask": "ForMaskedLM",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "multiple-choice": "ForMultipleChoice",
    "next-sentence-prediction": "ForNextSentencePrediction",
    "pre-training": "ForPreTraining",
    "replaced-token-detection": "ForPreTraining",
    "text-generation": "ForCausalLM",
}
"""How transformers ends the names of its classes."""
_SIX: Final = tuple(_CLASSES)[:6]
_MASKED: Final = ("input_ids", "attention_mask")
_SEGMENTED: Final = (*_MASKED, "token_type_ids")
_UNPOOLED: Final = {"feature-extraction": "hidden-states"}


def _heads(prefix: str, *tasks: str, **others: str) -> dict[str, str]:
    named = {task: prefix + _CLASSES[task] for task in tasks}
    return named | {name.replace("_", "-"): head for name, head in others.items()}


def _roberta(model_type: str, prefix: str) -> Architecture:
    """RoBERTa, or a model that is RoBERTa with other weights. Most know one segment, and are never told of it."""
    return Architecture(
        model_type,
        _SEGMENTED,
        _heads(prefix, *_SIX, "text-generation"),
        position_offset="pad",
        pad_token_id=1,
        least={"token_type_ids": 2},
    )


def _xlm(model_type: str, prefix: str, *rules: Only) -> Architecture:
    """XLM, or the model that is XLM with another order of normalizations."""
    beam = "its beam search gives the places of spans, not a score for each token"
    return Architecture(
        model_type,
        # Its segments share the table of tokens, so they can't be filled in; its tokenizer gives none.
        (*_MASKED, "langs"),
        _heads(
            prefix,
            *(task for task in _SIX if task not in ("fill-mask", "question-answering")),
            fill_mask=f"{prefix}WithLMHeadModel",
            question_answering=f"{prefix}ForQuestionAnsweringSimple",
        ),
        attention="eager",
        names={
            "hidden_size": "emb_dim",
            "num_hidden_layers": "n_layers",
            "vocab_size": "n_words",
            "pad_token_id": "pad_index",
        },
        pad_token_id=2,
        least={"langs": 2},
        layers=("attentions.", "ffns.", "layer_norm1.", "layer_norm2."),
        forms=_UNPOOLED,
        leaks=(_SUMMARY,),
        only=(
            _CHUNKS,
            *rules,
            Only("asm", (False, None), "its adaptive softmax gives other values than logits", ("fill-mask",)),
        ),
        lengths=True,
        refused={f"{prefix}ForQuestionAnswering": beam},
    )


ROWS: Final[tuple[Architecture, ...]] = (
    Architecture(
        "bert",
        _SEGMENTED,
        _heads("Bert", *_SIX, "next-sentence-prediction", "pre-training", text_generation="BertLMHeadModel"),
    ),
    Architecture(
        "megatron-bert",
        _SEGMENTED,
        _heads("MegatronBert", *_SIX, "next-sentence-prediction", "pre-training", "text-generation"),
        attention="eager",
    ),
    _roberta("roberta", "Roberta"),
    _roberta("xlm-roberta", "XLMRoberta"),
    _roberta("camembert", "Camembert"),
    Architecture(
        "distilbert",
        _MASKED,
        _heads("DistilBert", *_SIX),
        names={"hidden_size": "dim", "num_hidden_layers": "n_layers"},
        layers=("transformer.layer.",),
        forms=_UNPOOLED,
    ),
    Architecture(
        "electra",
        _SEGMENTED,
        _heads("Electra", *_SIX, "replaced-token-detection", "text-generation"),
        forms=_UNPOOLED,
        leaks=(Leak("sequence_summary", "summary", tasks=("multiple-choice",), usual="first"),),
    ),
    Architecture(
        "albert",
        _SEGMENTED,
        _heads("Albert", *_SIX, "pre-training"),
        layers=("albert_layer_groups.",),
        forms={"pre-training": "sentence-order"},
    ),
    Architecture(
        "mpnet",
        _MASKED,
        _heads("MPNet", *_SIX),
        position_offset=2,  # its padding has token id 1, whatever its config says
        attention="eager",
        pad_token_id=1,
        distances=True,
    ),
    Architecture(
        "mobilebert",
        _SEGMENTED,
        _heads("MobileBert", *_SIX, "next-sentence-prediction", "pre-training"),
        # A token is embedded together with those before and after it.
        leaks=(Leak("embeddings.word_embeddings", "output"),),
    ),
    Architecture(
        "convbert",
        _SEGMENTED,
        _heads("ConvBert", *_SIX),
        attention="eager",
        pad_token_id=1,
        forms=_UNPOOLED,
        leaks=(Leak("key_conv_attn_layer", "input", axis=2), Leak("conv_out_layer", "output"), _LAST),
    ),
    Architecture(
        "deberta-v2",
        _SEGMENTED,
        _heads("DebertaV2", *_SIX),
        attention="eager",
        least={"token_type_ids": 1},
        forms=_UNPOOLED,
    ),
    Architecture(
        "roformer",
        _SEGMENTED,
        _heads("RoFormer", *_SIX, "text-generation"),
        attention="eager",
        forms=_UNPOOLED,
        leaks=(_LAST,),
    ),
    _xlm("xlm", "XLM"),
    _xlm("flaubert", "Flaubert", Only("pre_norm", (False,), "transformers 5 itself fails on it")),
    Architecture(
        "esm",
        _MASKED,
        _heads("Esm", "feature-extraction", "fill-mask", "text-classification", "token-classification"),
        position_offset="pad",
        pad_token_id=1,
        idle=("contact_head.", "esm.contact_head."),
        only=(
            Only("position_embedding_type", ("absolute", "rotary"), "transformers has no other positions for ESM"),
            _CHUNKS,
        ),
        refused={"EsmForProteinFolding": "it folds proteins in a loop over its own answers, which is no encoder"},
    ),
    Architecture(
        "modernbert",
        _MASKED,
        _heads("ModernBert", *_SIX),
        layers=("layers.",),
        forms=_UNPOOLED,
        only=(_CHUNKS,),
    ),
)

REFUSED: Final[Mapping[str, str]] = {
    "big_bird": "which blocks it attends to depends on the length, so that padding changes its answers",
    "fnet": "it mixes all columns and takes no mask, so that padding changes its answers",
    "funnel": "it pools its columns, so that padding changes its answers",
    "reformer": "it hashes with random numbers, so that no two calls give the same answers",
}
"""Encoders that a program of a static shape can't stand for, and why."""
