"""Checkpoint to an ONNX file, for runtimes that aren't ours.

Owns: the order of such an export, and the folder: model.onnx, config.json and the tokenizer. It is no artifact: nothing
here loads it again. Batch and sequence are free.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert import inputs, modeling, sources
from neuronbert.architectures import find_head
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import InvalidOptionError, MissingPackageError, first_line
from neuronbert.folders import CONFIG
from neuronbert.quantization.pairs import paired
from neuronbert.shapes import check_choices
from neuronbert.staging import staged

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from neuronbert.spec import ExportSpec

logger = logging.getLogger("neuronbert")

MODEL: Final = "model.onnx"
_OPSET: Final = 17
_EXTRA: Final = "onnx"

_STATIC: Final = (
    "neuronbert where tokens are dropped: how many is fixed for rows of a length, and a model.onnx takes any"
)
_NO_INTEGERS: Final = "'none' for an ONNX file of this checkpoint in float: ONNX has no operators for I-BERT's integers"


def export_onnx(
    spec: ExportSpec,
    output: str | os.PathLike[str],
    *,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Path:
    """Write a checkpoint's head as ONNX, whole or not at all; a quantized one with its quantizers as pairs.

    Args:
        spec: Model, revision, task and quantization; the first shape is what is traced with. The rest plays no part.
        output: The folder to make. An empty one may be there already.
        token: For the Hub; None takes the one that is logged in.
        progress: Told what is being done.

    Returns:
        The file, which ONNX's own checker has accepted.

    Raises:
        UsageError: the spec can't be met, or the output exists.
        DataError: the checkpoint is broken.
        MissingPackageError: onnx isn't installed.
        UnavailableError: the model or the disk isn't there.
    """
    checker = _checker()
    found = sources.opened(spec.model, revision=spec.revision, token=token, progress=progress)
    with found as (_, checkpoint), staged(output, owned=lambda _: None, overwrite=False) as folder:
        task = canonical_task(spec.task, checkpoint)
        find_head(checkpoint.architecture, task)
        checkpoint.check_settings(task)
        checkpoint.check_shapes(spec.shapes)
        check_choices(spec.shapes, needed=task == "multiple-choice")
        if spec.keeping(task, checkpoint.config) is not None:
            raise InvalidOptionError("format", "onnx", _STATIC)
        method = checkpoint.quantization(spec.quantization)
        if method == "ibert":
            raise InvalidOptionError("quantization", method, _NO_INTEGERS)
        progress("loading the weights")
        loaded = modeling.load(checkpoint, task, quantization=method, allow_random_weights=spec.allow_random_weights)
        head = paired(loaded.head) if method == "qdq" else loaded.head
        progress("writing the model")
        _write(head, loaded, inputs.example(loaded.inputs, spec.shapes[0]), folder / MODEL)
        checker.check_model(str(folder / MODEL), full_check=True)
        (folder / CONFIG).write_text(json.dumps(checkpoint.config, indent=2) + "\n", encoding="utf-8")
        checkpoint.copy_tokenizer(folder)
    return Path(output) / MODEL


def _write(head: Any, loaded: modeling.LoadedHead, example: tuple[torch.Tensor, ...], path: Path) -> None:
    names = [spec.name for spec in loaded.inputs], [spec.name for spec in loaded.outputs]
    axes = {spec.name: {0: "batch", example[0].dim() - 1: "sequence"} for spec in loaded.inputs}
    axes |= {
        spec.name: {place: dim for place, dim in enumerate(spec.dims) if dim in ("batch", "sequence")}
        for spec in loaded.outputs
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is the old one, which knows how a function wants to be written
        torch.onnx.export(
            head,
            example,
            str(path),
            dynamo=False,
            input_names=names[0],
            output_names=names[1],
            dynamic_axes=axes,
            opset_version=_OPSET,
        )


def _checker() -> Any:
    try:
        from onnx import checker  # noqa: PLC0415  an extra
    except ImportError as error:
        raise MissingPackageError("onnx", _EXTRA, first_line(error)) from error
    return checker
