"""What was asked can't be done as asked.

Owns: the errors of commands, options and calls, but for their tensors and texts (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronbert.errors.base import UsageError
from neuronbert.errors.wording import listed

if TYPE_CHECKING:
    from collections.abc import Sequence


class UnknownTaskError(UsageError):
    """A task name that no head has."""

    def __init__(self, task: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no task {task!r}. Use one of: {listed(known)}.")


class TaskNotInferableError(UsageError):
    """The checkpoint doesn't say which head it has."""

    def __init__(self, class_names: Sequence[str], known: Sequence[str]) -> None:
        said = f"names {listed(class_names)}" if class_names else "names no architecture"
        super().__init__(
            f"The task can't be read off the checkpoint (its config.json {said}). "
            f"Name it with --task, one of: {listed(known)}."
        )


class UnsupportedModelError(UsageError):
    """A model type that isn't in the architecture table."""

    def __init__(self, model_type: str, supported: Sequence[str], reason: str = "") -> None:
        why = f": {reason}" if reason else ""
        super().__init__(f"Models of type {model_type!r} are not supported{why}. Supported: {listed(supported)}.")


class UnsupportedHeadError(UsageError):
    """A head that the architecture doesn't have."""

    def __init__(self, task: str, model_type: str, supported: Sequence[str]) -> None:
        super().__init__(f"{model_type} has no head for {task}. Its tasks: {listed(supported)}.")


class UnsupportedFeatureError(UsageError):
    """A feature of the checkpoint that a program would silently get wrong."""

    def __init__(self, setting: str, value: object, reason: str) -> None:
        super().__init__(f"This checkpoint has {setting}={value!r}, which is not supported: {reason}.")


class WrongPipelineError(UsageError):
    """A pipeline for another head than the model's, or one that there is none for."""

    def __init__(self, task: str, model_task: str, fitting: Sequence[str]) -> None:
        fit = f"Pipelines that run it: {listed(fitting)}." if fitting else "No pipeline runs it: use model.predict."
        super().__init__(f"The pipeline {task!r} doesn't run a model for {model_task}. {fit}")


class InvalidShapeError(UsageError):
    """A shape that no program can have."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name} is {value!r}; it must be {expected}.")


class InvalidOptionError(UsageError):
    """An option whose value can't be used."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name} is {value!r}; it must be {expected}.")


class MissingOptionError(UsageError):
    """An option without a default that wasn't given."""

    def __init__(self, name: str, example: str) -> None:
        super().__init__(f"{name} is missing; give it, for example as in {example}.")


class SequenceExceedsPositionsError(UsageError):
    """A sequence longer than the model has positions for."""

    def __init__(self, sequence_length: int, limit: int) -> None:
        super().__init__(
            f"sequence_length is {sequence_length}, but the model has positions for {limit} tokens. "
            f"Use --sequence-length {limit} or less."
        )


class DeviceMemoryError(UsageError):
    """Programs that don't fit on a core of the target together."""

    def __init__(self, target: str, programs: int, need: int, limit: int, fitting: int) -> None:
        advice = (
            f"Each has weights of its own: use at most {fitting} (--sequence-length, --bucket, --max-buckets)"
            if 0 < fitting < programs
            else "Use a smaller --batch-size or --sequence-length, or another --target"
        )
        super().__init__(
            f"{programs} programs take at least {need / 2**30:.1f} GiB of a NeuronCore, and {target} has "
            f"{limit / 2**30:.0f} GiB for one at most. {advice}."
        )


class OutputExistsError(UsageError):
    """Something is already where the output should go."""

    def __init__(self, path: object, *, replaceable: bool) -> None:
        advice = (
            "Choose another output, or replace it with --force"
            if replaceable
            else "It is not an artifact, so it is never replaced: choose another output"
        )
        super().__init__(f"{path} already exists. {advice}.")


class RecipeError(UsageError):
    """A recipe file that can't be used."""

    def __init__(self, path: object, problems: Sequence[str]) -> None:
        super().__init__(f"The recipe {path} can't be used: {'; '.join(problems)}.")


class MatrixError(UsageError):
    """A matrix file that can't be used."""

    def __init__(self, path: object, problems: Sequence[str]) -> None:
        super().__init__(f"The matrix {path} can't be used: {'; '.join(problems)}.")


class RandomModelError(UsageError):
    """A config that no model can be made from."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The config of {name!r} makes no model: {reason}.")


class DataFileError(UsageError):
    """A line of a file of rows that can't be used."""

    def __init__(self, path: object, line: int, problem: str) -> None:
        where = f"{path}, line {line}" if line else str(path)
        super().__init__(f"{where}: {problem}.")


class WrongHeadError(UsageError):
    """An artifact opened with the class of another head or architecture."""

    def __init__(self, class_name: str, expected: str, found: str) -> None:
        super().__init__(
            f"{class_name} runs {expected}, but this artifact is for {found}. "
            "Open it with NeuronAutoModel, which picks the class."
        )


class NotValidatedError(UsageError):
    """An artifact that must not be published."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} failed its validation, so it is not pushed. "
            f"See why with: neuronbert validate {path}; push it all the same with --force."
        )


class FixedWeightsError(UsageError):
    """New weights for programs that hold theirs inside."""

    def __init__(self) -> None:
        super().__init__(
            "The programs of this artifact hold their weights inside, so they can't be replaced. "
            "Export the new checkpoint, or export for a Neuron device with --no-inline-weights."
        )


class ReplacedWeightsError(UsageError):
    """Saving a model whose weights were replaced after it was loaded."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"The model isn't saved to {path}: its weights were replaced, and the artifact's programs hold others. "
            "Export the checkpoint that the new weights are from."
        )


class NoEntryError(UsageError):
    """A key that doesn't name one entry of the cache."""

    def __init__(self, key: str, found: int) -> None:
        said = f"{found} entries of the cache begin" if found else "No entry of the cache begins"
        super().__init__(f"{said} with {key!r}. See all with: neuronbert cache ls.")


class UnrecordedArtifactError(UsageError):
    """An artifact of optimum-neuron, which can't be published with a card that says what it is."""

    def __init__(self, path: object, repository: str) -> None:
        super().__init__(
            f"{path} has no neuronbert.json, so nothing says what it was made from, and it is not pushed. "
            f"Export its checkpoint here, or upload the folder as it is: hf upload {repository} {path}."
        )


class PoolClosedError(UsageError):
    """A call to a pool that has no workers any more."""

    def __init__(self, reason: str = "was closed") -> None:
        super().__init__(f"The pool {reason}. Open another one.")


class NotQuantizedError(UsageError):
    """A quantization that the checkpoint doesn't have."""

    def __init__(self, path: object, wanted: str, found: str) -> None:
        has = f"is quantized as {found}" if found else "is not quantized"
        super().__init__(
            f"{path} {has}, and {wanted} was asked for. "
            f"Quantize it with: neuronbert quantize MODEL OUTPUT --quantization {wanted}; or leave --quantization out."
        )


class SimulatedOnlyError(UsageError):
    """A quantization that a target has no integers for."""

    def __init__(self, what: str, target: str, expected: str) -> None:
        super().__init__(
            f"{what} can't be compiled for {target}: its integer products take {expected}. "
            "Quantize again with those, or leave such layers in float with --keep-float."
        )


class SearchChangedError(UsageError):
    """A folder with the state of another search."""

    def __init__(self, folder: object, differing: Sequence[str]) -> None:
        super().__init__(
            f"{folder} holds a search that differs in {listed(differing)}, so it can't go on. "
            "Ask for the same again, or give another --output."
        )


class DatasetChangedError(UsageError):
    """A folder with parts of another embedding."""

    def __init__(self, folder: object, differing: Sequence[str]) -> None:
        super().__init__(
            f"{folder} holds vectors that differ from what is asked in {listed(differing)}, so it can't go on. "
            "Ask for the same again, or choose another output."
        )


class DatasetExistsError(UsageError):
    """A folder with parts that nobody asked to go on with."""

    def __init__(self, folder: object) -> None:
        super().__init__(f"{folder} holds vectors already. Go on with it with --resume, or choose another output.")


class DatasetBusyError(UsageError):
    """A folder that another process writes to."""

    def __init__(self, folder: object) -> None:
        super().__init__(f"Another process writes to {folder}. Wait until it has ended, or choose another output.")


class NotEmbeddingError(UsageError):
    """An artifact that gives no vectors."""

    def __init__(self, path: object, task: str) -> None:
        super().__init__(
            f"{path} is for {task}, and gives no vectors of texts. "
            "Export its checkpoint with --task sentence-embedding or feature-extraction."
        )


class NotServedError(UsageError):
    """An artifact that the server has no routes for."""

    def __init__(self, name: str, task: str, served: Sequence[str]) -> None:
        super().__init__(
            f"{name} is for {task}, which is not served. Served are: {listed(served)}. "
            f"Answer it with: neuronbert predict {name}."
        )


class RequestTooLargeError(UsageError):
    """A request that a server has no room for even when it is idle."""

    def __init__(self, what: str, got: int, limit: int) -> None:
        super().__init__(f"The request has {got} {what}, and at most {limit} are held at a time. Send it in parts.")
