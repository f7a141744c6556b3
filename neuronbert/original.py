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
from neuronbert.padding import pad, unpad

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


def answer(
    head: EncoderHead, manifest: Manifest, given: Mapping[str, Tensor], length: int | None = None
) -> tuple[Tensor, ...]:
    """What the head gives for a call.

    Where tokens are dropped, which are depends on how many there are, padding included. So the head is given rows as
    long as the program's: those of the length named, or of the shortest that the call fits in.
    """
    tensors = positional(manifest, given)
    width = tensors[0].shape[-1]
    with torch.no_grad():
        if manifest.keeping is None or manifest.keeping.length_config is None:
            outputs: tuple[Tensor, ...] = head(*tensors)
            return outputs
        lengths = [shape.sequence_length for shape in manifest.shapes if shape.sequence_length >= width]
        dims = (*tensors[0].shape[:-1], length or min(lengths, default=width))
        return tuple(unpad(head(*pad(tensors, manifest.inputs, dims)), manifest.outputs, tuple(tensors[0].shape)))
