"""A quantized checkpoint to a model that is trained, and back.

Owns: which model of transformers is trained, and what is written of it. Training itself is the caller's: any loop of
PyTorch, or transformers' Trainer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronbert import modeling
from neuronbert.checkpoint import Checkpoint, canonical_task
from neuronbert.errors import InvalidOptionError, NotQuantizedError
from neuronbert.quantization import folder, ibert, placement
from neuronbert.staging import staged

if TYPE_CHECKING:
    import os

    from neuronbert.integers.ranges import Ranges
    from neuronbert.schemes import Scheme


def trainable(source: str | os.PathLike[str], task: str = "auto", *, learn_ranges: bool = False) -> Any:
    """The head of a quantized checkpoint as a model of transformers whose encoder rounds, to be trained.

    An ordinary loop trains it, and so does transformers' Trainer; `save_quantized` writes the result.

    Args:
        source: A folder that `quantize` made.
        task: The head's task; "auto" reads it off the checkpoint.
        learn_ranges: Make the ranges parameters; of an I-BERT they are averages over the batches, as in its paper.

    Raises:
        NotQuantizedError: the checkpoint isn't quantized.
        NeuronBertError: whatever else the checkpoint has wrong.
    """
    checkpoint = Checkpoint.open(Path(source))
    if checkpoint.scheme is not None and checkpoint.scheme.method == "ibert":
        loaded = modeling.load(checkpoint, canonical_task(task, checkpoint))
        model = ibert.prepare(loaded.head.model, checkpoint)
    else:
        model = modeling.load(checkpoint, canonical_task(task, checkpoint), quantization="qdq").head.model
    for module in model.modules():
        if hasattr(module, "_loss_function"):
            del module._loss_function  # a program has none; a model that is trained has its own again
    for quantizer in placement.of(model).values():
        if learn_ranges and quantizer.enabled:
            quantizer.learn()
    return model.train()


def save_quantized(model: Any, source: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Write a trained model as a quantized checkpoint, whole or not at all.

    Args:
        model: What `trainable` gave.
        source: The folder that it is from: of its config, its scheme and its tokenizer.
        output: The folder to make.

    Raises:
        NotQuantizedError: the source isn't quantized.
        InvalidOptionError: the model isn't what `trainable` gave of the source.
        UncalibratedError: a quantizer has no range.
        CheckpointCorruptError: a range has become what none can be: negative, 0 or not a number.
        OutputExistsError: the output exists.
        StorageError: it can't be written.
    """
    checkpoint = Checkpoint.open(Path(source))
    scheme = checkpoint.scheme
    if scheme is None:
        raise NotQuantizedError(source, "qdq", "")
    learned = _learned(model, checkpoint) if scheme.method == "ibert" else None
    if learned is None:
        _check_ranges(model, scheme, source)
    held: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if held.setdefault(tensor.data_ptr(), name) == name or tensor.numel() == 1:  # tied ones are written once
            tensors[name] = tensor.detach().contiguous()
    if learned is not None:
        tensors |= learned.state(folder.stem_of(tensors))
        if twin := checkpoint.architecture.twin:
            own = re.compile(rf"^{twin}\.")
            tensors = {own.sub(f"{checkpoint.architecture.model_type}.", name): it for name, it in tensors.items()}
    with staged(output, owned=lambda _: None, overwrite=False) as new:
        folder.write(checkpoint, scheme, tensors, new)


def _learned(model: Any, checkpoint: Checkpoint) -> Ranges:
    found = ibert.learned(model)
    if found is None or found.extents.keys() != ibert.read(checkpoint.weight_files).extents.keys():
        raise InvalidOptionError("model", type(model).__name__, f"what trainable gave of {checkpoint.path}")
    return found


def _check_ranges(model: Any, scheme: Scheme, source: object) -> None:
    # As the one who loads it will: what is written can be read.
    found = {name: quantizer.enabled for name, quantizer in placement.of(model).items()}
    kept = {name for name, enabled in found.items() if not enabled}
    if not found or kept != set(scheme.kept_float):
        raise InvalidOptionError("model", type(model).__name__, f"what trainable gave of {source}")
    placement.check_ranges(placement.ranges_of(model), "the trained model")
