"""The encoder: the flow of BERT's and RoBERTa's layers, written once.

Owns: the order of a layer's steps, the masks, and what a head of transformers is given. Knows nothing of what a step
computes with (arithmetic.py). The modules, and so the names of all parameters, are those of transformers' model that it
is made from; with FLOAT it gives, bit for bit, what that model gives with eager attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from neuronbert.adaptive.configuration import check, check_layers, spell, stored
from neuronbert.adaptive.keeping import ENCODER_TYPES as ENCODER_TYPES
from neuronbert.adaptive.keeping import SEES_AHEAD, Keeping, check_first
from neuronbert.encoder.arithmetic import FLOAT
from neuronbert.encoder.selection import Survivors
from neuronbert.errors import InvalidOptionError, UnsupportedFeatureError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from torch import Tensor

    from neuronbert.adaptive.configuration import Lengths
    from neuronbert.encoder.arithmetic import Arithmetic

_NOT_HERE: Final = ("past_key_values", "encoder_hidden_states", "encoder_attention_mask")
_TAKEN: Final = {
    *_NOT_HERE,
    *("length_config", "layer_config", "always_keep_cls_token"),
    *("output_hidden_states", "output_attentions", "return_dict"),
    *("use_cache", "num_items_in_batch"),  # of a decoder's head, and of transformers' Trainer: nothing to the layers
}


class Encoder(nn.Module):
    """BertModel or RobertaModel as a flow of steps over an arithmetic.

    Args:
        base: The model of transformers; its modules become this one's.
        arithmetic: What the steps compute with.

    Attributes:
        keeping: Which tokens go on from layer to layer, and which layers are run, where a call doesn't say.
        passed: Of the last call, how many layers each token passed, [B, S] in fp32; None if no lengths were set for it.

    Raises:
        UnsupportedFeatureError: the model attends to another one's tokens.
    """

    def __init__(self, base: Any, arithmetic: Arithmetic[Any] = FLOAT) -> None:
        super().__init__()
        if base.config.add_cross_attention:
            raise UnsupportedFeatureError("add_cross_attention", True, "the encoder attends to its own tokens only")
        self.config = base.config
        self._class = type(base)
        self.embeddings = base.embeddings
        self.encoder = base.encoder
        self.pooler = base.pooler
        self.arithmetic = arithmetic
        self.keeping = Keeping()
        self.passed: Tensor | None = None
        self.train(base.training)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """What transformers' model gives for the same arguments.

        Args:
            input_ids: [B, S]; or, in its place, inputs_embeds.
            attention_mask: [B, S], 1 for a token and 0 for padding.
            token_type_ids: [B, S].
            position_ids: [B, S] or [1, S].
            inputs_embeds: [B, S, H].
            options: output_hidden_states, output_attentions and return_dict; and, in place of what `keeping` says,
                length_config, layer_config and always_keep_cls_token. States and attentions are of the tokens that a
                layer had.

        Raises:
            InvalidOptionError: length_config or layer_config is none of this model, or for longer rows; or a cache, or
                another model's tokens, are given.
            UnsupportedFeatureError: it is a decoder, and drops tokens.
            TypeError: an option is none of these.
        """
        _refuse(options)
        keeping = self._keeping(options)
        given = {
            "input_ids": input_ids,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        embedded = self.arithmetic.embed(self.embeddings, given)
        mask = self._mask(attention_mask, self.arithmetic.leave(embedded))
        last, states, probabilities = self._layers(embedded, mask, keeping)
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=last,
            pooler_output=None if self.pooler is None else self.pooler(last),
            hidden_states=tuple(map(self.arithmetic.leave, states)) if self._asked(options, "hidden_states") else None,
            attentions=tuple(map(self.arithmetic.leave, probabilities)) if self._asked(options, "attentions") else None,
        )
        return output if options.get("return_dict") is not False else output.to_tuple()

    @property
    def base_model(self) -> Encoder:
        """Itself, as transformers' models without a head have it."""
        return self

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write it as the model of transformers that it was made from does, for any `from_pretrained`.

        Args:
            folder: Made if it isn't there.
        """
        with torch.device("meta"):  # nothing is made but the modules' places, which ours take
            model = self._class(self.config, add_pooling_layer=self.pooler is not None)
        model.embeddings, model.encoder, model.pooler = self.embeddings, self.encoder, self.pooler
        model.save_pretrained(folder)

    def get_input_embeddings(self) -> Any:
        """The table of tokens, as transformers' models name it."""
        return self.embeddings.word_embeddings

    def set_length_config(self, length_config: Lengths | None) -> None:
        """Drop tokens in every call from now on that doesn't say otherwise; the model's config says so, too.

        Args:
            length_config: Tokens that each layer keeps; None to keep all.

        Raises:
            InvalidOptionError: it is none of this model.
            UnsupportedFeatureError: the model is a decoder.
        """
        lengths = stored("length_config", length_config)
        if lengths is not None:
            check(lengths, len(self.encoder.layer), lengths[0])
        self._check_drops(lengths)
        self.keeping = self.keeping.model_copy(update={"length_config": lengths, "sequence_length": None})
        record(self.config, "length_config", None if lengths is None else spell(lengths))

    def _keeping(self, options: dict[str, Any]) -> Keeping:
        """What the call says of the tokens and layers, or what is set."""
        asked: dict[str, Any] = {
            name: stored(name, options[name])
            for name in ("length_config", "layer_config")
            if options.get(name) is not None
        }
        if "length_config" in asked:
            asked["sequence_length"] = None
        if (keep := options.get("always_keep_cls_token")) is not None:
            asked["always_keep_cls_token"] = check_first(keep)
            # A head that reads the first token has to be given it.
            asked["restored"] = self.keeping.restored or not keep
        keeping = self.keeping.model_copy(update=asked) if asked else self.keeping
        if keeping.layer_config is not None:
            check_layers(keeping.layer_config, len(self.encoder.layer))
        self._check_drops(keeping.length_config)
        return keeping

    def _check_drops(self, lengths: Lengths | None) -> None:
        if lengths is not None and self.config.is_decoder:
            raise UnsupportedFeatureError("is_decoder", True, SEES_AHEAD)

    def _layers(self, hidden: Any, mask: Tensor | None, keeping: Keeping) -> tuple[Tensor, list[Any], list[Any]]:
        embedded, layers = self.arithmetic.leave(hidden), len(self.encoder.layer)
        lengths = keeping.lengths_for(layers, int(embedded.shape[1]))
        survivors = None if lengths is None else Survivors(keeping, lengths, embedded, mask)
        states, seen = [hidden], []
        for number, layer in enumerate(self.encoder.layer):
            if keeping.layer_config is not None and number not in keeping.layer_config:
                continue
            gathered, probabilities = self._attend(layer.attention.self, hidden, mask)
            if survivors is not None and survivors.drops(number):
                gathered, hidden = self._drop(survivors, number, probabilities, gathered, hidden)
                mask = survivors.mask
            hidden = self._transform(layer, gathered, hidden)
            states.append(hidden)
            seen.append(probabilities)
        last = self.arithmetic.leave(hidden)
        self.passed = None if survivors is None else survivors.passed(last, layers)
        return last if survivors is None else survivors.restored(last), states, seen

    def _drop(self, survivors: Survivors, number: int, probabilities: Any, *values: Any) -> tuple[Any, ...]:
        # As soon as the choice is known: published code makes it after the attention's output, of each token by itself.
        step, (_, before) = self.arithmetic, values
        move = survivors.drop(number, step.leave(probabilities), lambda: step.leave(before))
        return tuple(step.over_tokens(value, move) for value in values)

    def _attend(self, attention: Any, hidden: Any, mask: Tensor | None) -> tuple[Any, Any]:
        step = self.arithmetic
        query, key, value = step.project(attention, hidden)
        probabilities = step.softmax(attention, step.scores(attention, query, key), mask)
        return step.context(attention, probabilities, value), probabilities

    def _transform(self, layer: Any, gathered: Any, hidden: Any) -> Any:
        step, output = self.arithmetic, layer.attention.output
        attended = step.add_norm(output, step.linear(output.dense, gathered), hidden)
        inner = step.activate(layer.intermediate, step.linear(layer.intermediate.dense, attended))
        return step.add_norm(layer.output, step.linear(layer.output.dense, inner), attended)

    def _mask(self, mask: Tensor | None, embedded: Tensor) -> Tensor | None:
        create: Callable[..., Tensor | None] = create_bidirectional_mask
        past = {}
        if self.config.is_decoder:
            create, past = create_causal_mask, {"past_key_values": None}
        made = create(config=self.config, inputs_embeds=embedded, attention_mask=mask, **past)
        alike = made is not None and not past and (mask is None or mask.dim() == 2)  # for every query
        return made[:, :, :1] if alike and made is not None else made

    def _asked(self, options: dict[str, Any], what: str) -> bool:
        asked = options.get(f"output_{what}")
        return bool(getattr(self.config, f"output_{what}", False) if asked is None else asked)


def install(model: Any, arithmetic: Arithmetic[Any] = FLOAT) -> Any:
    """Put the encoder in the place of a model's own, under its head.

    Args:
        model: A model of transformers, of one of ENCODER_TYPES; it is changed.
        arithmetic: What the steps compute with.

    Returns:
        The model; or, of a model without a head, the encoder alone.

    Raises:
        UnsupportedFeatureError: the model attends to another one's tokens.
    """
    base = model.base_model
    # The masks come from transformers, which gives sdpa other ones than the eager attention that this is.
    base.config._attn_implementation = "eager"
    encoder = Encoder(base, arithmetic)
    if base is model:
        return encoder
    setattr(model, model.base_model_prefix, encoder)
    return model


def record(config: Any, name: str, value: object) -> None:
    """Have a model's config say something, so that it is saved with the model; or no longer, if it is None."""
    if value is not None:
        setattr(config, name, value)
    elif hasattr(config, name):
        delattr(config, name)


def _refuse(options: dict[str, Any]) -> None:
    for name in options:
        if name not in _TAKEN:  # misspelt, it would play no part
            said = f"forward() got an unexpected keyword argument {name!r}"
            raise TypeError(said)
    for name in _NOT_HERE:
        if options.get(name) is not None:
            expected = "left out: the encoder sees the tokens of one call only"
            raise InvalidOptionError(name, type(options[name]).__name__, expected)
