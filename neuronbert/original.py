"""The model that an artifact is held against: transformers' eager one, in fp32, of the checkpoint it was exported from.

Owns: finding that checkpoint again, and calling its head as the program is called. Knows nothing of what is compared.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from neuronbert import sentences, sources
from neuronbert.errors import MissingFileError, ModelNotFoundError, ReferenceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from neuronbert.checkpoint import Checkpoint
    from neuronbert.manifest import Manifest
    from neuronbert.modeling import EncoderHead, LoadedHead

logger = logging.getLogger("neuronbert")


@contextmanager
def opened(
    manifest: Manifest,
    model: str | None = None,
    *,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Iterator[Checkpoint]:
    """The checkpoint that an artifact was exported from, or another one that is named.

    Raises:
        ReferenceNotFoundError: it can't be found.
    """
    source = manifest.source
    place = model or source.path or (source.model if source.revision else None)
    if place is None:
        raise ReferenceNotFoundError(source.model)
    revision = None if model else source.revision
    with ExitStack() as stack:
        try:
            found = sources.opened(place, revision=revision, token=token, progress=progress)
            _, checkpoint = stack.enter_context(found)
        except (ModelNotFoundError, MissingFileError) as error:
            raise ReferenceNotFoundError(place) from error
        yield sentences.with_modules(checkpoint, manifest.task)


def as_the_program(loaded: LoadedHead, manifest: Manifest) -> EncoderHead:
    """The head with the program's inputs and outputs: one of optimum-neuron's may name fewer, or in another order."""
    names = [spec.name for spec in manifest.outputs]
    return loaded.head.renamed([spec.name for spec in manifest.inputs], names)


def positional(manifest: Manifest, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """A call's inputs in the program's order, with what is left out filled."""
    first = given["input_ids"]
    return tuple(given.get(spec.name, torch.full_like(first, spec.default or 0)) for spec in manifest.inputs)
