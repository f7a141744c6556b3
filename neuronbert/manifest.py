"""The schema of neuronbert.json: what an artifact holds and what its programs take and give.

Owns: Manifest, its canonical text and its seal. Knows nothing of torch or paths.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from neuronbert.adaptive.keeping import Keeping
from neuronbert.architectures import ARCHITECTURES, TASKS, AnswerKind
from neuronbert.data import Data
from neuronbert.errors import InvalidShapeError
from neuronbert.provenance import digest
from neuronbert.shapes import StaticShape
from neuronbert.spec import AutoCast, AutoCastType, Method, OptLevel
from neuronbert.targets import LogicalCores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.architectures import Output

FORMAT_VERSION: Final = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")]
Dim = Annotated[int, Field(ge=1)]


_TWICE: Final = "names and shapes must differ, and shapes have as many dimensions"
_OUT_OF_RANGE: Final = "default and padding must be from 0 to maximum"
_NO_SIZE: Final = "the first input gives a call its size, so it can't have a default"
_UNKNOWN: Final = "task and model_type must be in this version's tables"
_NOT_JSON: Final = "is not a JSON object"
_NO_WEIGHTS: Final = "has no digest of the weights"
_ALTERED: Final = "was altered: its seal doesn't match"


class ManifestError(ValueError):
    """The text isn't a manifest; the message says where. The artifact module words it for the user."""


class FormatVersionError(ManifestError):
    """The manifest is of a format that this version doesn't read."""

    def __init__(self, found: object) -> None:
        super().__init__(f"has format {found}")
        self.found = found


class InputSpec(Data):
    """One input, in the order that programs take it. Its values are whole numbers from 0 to `maximum`."""

    name: str
    dtype: Literal["int64"] = "int64"
    maximum: Annotated[int, Field(ge=0, lt=2**31)]
    default: int | None = None
    """What fills it when the caller leaves it out; None if it must be given."""
    padding: int = 0
    """What fills the columns between the caller's length and the compiled one."""

    @model_validator(mode="after")
    def _check_fillings(self) -> Self:
        for value in (self.default, self.padding):
            if value is not None and not 0 <= value <= self.maximum:
                raise ValueError(_OUT_OF_RANGE)
        return self


class OutputSpec(Data):
    """One output: its dimensions by meaning, with the sizes of those that aren't the call's own."""

    name: str
    dtype: Literal["float32"] = "float32"
    dims: tuple[str, ...]
    size: Dim | None = None
    """The last dimension's size where it is the model's (hidden, labels, vocabulary); else None."""
    answer: AnswerKind

    @classmethod
    def of(cls, output: Output, sizes: Mapping[str, int]) -> Self:
        """An output of the task table, with the sizes of the model's own dimensions by meaning."""
        return cls(name=output.name, dims=output.dims, size=sizes.get(output.dims[-1]), answer=output.answer)


class ProgramSpec(Data):
    """One compiled program: its static shape, the file it is in, and the method of the file that runs it."""

    batch_size: Dim
    sequence_length: Dim
    num_choices: Dim | None = None
    file: FileName
    method: Annotated[str, Field(pattern=r"^forward(_[0-9]+(x[0-9]+)+)?$")]

    @classmethod
    def of(cls, shape: StaticShape, *, file: str, method: str = "forward") -> Self:
        """The program of a static shape."""
        sizes = {"batch_size": shape.batch_size, "sequence_length": shape.sequence_length}
        return cls(**sizes, num_choices=shape.num_choices, file=file, method=method)

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        try:
            StaticShape(self.batch_size, self.sequence_length, self.num_choices)
        except InvalidShapeError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def shape(self) -> StaticShape:
        """The shape as the planner takes it."""
        return StaticShape(self.batch_size, self.sequence_length, self.num_choices)


class CompilerInfo(Data):
    """How the programs were made: every setting explicit, every version that matters."""

    name: str
    auto_cast: AutoCast
    auto_cast_type: AutoCastType
    optlevel: OptLevel | None = None
    lnc: LogicalCores | None = None
    """Physical cores to a logical one; None where the target has no such setting."""
    inline_weights: bool = True
    flags: tuple[str, ...] = ()
    """The compiler's whole command line, as far as it was given here."""
    versions: dict[str, str]


class Source(Data):
    """The checkpoint that the programs were made from."""

    model: str
    """A Hub id, or the name of the local folder."""
    path: str | None = None
    """Where the local folder was; left out of what is published."""
    revision: str | None = None
    """The commit on the Hub."""
    weights_sha256: Sha256 | None = None
    """None only where there is no neuronbert.json that could say so (foreign.py)."""
    class_name: str
    random_weights: tuple[str, ...] = ()
    """Weights that the checkpoint lacked and that were initialised at random, on request."""


class FileInfo(Data):
    """What a file must be."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, content: bytes) -> Self:
        """What a file of this content must be."""
        return cls(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


class Manifest(Data):
    """The whole of neuronbert.json but for its seal."""

    format_version: Literal[1] = FORMAT_VERSION
    neuronbert_version: str
    created: str
    task: str
    model_type: str
    target: str
    backend: str
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1)]
    programs: Annotated[tuple[ProgramSpec, ...], Field(min_length=1)]
    quantization: Literal["none", Method] = "none"
    """What the programs compute with in place of floating-point products."""
    dynamic_batch: bool = False
    """Whether the programs take any number of rows, in calls of their batch size."""
    keeping: Keeping | None = None
    """Which tokens go on from layer to layer; None if all go through all layers."""
    compiler: CompilerInfo
    source: Source
    files: dict[FileName, FileInfo]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for what in (self.inputs, self.outputs):
            names = [spec.name for spec in what]
            if len(set(names)) < len(names):
                raise ValueError(_TWICE)
        if self.inputs[0].default is not None:
            raise ValueError(_NO_SIZE)
        if self.task not in TASKS or self.model_type not in ARCHITECTURES:
            raise ValueError(_UNKNOWN)
        if len(set(self.shapes)) < len(self.shapes) or len({len(shape.dims) for shape in self.shapes}) > 1:
            raise ValueError(_TWICE)
        return self

    @property
    def shapes(self) -> tuple[StaticShape, ...]:
        """The static shape of every program, in order."""
        return tuple(program.shape for program in self.programs)

    @property
    def program_files(self) -> tuple[str, ...]:
        """The files that hold programs, each once."""
        return tuple(dict.fromkeys(program.file for program in self.programs))

    @property
    def programs_sha256(self) -> str:
        """What vouches for the programs: the digest of their file, or of its digests if there are several."""
        digests = [self.files[name].sha256 for name in self.program_files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def without_local_path(self) -> Self:
        """The manifest to publish: it doesn't say where the checkpoint lay on this machine."""
        return self.model_copy(update={"source": self.source.model_copy(update={"path": None})})


def dump(manifest: Manifest) -> bytes:
    """The content of neuronbert.json: canonical JSON that holds the digest of all the rest of itself."""
    body = manifest.model_dump(mode="json")
    return _render({**body, "seal": digest(body)})


def parse(content: bytes) -> Manifest:
    """The manifest in the content of a file.

    Raises:
        FormatVersionError: it is one of another format.
        ManifestError: it isn't one, or not a byte for byte canonical and sealed one.
    """
    body = _decode(content)
    version = body.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise FormatVersionError(version)
    seal = body.pop("seal", None)
    if seal != digest(body) or content != _render({**body, "seal": seal}):
        raise ManifestError(_ALTERED)
    try:
        manifest = Manifest.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"has a wrong {where or 'content'}: {first['msg']}"
        raise ManifestError(" ".join(problem.split())) from error
    if manifest.source.weights_sha256 is None:
        raise ManifestError(_NO_WEIGHTS)
    if content != dump(manifest):  # a field that has a default was left out
        raise ManifestError(_ALTERED)
    return manifest


def _decode(content: bytes) -> dict[str, object]:
    try:
        body = json.loads(content.decode())
        _render(body)  # as deep as it goes, so that what follows can't run out of stack
    except (ValueError, RecursionError) as error:
        raise ManifestError(_NOT_JSON) from error
    if not isinstance(body, dict):
        raise ManifestError(_NOT_JSON)
    return body


def _render(body: dict[str, object]) -> bytes:
    return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
