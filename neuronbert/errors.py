"""Every error that neuronbert raises on purpose.

    NeuronBertError
    ├── UsageError                     what was asked can't be done as asked            exit code 2
    │   ├── UnknownTaskError, TaskNotInferableError, UnsupportedModelError, UnsupportedHeadError,
    │   │   UnsupportedFeatureError, InvalidShapeError, InvalidOptionError, MissingOptionError,
    │   │   SequenceExceedsPositionsError, DeviceMemoryError
    │   ├── OutputExistsError, RecipeError, MatrixError, RandomModelError, DataFileError, WrongHeadError,
    │   │   NotValidatedError, WrongPipelineError, FixedWeightsError, ReplacedWeightsError, NoEntryError,
    │   │   UnrecordedArtifactError, PoolClosedError, NotQuantizedError, SimulatedOnlyError, SearchChangedError,
    │   │   NotServedError, RequestTooLargeError, DatasetChangedError, DatasetExistsError, DatasetBusyError,
    │   │   NotEmbeddingError
    │   └── InputError                 a call's tensors or texts (also a ValueError)
    │       └── MissingInputError, InputTypeError, InputDtypeError, InputRankError, InputShapeError,
    │           InputRangeError, InputDeviceError, MaskedRowError, EmptyInputError, BatchTooLargeError,
    │           SequenceTooLongError, OutputsTooLargeError, TooManyIdsError, TextError (MissingTextError, NotATextError,
    │           EmptyTextError, InvalidTextError, RowTooLongError, QuestionTooLongError,
    │           NoMaskError, NoNumberError)
    ├── DataError                      what was given is broken or unsafe               exit code 2
    │   ├── CalibrationError, UncalibratedError, BadRowsError
    │   ├── CheckpointError            CheckpointCorruptError, UnsafeWeightsError, UnsafePickleError, SchemeError,
    │   │                              UnsafeArchiveError, VocabularyError, HeadWeightsMissingError, IntegerRangeError
    │   ├── TokenizerError
    │   └── ArtifactError              NotAnArtifactError, ArtifactCorruptError, ArtifactVersionError,
    │                               ForeignArtifactError, ArtifactReplacedError
    ├── UnavailableError               something is missing on this machine             exit code 3
    │   ├── ModelNotFoundError, HubError, HubAccessError, BackendUnavailableError, StorageError,
    │   │   ReferenceNotFoundError, MissingFileError, NoTokenizerError, NothingRanError, LoweringUnavailableError,
    │   │   NotExportableError, KernelBuildError, MissingPackageError (also an ImportError), OverloadedError
    │   ├── WorkerError                WorkerStartError, WorkerLostError, WorkerFailedError, WorkersUnwellError
    │   ├── ClusterError
    │   └── DeviceError                DeviceLoadError, DeviceRunError, WeightsRefusedError, LogicalCoresError
    └── FailedCheckError               what was to be shown isn't so                    exit code 1
        └── CompilationFailedError, DamagedCacheError, PreflightFailedError, ValidationFailedError

Owns: the tree and its wording: what happened, what was expected, what to type next. Every message is one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


_SHOWN = 40
"""Characters of a value that a message quotes."""


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _shape(dims: Sequence[int]) -> str:
    return "[" + ", ".join(str(dim) for dim in dims) + "]"


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line and without its full stop; or its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _printable(text: str) -> str:
    # What comes from a file or a caller may hold line breaks, or the codes that a terminal obeys.
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class NeuronBertError(Exception):
    """Base of every error raised on purpose. Its message is one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


class UsageError(NeuronBertError):
    """What was asked can't be done as asked."""


class UnknownTaskError(UsageError):
    """A task name that no head has."""

    def __init__(self, task: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no task {task!r}. Use one of: {_listed(known)}.")


class TaskNotInferableError(UsageError):
    """The checkpoint doesn't say which head it has."""

    def __init__(self, class_names: Sequence[str], known: Sequence[str]) -> None:
        said = f"names {_listed(class_names)}" if class_names else "names no architecture"
        super().__init__(
            f"The task can't be read off the checkpoint (its config.json {said}). "
            f"Name it with --task, one of: {_listed(known)}."
        )


class UnsupportedModelError(UsageError):
    """A model type that isn't in the architecture table."""

    def __init__(self, model_type: str, supported: Sequence[str], reason: str = "") -> None:
        why = f": {reason}" if reason else ""
        super().__init__(f"Models of type {model_type!r} are not supported{why}. Supported: {_listed(supported)}.")


class UnsupportedHeadError(UsageError):
    """A head that the architecture doesn't have."""

    def __init__(self, task: str, model_type: str, supported: Sequence[str]) -> None:
        super().__init__(f"{model_type} has no head for {task}. Its tasks: {_listed(supported)}.")


class UnsupportedFeatureError(UsageError):
    """A feature of the checkpoint that a program would silently get wrong."""

    def __init__(self, setting: str, value: object, reason: str) -> None:
        super().__init__(f"This checkpoint has {setting}={value!r}, which is not supported: {reason}.")


class WrongPipelineError(UsageError):
    """A pipeline for another head than the model's, or one that there is none for."""

    def __init__(self, task: str, model_task: str, fitting: Sequence[str]) -> None:
        fit = f"Pipelines that run it: {_listed(fitting)}." if fitting else "No pipeline runs it: use model.predict."
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
            f"{folder} holds a search that differs in {_listed(differing)}, so it can't go on. "
            "Ask for the same again, or give another --output."
        )


class DatasetChangedError(UsageError):
    """A folder with parts of another embedding."""

    def __init__(self, folder: object, differing: Sequence[str]) -> None:
        super().__init__(
            f"{folder} holds vectors that differ from what is asked in {_listed(differing)}, so it can't go on. "
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
            f"{name} is for {task}, which is not served. Served are: {_listed(served)}. "
            f"Answer it with: neuronbert predict {name}."
        )


class RequestTooLargeError(UsageError):
    """A request that a server has no room for even when it is idle."""

    def __init__(self, what: str, got: int, limit: int) -> None:
        super().__init__(f"The request has {got} {what}, and at most {limit} are held at a time. Send it in parts.")


class InputError(UsageError, ValueError):
    """A call's tensors or texts can't be used."""


class MissingInputError(InputError):
    """An input without a default is missing."""

    def __init__(self, name: str, given: Sequence[str]) -> None:
        super().__init__(f"{name} is missing; given: {_listed(given) or 'nothing'}.")


class InputTypeError(InputError, TypeError):
    """An input that is neither a tensor nor an array."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(
            f"{name} is a {found}, not a dense torch.Tensor or a numpy array. "
            'Call the tokenizer with return_tensors="pt" (or "np") and padding=True.'
        )


class InputDtypeError(InputError):
    """An input whose numbers aren't whole."""

    def __init__(self, name: str, dtype: object) -> None:
        super().__init__(f"{name} has dtype {dtype}; it must hold integers, as torch.int64.")


class InputRankError(InputError):
    """An input with the wrong number of dimensions."""

    def __init__(self, name: str, dims: Sequence[int], expected: Sequence[str]) -> None:
        super().__init__(f"{name} has shape {_shape(dims)}; it must be [{_listed(expected)}].")


class InputShapeError(InputError):
    """Inputs whose shapes differ from each other."""

    def __init__(self, name: str, dims: Sequence[int], first: str, expected: Sequence[int]) -> None:
        super().__init__(f"{name} has shape {_shape(dims)}, but {first} has {_shape(expected)}; they must be equal.")


class InputRangeError(InputError):
    """A value outside what the model has an entry for."""

    def __init__(self, name: str, low: int, high: int, maximum: int) -> None:
        value = low if low < 0 else high
        super().__init__(
            f"{name} holds {value}; its values must be from 0 to {maximum}. Was another model's tokenizer used?"
        )


class InputDeviceError(InputError):
    """An input that isn't on the CPU, from where programs take theirs."""

    def __init__(self, name: str, device: object) -> None:
        super().__init__(
            f"{name} is on {device}, but programs take their inputs from the CPU, whatever device they run on. "
            "Move it there with its method cpu."
        )


class MaskedRowError(InputError):
    """A row without a token that it may attend to: nothing says what its answer would be."""

    def __init__(self, row: int) -> None:
        super().__init__(f"attention_mask masks out the whole of row {row}. Leave the row out, or attend to a token.")


class EmptyInputError(InputError):
    """Nothing to run on."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is empty; give at least one.")


class BatchTooLargeError(InputError):
    """More rows (or choices) than any compiled shape holds."""

    def __init__(self, what: str, got: int, limit: int, option: str) -> None:
        super().__init__(
            f"The call has {got} {what}, but this artifact was compiled for up to {limit}. "
            f"Split the call, or export again with {option} {got}."
        )


class SequenceTooLongError(InputError):
    """Longer rows than any compiled shape holds."""

    def __init__(self, got: int, limit: int, *, row: int = 0, others: int = 0) -> None:
        more = f" ({others} more {'is' if others == 1 else 'are'} too long)" if others else ""
        super().__init__(
            f"Row {row}, the longest, has {got} tokens, but this artifact was compiled for up to {limit}{more}. "
            f"Truncate with tokenizer(..., truncation=True, max_length={limit}) or predict --truncate, "
            "or export again with a longer --sequence-length."
        )


class OutputsTooLargeError(InputError):
    """Outputs that don't fit in memory."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__(
            f"The outputs of {rows} rows take {size / 1e9:.1f} GB, which this machine doesn't give. "
            "Call with fewer rows at a time, or use predict, which keeps the answers only."
        )


class TooManyIdsError(InputError):
    """More token ids than are made, or made texts of, at once."""

    def __init__(self, name: str, got: int, most: int) -> None:
        super().__init__(f"{name} take {got} token ids, and may take {most} in all. Ask for fewer at once.")


class TextError(InputError):
    """A row of text that has no answer for this task.

    Attributes:
        row: Which of several rows it is, from 0.
        problem: The message without it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.row = 0
        self.problem = str(self)

    def of_row(self, row: int) -> Self:
        """The same error, whose message says which of several rows it is."""
        self.row = row
        self.args = (f"Row {row}: {self.problem}",)
        return self


class MissingTextError(TextError):
    """A row without a text that the task takes."""

    def __init__(self, name: str, given: Sequence[str]) -> None:
        super().__init__(f"A row for this task needs {name!r}; this one has {_listed(given) or 'nothing'}.")


class NotATextError(TextError):
    """Something else where a text must be."""

    def __init__(self, name: str, found: object, expected: str) -> None:
        super().__init__(f"{name!r} holds {type(found).__name__} {_short(found)}; it must hold {expected}.")


class EmptyTextError(TextError):
    """A text of nothing but white space."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The {name} is empty: there is nothing to answer.")


class InvalidTextError(TextError):
    """A text that can't be encoded."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The {name} is not valid Unicode: it holds a lone surrogate.")


class NoNumberError(TextError):
    """A text for which the model computed what is no number."""

    def __init__(self) -> None:
        super().__init__(
            "Its vector holds a value that is no number (NaN or infinite). "
            "See what the artifact does: neuronbert validate."
        )


class RowTooLongError(TextError):
    """A row that is longer than every program, where it may not be cut."""

    def __init__(self, got: int, limit: int) -> None:
        super().__init__(f"It has {got} tokens, and may have {limit}. Shorten it, or allow it to be truncated.")


class QuestionTooLongError(TextError):
    """A question that leaves no room for its context."""

    def __init__(self, got: int, limit: int) -> None:
        super().__init__(
            f"The question takes {got} of the {limit} tokens that this artifact was compiled for, and leaves none for "
            "its context. Shorten it, or export again with a longer --sequence-length."
        )


class NoMaskError(TextError):
    """A text without the token that is to be filled in."""

    def __init__(self, mask: str) -> None:
        super().__init__(f"There is nothing to fill in: write {mask} where a word is missing.")


class DataError(NeuronBertError):
    """What was given is broken or unsafe."""


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
        shown = _listed(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
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


class UnavailableError(NeuronBertError):
    """Something is missing on this machine."""


class MissingFileError(UnavailableError):
    """A file that was named isn't there."""

    def __init__(self, path: object) -> None:
        super().__init__(f"There is no file {path}. See what there is with: ls {Path(str(path)).parent}.")


class ModelNotFoundError(UnavailableError):
    """Neither a local folder nor a repository."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"{model!r} is neither a local folder nor a model that can be fetched: {reason}. "
            "Check the spelling, the network, or the token (--token, HF_TOKEN)."
        )


class HubError(UnavailableError):
    """The Hub didn't do what it was asked."""

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"{action} failed: {reason}. A commit is made whole or not at all, so it can be tried again.")


class HubAccessError(UnavailableError):
    """The Hub refused the token."""

    def __init__(self, repository: str, status: int) -> None:
        said = "who you are" if status == 401 else "that you may write there"
        super().__init__(
            f"The Hub doesn't accept {said} (HTTP {status} for {repository}). "
            "Log in with: hf auth login; or give --token a token with write access."
        )


class BackendUnavailableError(UnavailableError):
    """No backend here can compile for, or run on, the target."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(f"Target {target} can't be used here: {reason}. Use --target cpu to run on this machine.")
        self.reason = reason


class DeviceError(UnavailableError):
    """The device, or what drives it, refused."""


class DeviceLoadError(DeviceError):
    """A program that the device didn't take."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The Neuron device didn't load {name}: {reason}. See what it can do with: neuronbert doctor.")


class DeviceRunError(DeviceError):
    """A call that the device didn't finish."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The Neuron device didn't finish the call: {reason}. Its log says more: dmesg | grep -i neuron."
        )


class WeightsRefusedError(DeviceError):
    """New weights that the device didn't take."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The Neuron device didn't take the new weights: {reason}. Give those of the same class, all of them."
        )


class LogicalCoresError(DeviceError):
    """Programs for logical cores of another size than the runtime is set to."""

    def __init__(self, compiled: int, configured: str) -> None:
        super().__init__(
            f"The programs were compiled for logical NeuronCores of {compiled}, the runtime is set to {configured}. "
            f"Set NEURON_LOGICAL_NC_CONFIG={compiled} before it starts, or export again with --lnc {configured}."
        )


class WorkerError(UnavailableError):
    """A worker process of a pool that can't go on."""


class WorkerStartError(WorkerError):
    """A worker that ended before it was ready."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(
            f"Worker {number} didn't start: its process {reason}. "
            "Each worker holds a copy of the weights: use fewer if memory runs out."
        )


class WorkerLostError(WorkerError):
    """A call that ended every worker it was given to.

    Attributes:
        late: Whether the last one took too long.
    """

    def __init__(self, name: str, times: int, reason: str, *, late: bool) -> None:
        self.late = late
        super().__init__(
            f"A call of {name} was given to {times} workers, and neither answered; the last one {reason}. "
            "It is not tried again. SIGKILL is what a process gets where memory runs out: use fewer workers then."
        )


class WorkerFailedError(WorkerError):
    """A call that failed in a worker for a reason that isn't neuronbert's."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"A worker failed with {kind}: {reason}. Run it without workers to see where.")


class WorkersUnwellError(WorkerError):
    """Workers of a server that don't answer in time."""

    def __init__(self, models: Sequence[str]) -> None:
        super().__init__(f"The workers of {_listed(models)} don't answer in time. The server is to be started again.")


class ClusterError(UnavailableError):
    """A cluster of Ray that didn't do what it was asked."""

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"Ray {action}: {reason}. What was written stays: go on with it with --resume.")


class StorageError(UnavailableError):
    """The disk is full, or may not be written."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path} can't be written: {reason}. Choose another place, or make room.")


class KernelBuildError(UnavailableError):
    """The integer kernels can't be compiled here."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The integer kernels can't be compiled ({reason}). Without them programs give the same results, "
            "slower. Building them needs a C++ compiler and ninja: apt-get install g++ ninja-build."
        )


class MissingPackageError(UnavailableError, ImportError):
    """A package that only an extra brings."""

    def __init__(self, package: str, extra: str, reason: str) -> None:
        super().__init__(
            f"{package} can't be imported ({reason}), and what was asked needs it. "
            f"Install it from a clone of neuronbert with: pip install '.[{extra}]'."
        )


class NoTokenizerError(UnavailableError):
    """An artifact that takes tensors, but no texts."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} has no tokenizer, so it takes no texts: its checkpoint had none. "
            "Save one beside the checkpoint's config.json and export again."
        )


class OverloadedError(UnavailableError):
    """A server that has enough to do already.

    Attributes:
        retry_after: Seconds until it has worked off what it holds.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The server is overloaded. Try again in {retry_after} s.")
        self.retry_after = retry_after


class LoweringUnavailableError(UnavailableError):
    """An interpreter that can't lower a program to HLO."""

    def __init__(self, python: str, reason: str) -> None:
        super().__init__(
            f"{python} can't lower to HLO: {reason.rstrip('.')}. "
            "It needs torch 2.9 and torch_xla 2.9; name one that has them with --hlo-python."
        )


class NotExportableError(UnavailableError):
    """A program that can't be handed to what lowers it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"torch.export can't take the model: {reason.rstrip('.')}. torch_neuronx.trace doesn't use it, and may do; "
            "what needs no HLO is checked without --hlo-python."
        )


class ReferenceNotFoundError(UnavailableError):
    """The checkpoint that an artifact was exported from isn't there."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The checkpoint {model!r} that this artifact was exported from can't be found here. "
            "Say where it is with --model."
        )


class NothingRanError(UnavailableError):
    """A matrix of which no cell could run."""

    def __init__(self, path: object, reasons: Sequence[str]) -> None:
        super().__init__(
            f"Nothing of {path} could run here: {'; '.join(reasons)}. Add cpu to its targets to run it on this machine."
        )


class FailedCheckError(NeuronBertError):
    """What was to be shown isn't so."""


class CompilationFailedError(FailedCheckError):
    """The compiler refused, or ended before it was done.

    Attributes:
        log: What the message names: the compiler's log, or the folder that it worked in; None if it names nothing.
    """

    def __init__(self, shape: str, reason: str, log: object = None, lines: Sequence[str] = ()) -> None:
        self.log = log
        said = (
            f" Its log {log} ends with: {' | '.join(lines)}." if lines else f" Its files are in {log}." if log else ""
        )
        super().__init__(f"The compiler didn't finish {shape}: {reason}.{said}")


class DamagedCacheError(FailedCheckError):
    """Entries of the cache that aren't what was written."""

    def __init__(self, folder: object, damaged: int) -> None:
        said = "1 entry is" if damaged == 1 else f"{damaged} entries are"
        super().__init__(f"{said} damaged in {folder}. Remove what is damaged with: neuronbert cache verify --repair.")


class PreflightFailedError(FailedCheckError):
    """A program that the compiler is documented to refuse, or that would go wrong on the device."""

    def __init__(self, code: str, problem: str, fix: str, more: int) -> None:
        others = f" (and {more} more)" if more else ""
        super().__init__(f"{code}: {problem}{others}. {fix}.")


class ValidationFailedError(FailedCheckError):
    """The program doesn't answer like its reference."""

    def __init__(self, failures: Sequence[str]) -> None:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(f"Validation failed: {failures[0].rstrip('.')}{more}.")
