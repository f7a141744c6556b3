"""What a length configuration is worth on rows of data.

Owns: Scorer: one model, its rows and one number. Knows nothing of what is tried, or in which order.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.functional import cosine_similarity, kl_div, log_softmax

from neuronbert import metrics, modeling
from neuronbert.adaptive.keeping import Keeping
from neuronbert.encoder.adapting import encoder_of
from neuronbert.errors import InvalidOptionError
from neuronbert.padding import pad, unpad
from neuronbert.pooling import SentenceEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from neuronbert.adaptive.configuration import Lengths
    from neuronbert.decoding import Row
    from neuronbert.manifest import OutputSpec
    from neuronbert.modeling import LoadedHead

FIDELITY: Final = "fidelity"
"""The metric that needs no labels: how near the answers are to those at full length."""
_WARM, _TIMED = 1, 3


@dataclass(frozen=True, slots=True)
class Exam:
    """What a configuration is scored by.

    Attributes:
        rows: Of the data; labelled but for FIDELITY.
        metric: One of the task's own, or FIDELITY.
        config: The model's config.json, for its labels.
        tokenizer: The checkpoint's.
        sequence_length: What rows are padded and cut to.
    """

    rows: Sequence[Row]
    metric: str
    config: Mapping[str, Any]
    tokenizer: Any
    sequence_length: int


class Scorer:
    """A head that is run with one length configuration after another. One thread may use it at a time.

    Args:
        loaded: The head; it is copied, but for its weights.
        exam: What it is scored by.
        keeping: How tokens are dropped, but for how many.
    """

    def __init__(self, loaded: LoadedHead, exam: Exam, keeping: Keeping) -> None:
        weights = {id(tensor): tensor for tensor in (*loaded.head.parameters(), *loaded.head.buffers())}
        self._head = copy.deepcopy(loaded.head, weights)
        self._keeping = keeping
        held = self._head.model
        self._encoder = encoder_of(held.model if isinstance(held, SentenceEncoder) else held)
        self._inputs, self._outputs, self._task = loaded.inputs, loaded.outputs, loaded.task
        self._exam = exam
        self._full: list[Mapping[str, Tensor]] = []
        self._full_of: Exam | None = None

    def score(self, lengths: Lengths, exam: Exam | None = None) -> float:
        """What a configuration is worth; more is better.

        Args:
            lengths: The configuration.
            exam: By other rows than usual.

        Raises:
            InvalidOptionError: the task has no such metric.
        """
        exam = exam or self._exam
        if exam.metric == FIDELITY:
            return self._fidelity(lengths, exam)
        self._set(lengths)
        found = metrics.evaluate(self._task, exam.rows, exam.config, exam.tokenizer, self._run, exam.sequence_length)
        if exam.metric not in found:
            expected = "one of " + ", ".join(map(repr, (FIDELITY, *found)))
            raise InvalidOptionError("metric", exam.metric, expected)
        return found[exam.metric]

    def milliseconds(self, lengths: Lengths) -> float:
        """The least time that a row takes here, in the eager model."""
        self._set(lengths)
        (given, *_), taken = self._calls(self._exam), []
        for _ in range(_WARM + _TIMED):
            begun = time.perf_counter()
            self._run(given)
            taken.append(1000 * (time.perf_counter() - begun))
        return min(taken[_WARM:])

    def _fidelity(self, lengths: Lengths, exam: Exam) -> float:
        calls = self._calls(exam)
        if self._full_of is not exam:
            self._set(None)
            self._full, self._full_of = [self._run(given) for given in calls], exam
        self._set(lengths)
        found = [
            likeness(self._outputs, self._run(given), full, given["attention_mask"].bool())
            for given, full in zip(calls, self._full, strict=True)
        ]
        return sum(found) / len(found)

    def _calls(self, exam: Exam) -> list[Mapping[str, Tensor]]:
        return metrics.calls(self._task, exam.rows, exam.config, exam.tokenizer, exam.sequence_length)

    def _set(self, lengths: Lengths | None) -> None:
        self._encoder.keeping = self._keeping.model_copy(update={"length_config": lengths})

    def _run(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the head gives for rows of at most the exam's length."""
        first = given["input_ids"]
        tensors = [given.get(spec.name, torch.full_like(first, spec.default or 0)) for spec in self._inputs]
        dims = tuple(first.shape)
        with torch.no_grad():
            outputs = self._head(*pad(tensors, self._inputs, (*dims[:-1], self._exam.sequence_length)))
        names = [spec.name for spec in self._outputs]
        return dict(zip(names, unpad(outputs, self._outputs, dims), strict=True))


def likeness(
    specs: Sequence[OutputSpec], ours: Mapping[str, Tensor], full: Mapping[str, Tensor], mask: Tensor
) -> float:
    """How near outputs are to those at full length: 0 or less for logits (a divergence), 1 or less for embeddings.

    Args:
        specs: The outputs.
        ours: Their values, by name.
        full: Those at full length.
        mask: True at real tokens; others aren't looked at.
    """
    found = []
    for spec in specs:
        one, other = ours[spec.name], full[spec.name]
        if spec.answer == "span":
            one, other = (value.masked_fill(~mask, torch.finfo(value.dtype).min) for value in (one, other))
        elif "sequence" in spec.dims:
            one, other = one[mask], other[mask]
        if spec.answer == "embedding":
            found.append(float(cosine_similarity(one, other, dim=-1).mean()))
        else:
            one, other = (log_softmax(value.reshape(-1, value.shape[-1]), dim=-1) for value in (one, other))
            found.append(-float(kl_div(one, other, log_target=True, reduction="batchmean")))
    return sum(found) / len(found)


def adaptable(loaded: LoadedHead) -> LoadedHead:
    """A head whose tokens can be dropped, and that gives nothing beside its outputs."""
    return modeling.keep_tokens(loaded, Keeping())
