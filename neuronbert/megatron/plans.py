"""Everything about a conversion that is known before a weight is copied.

Owns: Plan: which weights there will be, the config, and how each weight is put together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import CheckpointCorruptError, UnsupportedFeatureError
from neuronbert.megatron import merging, names, settings, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from neuronbert.megatron.names import Weight
    from neuronbert.megatron.settings import Settings, Sizes
    from neuronbert.megatron.shards import Shards
    from neuronbert.megatron.vocabulary import Vocabulary
    from neuronbert.megatron.writer import Entry

_CLASSES: Final[Mapping[frozenset[str], str]] = {
    frozenset({"lm_head", "binary_head"}): "MegatronBertForPreTraining",
    frozenset({"lm_head"}): "MegatronBertForMaskedLM",
    frozenset({"binary_head"}): "MegatronBertForNextSentencePrediction",
    frozenset({"classification_head"}): "MegatronBertForSequenceClassification",
    frozenset({"multichoice_head"}): "MegatronBertForMultipleChoice",
    frozenset(): "MegatronBertModel",
}
"""The heads that were trained together to transformers' class."""
_HEADS: Final = frozenset().union(*_CLASSES)
_POOLED: Final = frozenset({"binary_head", "classification_head", "multichoice_head"})
_BASE: Final = "MegatronBertModel"
_PREFIX: Final = "bert."
"""What transformers puts before an encoder's names in every class but the encoder's own."""
_DRIFT: Final = 0.01
"""How far copies of a weight may lie apart, relative to its largest value: more is another model's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversion that can be done.

    Attributes:
        shards: What is converted.
        sizes: The lengths of its dimensions; "vocabulary" is the part of "padded" that is tokens.
        settings: What its config needs beside sizes.
        vocabulary: Its vocabulary, if there is one with it.
        class_name: transformers' class that has its heads.
        weights: What is made, in order.
        notes: What was assumed, a sentence each.
    """

    shards: Shards
    sizes: Sizes
    settings: Settings
    vocabulary: Vocabulary | None
    class_name: str
    weights: tuple[Weight, ...]
    notes: tuple[str, ...]

    @property
    def lowercase(self) -> bool:
        """Whether the tokenizer lowers the case of texts."""
        said = self.settings.lowercase
        return (self.vocabulary is not None and self.vocabulary.lowercase) if said is None else said

    def entries(self) -> list[Entry]:
        """Name, dtype and shape of each weight."""
        prefix = _PREFIX if self.class_name == _BASE else ""
        cut = {**self.sizes, "padded": self.sizes["vocabulary"]}
        return [
            (
                weight.name.removeprefix(prefix),
                self.shards.parts[weight.source][0].dtype,
                tuple(cut[name] for name in weight.dims),
            )
            for weight in self.weights
        ]

    def tensors(self) -> Iterator[Tensor]:
        """Each weight, put together when it is asked for."""
        for weight in self.weights:
            parts = self.shards.parts[weight.source]
            whole = merging.merge(parts, weight.division, self.settings.heads, self.shards.version)
            if weight.dims[0] == "padded":
                whole = whole[: self.sizes["vocabulary"]]
            # The classic layout's prediction head has an ordinary LayerNorm in any case.
            ordinary = not self.shards.flat and weight.source.startswith("lm_head.")
            yield whole + 1 if weight.norm and self.settings.norm_plus_one and not ordinary else whole

    def config(self) -> dict[str, Any]:
        """config.json."""
        sizes, known = self.sizes, self.settings
        config: dict[str, Any] = {
            "architectures": [self.class_name],
            "attention_probs_dropout_prob": known.attention_dropout,
            "dtype": str(self.shards.parts[names.WORDS][0].dtype).removeprefix("torch."),
            "hidden_act": known.hidden_act,
            "hidden_dropout_prob": known.hidden_dropout,
            "hidden_size": sizes["hidden"],
            "initializer_range": known.initializer_range,
            "intermediate_size": sizes["intermediate"],
            "layer_norm_eps": known.layer_norm_eps,
            "max_position_embeddings": sizes["positions"],
            "model_type": "megatron-bert",
            "num_attention_heads": known.heads,
            "num_hidden_layers": self.shards.layers,
            "pad_token_id": self.vocabulary.pad_token_id if self.vocabulary is not None else 0,
            "tie_word_embeddings": names.DECODER not in self.shards.parts,
            "type_vocab_size": sizes["types"],
            "vocab_size": sizes["vocabulary"],
        }
        if self.class_name == _CLASSES[frozenset({"classification_head"})]:
            labels = {index: f"LABEL_{index}" for index in range(sizes["labels"])}
            config["id2label"] = labels
            config["label2id"] = {label: index for index, label in labels.items()}
        return config


def make(found: Shards, file: Path | None, num_attention_heads: int | None) -> Plan:
    """The plan for a checkpoint.

    Args:
        found: The checkpoint.
        file: Its vocabulary, if there is one with it.
        num_attention_heads: What the user says.

    Raises:
        CheckpointError: the checkpoint is incomplete, or contradicts itself.
        UnsupportedFeatureError: transformers has no such model.
        UsageError: an option is missing or contradicts it.
    """
    class_name = _class_name(found)
    found, notes = _settled(found)
    sizes = settings.find_sizes(found)
    weights = names.weights_of(found.parts.keys(), found.layers)
    settings.check_shapes(found, weights, sizes)
    known = settings.read(found, sizes, num_attention_heads)
    notes += [known.note, _drift(found, weights)]
    words = vocabulary.read_vocabulary(file) if file is not None else None
    sizes["vocabulary"], note = vocabulary.real_size(found, sizes, words)
    notes.append(note)
    if words is None:
        notes.append(
            "There is no vocabulary with it, so no tokenizer is made: convert-megatron --vocab FILE makes one."
        )
    return Plan(found, sizes, known, words, class_name, tuple(weights), tuple(note for note in notes if note))


def _class_name(found: Shards) -> str:
    tops = {name.partition(".")[0] for name in found.parts}
    heads = frozenset(tops & _HEADS)
    if heads not in _CLASSES:
        raise UnsupportedFeatureError(
            "heads", sorted(heads), "transformers' MegatronBert has no class with all of them"
        )
    if heads & _POOLED and "pooler" not in tops:
        raise CheckpointCorruptError(found.path, f"it has a {sorted(heads & _POOLED)[0]}, but no pooler before it")
    return _CLASSES[heads]


def _settled(found: Shards) -> tuple[Shards, list[str]]:
    """Without the last stage's copy of the embeddings, and with token types where the training had none."""
    parts, notes = dict(found.parts), []
    words, copies = parts.get(names.WORDS, ()), parts.get(names.DECODER, ())
    if all(copy.shape == own.shape and torch.equal(copy, own) for copy, own in zip(copies, words, strict=False)):
        parts.pop(names.DECODER, None)
    if words and names.TYPES not in parts and names.BIAS in parts:
        # BERT without its binary head knows one text only; a decoder has no prediction head that would tell it apart.
        zeros = torch.zeros(2, words[0].shape[-1], dtype=words[0].dtype)
        parts[names.TYPES] = (zeros,) * found.ranks
        notes.append("It was trained without token types; those of the result are zeros, which add nothing.")
    return replace(found, parts=parts), notes


def _drift(found: Shards, weights: list[Weight]) -> str:
    """A note on weights that every rank has a copy of, if the copies differ.

    Raises:
        CheckpointCorruptError: they differ by too much to be of the same model.
    """
    differing = []
    for weight in weights:
        first, *others = found.parts[weight.source]
        if weight.division != "none" or all(torch.equal(first, other) for other in others):
            continue
        apart = max(float((first.float() - other.float()).abs().max()) for other in others)
        if not apart <= _DRIFT * float(first.float().abs().max()):
            text = f"its {weight.source} differs between shards by {apart:.3g}: they are of different models"
            raise CheckpointCorruptError(found.path, text)
        differing.append(weight.source)
    if not differing:
        return ""
    return f"{len(differing)} weights differ slightly between shards ({differing[0]}); the first shard's were taken."
