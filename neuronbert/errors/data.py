"""What was given is broken or unsafe.

Owns: the errors of checkpoints, artifacts, tokenizers and calibration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronbert.errors.base import DataError
from neuronbert.errors.wording import listed

if TYPE_CHECKING:
    from collections.abc import Sequence


class CalibrationError(DataError):
    """Calibration data, or a model, that gives no ranges."""

    def __init__(self, where: str, problem: str) -> None:
        # A place can be left out of it; what the data lacks is lacking everywhere.
        keep = ", or leave what is at fault in float with --keep-float" if where.startswith("layer.") else ""
        super().__init__(f"The model can't be calibrated: {where} {problem}. Give other data with --data{keep}.")


class UncalibratedError(DataError):
    """A quantizer whose range was never set."""

    def __init__(self, name: str, method: str = "qdq") -> None:
        super().__init__(
            f"{name} has no range, so the model has no answers. "
            f"Calibrate it with: neuronbert quantize MODEL OUTPUT --quantization {method} --data FILE."
        )


class BadRowsError(DataError):
    """Rows of a dataset that can't be used."""

    def __init__(self, rows: Sequence[str], more: int) -> None:
        others = f"; and {more} more" if more else ""
        super().__init__(f"{'; '.join(rows)}{others}. Nothing was run: every row must have a vector.")


class CheckpointError(DataError):
    """A checkpoint that can't be used."""


class CheckpointCorruptError(CheckpointError):
    """A file of the checkpoint that can't be read."""

    def __init__(self, path: object, problem: str) -> None:
        end = "" if problem.endswith("?") else "."
        super().__init__(f"{path} can't be used: {problem}{end} Fetch or save the checkpoint again.")


class UnsafeWeightsError(CheckpointError):
    """Weights that would have to be unpickled."""

    def __init__(self, path: object, found: str) -> None:
        super().__init__(
            f"{path} has no safetensors weights, only {found}, and pickled files are not loaded. "
            "Load it where you trust it and save it again: model.save_pretrained(folder)."
        )


class UnsafePickleError(CheckpointError):
    """A pickled file that asks for more than data."""

    def __init__(self, path: object, name: str) -> None:
        super().__init__(
            f"{path} is not loaded: it asks for {name}, which is not on the list of what a checkpoint may name. "
            "Nothing of it was run. If you trust it, load it yourself and save its model and args alone."
        )


class UnsafeArchiveError(CheckpointError):
    """An archive that would do harm if it were unpacked."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(f"{path} is not unpacked: {problem}. Fetch the checkpoint again, from where you trust it.")


class SchemeError(CheckpointError):
    """A config.json whose quantization this version doesn't know."""

    def __init__(self, path: object, place: str, problem: str) -> None:
        super().__init__(
            f"{path} has a quantization that can't be used: {place}: {problem}. "
            "Make the checkpoint again with: neuronbert quantize MODEL OUTPUT."
        )


class VocabularyError(CheckpointError):
    """A vocabulary that isn't the checkpoint's."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(f"The vocabulary {path} can't be used: {problem}. Give the right file with --vocab.")


class HeadWeightsMissingError(CheckpointError):
    """The checkpoint has no weights for the head that was asked for."""

    def __init__(self, task: str, class_name: str, missing: Sequence[str]) -> None:
        shown = listed(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        super().__init__(
            f"The checkpoint has no {task} head ({class_name} needs {shown}). Export the task it was trained for, "
            "or start from random weights with --allow-random-weights."
        )


class IntegerRangeError(CheckpointError):
    """A range or a weight that makes integers too wide for integer arithmetic."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place} can't be computed on integers: {problem}. Calibrate it again on other data.")


class TokenizerError(DataError):
    """Tokenizer files that make no tokenizer."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"The tokenizer in {path} can't be loaded: {reason}.")


class ArtifactError(DataError):
    """An artifact that can't be used."""


class NotAnArtifactError(ArtifactError):
    """A directory without a manifest."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} is not a neuronbert artifact: it has no neuronbert.json. "
            f"Make one with: neuronbert export --model {path} OUTPUT."
        )


class ArtifactCorruptError(ArtifactError):
    """A file of the artifact that isn't what was written."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(f"{path} {problem}. Nothing was loaded; export or download the artifact again.")


class ArtifactReplacedError(ArtifactError):
    """Another artifact where the one was that a run began with."""

    def __init__(self, path: object, node: str) -> None:
        super().__init__(
            f"{path} on {node} isn't the artifact that this run began with. "
            "Put that one there again and go on with --resume, or choose another output."
        )


class ForeignArtifactError(ArtifactError):
    """An artifact without a manifest, whose config.json doesn't say how to run it."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(
            f"{path} can't be opened as an artifact of optimum-neuron: {problem}. "
            "Export its checkpoint here: neuronbert export --model CHECKPOINT OUTPUT."
        )


class ArtifactVersionError(ArtifactError):
    """An artifact of a format that this version doesn't read."""

    def __init__(self, path: object, found: object, supported: int) -> None:
        super().__init__(
            f"{path} has artifact format {found}, this neuronbert reads format {supported}. "
            "Upgrade with: pip install -U neuronbert; or export the model again."
        )
