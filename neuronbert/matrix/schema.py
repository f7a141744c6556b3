"""The schema of a matrix file, and of one cell of it.

Owns: what the file may say, and Cell. Knows nothing of running: no torch, no processes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, NoReturn, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from neuronbert.architectures import ARCHITECTURES, TASKS
from neuronbert.backends.registry import TARGETS
from neuronbert.data import Data
from neuronbert.errors import InvalidShapeError
from neuronbert.shapes import StaticShape
from neuronbert.spec import AUTO_CAST_TYPES, AUTO_CASTS, AutoCast, AutoCastType, OptLevel
from neuronbert.targets import LogicalCores

AUTO: Final = "auto"
_SHAPE: Final = re.compile(r"[0-9]{1,8}x[0-9]{1,8}")
_CASTS: Final = (
    "none",
    *(f"{mode}-{dtype}" for mode in AUTO_CASTS if mode != "none" for dtype in AUTO_CAST_TYPES),
)


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)  # pydantic's way to hear of it; the expansion module words it for the user


def _check_task(name: str) -> str:
    if name not in (AUTO, *TASKS):
        _refuse(f"there is no task {name!r}; use one of: auto, {', '.join(sorted(TASKS))}")
    return name


def _check_target(name: str) -> str:
    if name not in TARGETS:
        _refuse(f"there is no target {name!r}; use one of: {', '.join(TARGETS)}")
    return name


def _check_cast(name: str) -> str:
    full = f"{name}-{AUTO_CAST_TYPES[0]}" if name in AUTO_CASTS and name != "none" else name
    if full not in _CASTS:
        _refuse(f"there is no auto-cast {name!r}; use one of: {', '.join(_CASTS)}")
    return full


def _check_shape(text: str) -> str:
    try:
        shapes = [shape_of(part, None) for part in text.split("+")]
    except InvalidShapeError as error:
        raise ValueError(str(error).rstrip(".")) from error
    if len(set(shapes)) < len(shapes):
        _refuse(f"{text} has a shape twice")
    return "+".join(shape.name for shape in shapes)


def _check_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        _refuse("a name is printable and not empty")
    return name


def shape_of(text: str, num_choices: int | None) -> StaticShape:
    """The shape in "1x128".

    Raises:
        InvalidShapeError: it is none, or too large.
    """
    if not _SHAPE.fullmatch(text):
        raise InvalidShapeError("shape", text, "rows x tokens, as in 1x128; several in one artifact as in 1x32+1x128")
    rows, tokens = map(int, text.split("x"))
    return StaticShape(rows, tokens, num_choices)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    value = _tupled(value)
    return value if isinstance(value, tuple) else (value,)


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value  # YAML reads "optlevel: 2" as a number


def _check_once(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if values.count(value) > 1:
            _refuse(f"{value!r} is given twice")
    return values


Name = Annotated[str, Field(max_length=4096), AfterValidator(_check_name)]
TaskName = Annotated[str, AfterValidator(_check_task)]
Shapes = Annotated[str, Field(max_length=1000), AfterValidator(_check_shape)]
Target = Annotated[str, AfterValidator(_check_target)]
Cast = Annotated[str, AfterValidator(_check_cast)]
Choices = Annotated[int, Field(ge=1, le=1000)]
Scalar = bool | int | Annotated[float, Field(allow_inf_nan=False)] | str
_Some = (BeforeValidator(_listed), Field(min_length=1, max_length=256), AfterValidator(_check_once))


class Options(Data):
    """What the export for one target takes besides, as ExportSpec has it; left out, its own default."""

    dynamic_batch: bool | None = None
    optlevel: Annotated[OptLevel, BeforeValidator(_as_text)] | None = None
    lnc: LogicalCores | None = None
    compiler_args: Annotated[tuple[str, ...], BeforeValidator(_tupled)] | None = None
    inline_weights: bool | None = None


class Axes(Data):
    """What is combined with what; a single value needs no list."""

    tasks: Annotated[tuple[TaskName, ...], *_Some] | None = None
    shapes: Annotated[tuple[Shapes, ...], *_Some] | None = None
    targets: Annotated[tuple[Target, ...], *_Some] | None = None
    auto_casts: Annotated[tuple[Cast, ...], *_Some] | None = None
    num_choices: Choices | None = None
    """Choices to a question in every shape of multiple-choice."""
    options: dict[Target, Options] | None = None
    """Options of the export, by target."""


class ModelEntry(Axes):
    """A checkpoint, or the config of one with random weights; the axes that it gives replace the matrix's."""

    name: Name | None = None
    model: Name | None = None
    """A checkpoint folder (relative to where the command is run) or a Hub id."""
    config: dict[str, Scalar] | None = None
    """What a random checkpoint of each task is made from: a model_type and the settings of its config."""
    revision: str | None = None
    allow_random_weights: bool = False

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.model is None) == (self.config is None):
            _refuse("give either model or config")
        if self.config is not None:
            if self.name is None:
                _refuse("a model made from a config needs a name")
            if self.config.get("model_type") not in ARCHITECTURES:
                _refuse(f"config.model_type must be one of: {', '.join(sorted(ARCHITECTURES))}")
            if self.revision is not None or self.allow_random_weights:
                _refuse("revision and allow_random_weights are for a checkpoint, not for a config")
        return self

    @property
    def label(self) -> str:
        """What it is called: its name, or the last part of its path or Hub id."""
        return self.name or (self.model or "").rstrip("/").rsplit("/", 1)[-1] or str(self.model)


class Selection(Data):
    """Cells by their values: one or several for each axis; an axis that is left out has any."""

    model: Annotated[tuple[Name, ...], *_Some] | None = None
    task: Annotated[tuple[TaskName, ...], *_Some] | None = None
    shape: Annotated[tuple[Shapes, ...], *_Some] | None = None
    target: Annotated[tuple[Target, ...], *_Some] | None = None
    auto_cast: Annotated[tuple[Cast, ...], *_Some] | None = None

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.model_dump(exclude_none=True):
            _refuse("name at least one axis: model, task, shape, target, auto_cast")
        return self

    def has(self, cell: Cell) -> bool:
        """Whether a cell has one of the values on every axis that is given."""
        return all(getattr(cell, axis) in values for axis, values in self if values is not None)


Selections = Annotated[tuple[Selection, ...], BeforeValidator(_tupled), Field(max_length=256)]


def _as_entry(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Definition(Axes):
    """A matrix file: its models, what each is combined with, and what is left out or added."""

    models: Annotated[
        tuple[Annotated[ModelEntry, BeforeValidator(_as_entry)], ...], BeforeValidator(_tupled), Field(min_length=1)
    ]
    exclude: Selections = ()
    include: Selections = ()


class Cell(Data):
    """One artifact to make and to validate."""

    model: str
    checkpoint: str | None = None
    config: dict[str, Scalar] | None = None
    revision: str | None = None
    allow_random_weights: bool = False
    task: str
    shape: str
    num_choices: int | None = None
    target: str
    auto_cast: str
    options: Options = Options()

    @property
    def id(self) -> str:
        """Its values on every axis, joined by slashes."""
        return "/".join((self.model, self.task, self.shape, self.target, self.auto_cast))

    @property
    def series(self) -> str:
        """What it was compiled to, in a few words."""
        return f"{self.target} {self.auto_cast}"

    def shapes(self, task: str) -> tuple[StaticShape, ...]:
        """Its static shapes for a task, "auto" having been resolved."""
        choices = self.num_choices if task == "multiple-choice" else None
        return tuple(shape_of(part, choices) for part in self.shape.split("+"))

    def casts(self) -> tuple[AutoCast, AutoCastType]:
        """Its auto-cast as the export takes it."""
        mode, _, dtype = self.auto_cast.partition("-")
        return next(m for m in AUTO_CASTS if m == mode), next(
            (t for t in AUTO_CAST_TYPES if t == dtype), AUTO_CAST_TYPES[0]
        )
