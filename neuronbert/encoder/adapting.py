"""A model of transformers, made to drop tokens.

Owns: putting the encoder in, and taking out of it what it tells of the tokens. Knows nothing of files or programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from neuronbert.adaptive.configuration import SELECTIONS, Selection, spell, stored
from neuronbert.adaptive.keeping import ENCODER_TYPES, Keeping, keeps_first, reads_first_only
from neuronbert.architectures import find_architecture
from neuronbert.encoder.model import Encoder, install, record
from neuronbert.errors import InvalidOptionError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from neuronbert.adaptive.configuration import Lengths

PASSED: Final = "kept_layers"
"""The output that tells how many layers each token passed."""


def adapt_lengths(
    model: Any,
    *,
    length_config: Lengths | None = None,
    layer_config: Lengths | None = None,
    always_keep_cls_token: bool | None = None,
    selection: Selection = "gather",
) -> Any:
    """Make a model drop tokens where they no longer matter.

    Its forward then takes length_config, layer_config and always_keep_cls_token, too, which win over those given here;
    `model.base_model.set_length_config` sets the first of them for all calls. Without any of them the model answers as
    before, bit for bit as with transformers' eager attention. What is given is written into the model's config, as
    dynamic BERT's checkpoints have it, and so saved by `save_pretrained`.

    Args:
        model: A model of transformers: BERT's or RoBERTa's, with any head or none. It is changed.
        length_config: Tokens that each layer keeps; by default what its config says (`config.length_config`, as dynamic
            BERT's checkpoints have it), or all.
        layer_config: The layers that are run; by default what its config says, or all.
        always_keep_cls_token: Keep the first token in any case; by default what its config says, or yes but for
            question answering.
        selection: How tokens are moved: "gather", or "one-hot" where moving by index is a risk.

    Returns:
        The model; or, of one without a head, the encoder that takes its place, with its own `save_pretrained`.

    Raises:
        InvalidOptionError: an option isn't one of this model.
        UnsupportedModelError: it has other layers than BERT's.
        UnsupportedFeatureError: it attends to another model's tokens, or is a decoder.
    """
    if selection not in SELECTIONS:
        raise InvalidOptionError("selection", selection, "one of " + ", ".join(map(repr, SELECTIONS)))
    config = model.config.to_dict()
    if config["model_type"] not in ENCODER_TYPES:
        raise UnsupportedModelError(config["model_type"], ENCODER_TYPES, "its layers aren't BERT's")
    tasks = {head: task for task, head in find_architecture(config["model_type"]).heads.items()}
    task = tasks.get(type(model).__name__, "feature-extraction")
    # Of a spec, () means all; here that is nobody's word, and most likely a mistake.
    asked = {
        "length_config": stored("length_config", length_config),
        "layer_config": stored("layer_config", layer_config),
    }
    keeping = Keeping.of(task, config, always_keep_cls_token=always_keep_cls_token, selection=selection, **asked)
    if keeping is None:  # until a call says otherwise
        first = keeps_first(task, config, always_keep_cls_token)
        restored = not (first and reads_first_only(task))
        keeping = Keeping(always_keep_cls_token=first, selection=selection, restored=restored)
    for name in asked:
        numbers = getattr(keeping, name)
        record(model.config, name, None if numbers is None else spell(numbers))
    if always_keep_cls_token is not None:
        model.config.always_keep_cls_token = always_keep_cls_token
    return keep_tokens(model, keeping)


def keep_tokens(model: Any, keeping: Keeping) -> Any:
    """Put the encoder into a model, unless it is there, and say which tokens go on.

    Args:
        model: A model of transformers, or one that our encoder was put into; it is changed.
        keeping: Which do.

    Returns:
        The model; or, of one without a head, the encoder.
    """
    adapted = model if isinstance(encoder_of(model), Encoder) else install(model)
    encoder_of(adapted).keeping = keeping
    return adapted


def encoder_of(model: Any) -> Any:
    """The encoder of a model that it was put into, or the model itself if it is one."""
    return getattr(model, "base_model", model)


def tell_passed(module: nn.Module, encoder: Encoder) -> None:
    """Have a module give what its encoder tells of the tokens beside its outputs, as PASSED.

    Args:
        module: What takes input_ids and gives outputs by name.
        encoder: The encoder in it.
    """

    def add(_module: nn.Module, _args: object, given: dict[str, Any], outputs: Any) -> Any:
        if encoder.passed is not None:
            outputs[PASSED] = encoder.passed.view(given["input_ids"].shape)
        return outputs

    module.register_forward_hook(add, with_kwargs=True)
