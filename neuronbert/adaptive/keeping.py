"""How an encoder drops tokens, as an artifact's manifest records it.

Owns: Keeping, and what is meant where nothing is said. Knows nothing of models, files or frameworks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import Field, model_validator

from neuronbert.adaptive.configuration import Selection, check, check_layers, check_order, scale, stored
from neuronbert.data import Data
from neuronbert.errors import InvalidOptionError, UnsupportedFeatureError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.adaptive.configuration import Lengths

ENCODER_TYPES: Final = ("bert", "roberta", "xlm-roberta", "camembert")
"""The architectures whose layers are those of our encoder."""
_FIRST_ONLY: Final = ("text-classification", "multiple-choice", "next-sentence-prediction")
"""The tasks whose heads read the first token alone."""
_SPANS: Final = "question-answering"
"""Its answer may be anywhere, and dynamic BERT doesn't keep the first token for it."""
_OTHERS: Final = "tokens are dropped, and layers left out, in our own encoder, which has BERT's layers"
SEES_AHEAD: Final = "which of a decoder's tokens are dropped would tell of those that come after them"


class Keeping(Data):
    """Which tokens go on from layer to layer, and which layers are run."""

    length_config: tuple[int, ...] | None = None
    """Tokens that each layer keeps, by its number in the model, run or not; None to keep all."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    """The length of the rows that they are for: they are scaled for others. None to take them as they are."""
    layer_config: tuple[int, ...] | None = None
    """The layers that are run; None for all."""
    always_keep_cls_token: bool = True
    """Keep the first token in any case, and in its place."""
    selection: Selection = "gather"
    """How tokens are moved: by index, or by products with one-hot matrices."""
    restored: bool = True
    """Give what is known of the dropped tokens, too. A head that reads the first token alone needs none of it, if that
    is kept; the encoder then gives only the tokens that are left."""

    @model_validator(mode="after")
    def _check_orders(self) -> Self:
        try:
            if self.length_config is not None:
                check_order(self.length_config)
            if self.layer_config is not None:
                check_layers(self.layer_config, self.layer_config[-1] + 1 if self.layer_config else 0)
        except InvalidOptionError as error:
            raise ValueError(str(error)) from error
        return self

    @classmethod
    def of(cls, task: str, config: Mapping[str, Any], **given: Any) -> Self | None:
        """What is meant for a model: what is given, or what its config.json says, or all.

        Args:
            task: Its head's.
            config: Its config.json; `length_config` and the like are dynamic BERT's.
            given: Fields; None stands for one that isn't given, and () for all tokens or all layers.

        Returns:
            None if no token is dropped and no layer left out.

        Raises:
            InvalidOptionError: a field isn't one of the model.
            UnsupportedModelError: the model has other layers than BERT's.
            UnsupportedFeatureError: it is a decoder.
        """
        lengths, layers = (_asked(name, given.get(name), config) for name in ("length_config", "layer_config"))
        if lengths is None and layers is None:
            return None
        if config["model_type"] not in ENCODER_TYPES:
            raise UnsupportedModelError(config["model_type"], ENCODER_TYPES, _OTHERS)
        if lengths is not None and config.get("is_decoder"):
            raise UnsupportedFeatureError("is_decoder", True, SEES_AHEAD)
        count, width = int(config["num_hidden_layers"]), given.get("sequence_length")
        if lengths is not None:
            check(lengths, count, width or lengths[0])
        if layers is not None:
            check_layers(layers, count)
        first = keeps_first(task, config, given.get("always_keep_cls_token"))
        return cls(
            length_config=lengths,
            sequence_length=width,
            layer_config=layers,
            always_keep_cls_token=first,
            selection=given.get("selection") or "gather",
            restored=not (first and reads_first_only(task)),
        )

    def lengths_for(self, layers: int, sequence_length: int) -> Lengths | None:
        """What each layer keeps of rows of a length.

        Args:
            layers: How many the model has.
            sequence_length: Tokens of a row.

        Raises:
            InvalidOptionError: the lengths are none of such a model, or for longer rows.
        """
        if self.length_config is None:
            return None
        lengths = self.length_config
        if self.sequence_length is not None:
            lengths = scale(lengths, self.sequence_length, sequence_length)
        check(lengths, layers, sequence_length)
        return lengths


def keeps_first(task: str, config: Mapping[str, Any], given: bool | None = None) -> bool:
    """Whether the first token is kept in any case: as given, or as config.json says, or by the task.

    Raises:
        InvalidOptionError: it is neither true nor false.
    """
    keep = config.get("always_keep_cls_token") if given is None else given
    return task != _SPANS if keep is None else check_first(keep)


def check_first(keep: object) -> bool:
    """Whether the first token is kept, as somebody says.

    Raises:
        InvalidOptionError: that is neither true nor false.
    """
    if not isinstance(keep, bool):
        raise InvalidOptionError("always_keep_cls_token", keep, "True or False")
    return keep


def reads_first_only(task: str) -> bool:
    """Whether a task's heads read the first token alone."""
    return task in _FIRST_ONLY


def _asked(name: str, given: Lengths | None, config: Mapping[str, Any]) -> Lengths | None:
    if given == ():
        return None
    return stored(name, config.get(name) if given is None else given)
