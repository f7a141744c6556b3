"""A model of transformers, made to drop tokens.

Owns: what the arguments, its config and its head say of that together. Knows nothing of files or programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from neuronbert.adaptive.configuration import check, check_layers, stored
from neuronbert.encoder.model import ENCODER_TYPES, install
from neuronbert.encoder.selection import METHODS, Keeping, Method
from neuronbert.errors import InvalidOptionError, UnsupportedModelError

if TYPE_CHECKING:
    from neuronbert.adaptive.configuration import Lengths

_FIRST_ONLY: Final = ("ForSequenceClassification", "ForMultipleChoice", "ForNextSentencePrediction")
"""How the names of heads end that read the first token alone."""
_SPANS: Final = "ForQuestionAnswering"
"""Its answer may be anywhere, and dynamic BERT doesn't keep the first token for it."""


def adapt_lengths(
    model: Any,
    *,
    length_config: Lengths | None = None,
    layer_config: Lengths | None = None,
    always_keep_cls_token: bool | None = None,
    selection: Method = "gather",
) -> Any:
    """Make a model drop tokens where they no longer matter.

    Its forward then takes length_config, layer_config and always_keep_cls_token, too, which win over those given here;
    `model.base_model.set_length_config` sets the first of them for all calls. Without any of them the model answers as
    before, bit for bit as with transformers' eager attention.

    Args:
        model: A model of transformers: BERT's or RoBERTa's, with any head or none. It is changed.
        length_config: Tokens that each layer keeps; by default what its config says (`config.length_config`, as dynamic
            BERT's checkpoints have it), or all.
        layer_config: The layers that are run; by default what its config says, or all.
        always_keep_cls_token: Keep the first token in any case; by default what its config says, or yes but for
            question answering.
        selection: How tokens are moved: "gather", or "one-hot" where gather and scatter are a risk.

    Returns:
        The model; or, of one without a head, the encoder that takes its place.

    Raises:
        InvalidOptionError: an option isn't one of this model.
        UnsupportedModelError: it has other layers than BERT's.
        UnsupportedFeatureError: it attends to another model's tokens.
    """
    if selection not in METHODS:
        raise InvalidOptionError("selection", selection, "one of " + ", ".join(map(repr, METHODS)))
    config, name = model.config, type(model).__name__
    if config.model_type not in ENCODER_TYPES:
        raise UnsupportedModelError(config.model_type, ENCODER_TYPES, "its layers aren't BERT's")
    lengths = stored(
        "length_config", getattr(config, "length_config", None) if length_config is None else length_config
    )
    layers = stored("layer_config", getattr(config, "layer_config", None) if layer_config is None else layer_config)
    if lengths is not None:
        check(lengths, config.num_hidden_layers, lengths[0])
    if layers is not None:
        check_layers(layers, config.num_hidden_layers)
    keep = always_keep_cls_token
    if keep is None:
        keep = getattr(config, "always_keep_cls_token", not name.endswith(_SPANS))
    if not isinstance(keep, bool):
        raise InvalidOptionError("always_keep_cls_token", keep, "True or False")
    adapted = install(model)
    keeping = Keeping(lengths, None, layers, keep, selection, restore=not name.endswith(_FIRST_ONLY))
    encoder_of(adapted).keeping = keeping
    return adapted


def encoder_of(model: Any) -> Any:
    """The encoder of a model that it was put into, or the model itself if it is one."""
    return getattr(model, "base_model", model)
