"""Training a model to do with fewer tokens and layers than it has: LengthDrop, layer drop, in-place distillation.

Owns: LengthDrop, a module that is trained like the model inside it, by an ordinary loop or transformers' Trainer. Knows
nothing of data, of optimizers or of files. The recipe is that of dynamic BERT (the Length-Adaptive Transformer).
"""

from __future__ import annotations

from math import ceil
from random import Random
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from neuronbert.adaptive.configuration import LEAST
from neuronbert.encoder.adapting import adapt_lengths, encoder_of
from neuronbert.encoder.model import Encoder
from neuronbert.errors import InvalidOptionError

if TYPE_CHECKING:
    from torch import Tensor

    from neuronbert.adaptive.configuration import Lengths

_SPANS: Final = ("start_logits", "end_logits")
"""By name: a head may have as many labels as a row has tokens."""


class LengthDrop(nn.Module):
    """A model that answers as it does, and in training is run several times for each batch, with fewer tokens.

    In training its loss is the mean of the task's, at full length, and of how far each smaller run's answers are from
    those of the first. Of the smaller ones the first drops as much as any may; the others drop at random. Each run
    leaves out layers at random, too.

    With a teacher, which stays as it is, no labels are needed and any texts will do: the loss is then how far the
    answers of all runs are from the teacher's.

    Args:
        model: A model of transformers with a head, of BERT or RoBERTa; it is adapted (see `adapt_lengths`).
        drop: The share of its tokens that a layer drops at most.
        sandwiches: How many runs drop at random.
        layer_dropout: The chance that a layer is left out of a run.
        teacher: What all runs are to answer like: a model in eval mode that drops nothing, such as the one that this
            was before. None for the run at full length, which learns from labels.
        seed: Of what is drawn at random here.

    Raises:
        InvalidOptionError: an option has a value that it can't take.
        UnsupportedModelError: the model has other layers than BERT's.

    Example:
        >>> drop = LengthDrop(model)  # doctest: +SKIP
        >>> drop.train()(**batch, labels=labels).loss.backward()  # doctest: +SKIP
        >>> drop.model.save_pretrained("trained/")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        *,
        drop: float = 0.2,
        sandwiches: int = 2,
        layer_dropout: float = 0.2,
        teacher: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, share in (("drop", drop), ("layer_dropout", layer_dropout)):
            if not 0 <= share < 1:
                raise InvalidOptionError(name, share, "0 or more and less than 1")
        if sandwiches < 0:
            raise InvalidOptionError("sandwiches", sandwiches, "0 or more")
        self.model = model if isinstance(encoder_of(model), Encoder) else adapt_lengths(model)
        self.config = model.config
        self._drop, self._sandwiches, self._layer_dropout = drop, sandwiches, layer_dropout
        self._teacher = (teacher,)  # whose weights are none of this module's
        self._random = Random(seed)
        self._layers = int(model.config.num_hidden_layers)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Any:
        """What the model gives; in training, with the loss of all runs.

        Raises:
            InvalidOptionError: there are neither labels nor a teacher to learn from.
        """
        named = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "labels": labels,
            "start_positions": start_positions,
            "end_positions": end_positions,
        }
        given = {name: value for name, value in named.items() if value is not None}
        if not self.training:
            return self.model(input_ids=input_ids, **given)
        return self._train(input_ids, given)

    def _train(self, input_ids: Tensor, given: dict[str, Tensor]) -> Any:
        width = int(input_ids.shape[-1])
        whole = (width,) * self._layers  # whatever the model's config says
        unlabelled: dict[str, Tensor] = {
            name: given[name] for name in ("attention_mask", "token_type_ids") if name in given
        }
        mask = given.get("attention_mask", torch.ones_like(input_ids)).bool()
        (teacher,) = self._teacher
        labelled = given if teacher is None else unlabelled
        full = self.model(input_ids=input_ids, **labelled, length_config=whole, layer_config=self._some_layers())
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(input_ids=input_ids, **unlabelled)
            losses = [distance(full, wanted, mask)]
        elif getattr(full, "loss", None) is not None:
            wanted, losses = full, [full.loss]
        else:
            raise InvalidOptionError("labels", None, "given in training, or a teacher: something has to be learned")
        runs = [self._smallest(width), *(self._some_lengths(width) for _ in range(self._sandwiches))]
        for lengths in runs:
            small = self.model(
                input_ids=input_ids, **unlabelled, length_config=lengths, layer_config=self._some_layers()
            )
            losses.append(distance(small, wanted, mask))
        full["loss"] = torch.stack(losses).mean()
        return full

    def _some_layers(self) -> Lengths:
        kept = tuple(layer for layer in range(self._layers) if self._random.random() >= self._layer_dropout)
        return kept or (self._random.randrange(self._layers),)

    def _smallest(self, width: int) -> Lengths:
        return self._shrunk(width, lambda least, _: least)

    def _some_lengths(self, width: int) -> Lengths:
        return self._shrunk(width, self._random.randint)

    def _shrunk(self, width: int, choose: Any) -> Lengths:
        lengths: list[int] = []
        for _ in range(self._layers):
            width = choose(max(LEAST, ceil(width * (1 - self._drop))), width)
            lengths.append(width)
        return tuple(lengths)


def distance(small: Any, full: Any, mask: Tensor) -> Tensor:
    """How far a smaller run's answers are from the first's, which they are to come near to and that stay as they are.

    The divergence KL(full || small) of each output's logits, over real tokens; the mean over outputs.

    Args:
        small: The outputs of the smaller run.
        full: Those of the first.
        mask: True at real tokens.
    """
    found = []
    for name in (name for name in full if name.endswith("logits")):
        one, other = small[name], full[name].detach()
        if name in _SPANS:  # a place in the sequence is what is chosen
            one, other = (value.masked_fill(~mask, torch.finfo(value.dtype).min) for value in (one, other))
        elif one.shape[:-1] == mask.shape:
            one, other = one[mask], other[mask]
        found.append(
            kl_div(log_softmax(one, dim=-1), log_softmax(other, dim=-1), log_target=True, reduction="batchmean")
        )
    return torch.stack(found).mean()
