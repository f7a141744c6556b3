"""A matrix file to its cells.

Owns: the product of the axes, what exclude takes away and what include adds. Knows nothing of running.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from neuronbert.errors import InvalidShapeError, MatrixError, MissingFileError
from neuronbert.matrix import document
from neuronbert.matrix.schema import AUTO, Axes, Cell, Definition, ModelEntry, Options

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from neuronbert.matrix.schema import Selection

MAX_CELLS: Final = 4096
"""More is a slip of the keyboard."""
_DEFAULTS: Final = Axes(tasks=(AUTO,), shapes=("1x128",), targets=("cpu",), auto_casts=("matmul",))


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix file that can be run.

    Attributes:
        path: The file.
        cells: What it asks for, in the order of the file: models, tasks, shapes, targets, auto-casts.
    """

    path: Path
    cells: tuple[Cell, ...]


def load(path: str | os.PathLike[str]) -> Matrix:
    """The matrix in a YAML file.

    Raises:
        MissingFileError: there is no such file.
        MatrixError: it can't be used; every problem is named.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise MissingFileError(file)
        definition = Definition.model_validate(document.read(file))
    except ValidationError as error:
        raise MatrixError(file, _problems(error)) from error
    except document.DocumentError as error:
        raise MatrixError(file, [str(error)]) from error
    except (OSError, ValueError) as error:
        raise MatrixError(file, [f"it can't be read ({error})"]) from error
    problems: list[str] = []
    cells = expand(definition, problems)
    if problems:
        raise MatrixError(file, problems)
    return Matrix(file, cells)


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors():
        where, said = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
        problems.append((f"{where}: " if where else "") + said[:1].lower() + said[1:])
    return problems


def expand(definition: Definition, problems: list[str]) -> tuple[Cell, ...]:
    """The cells of a definition, each once; what is wrong with it is added to `problems`.

    As in the matrix of GitHub's workflows, exclude takes away what matches all values that it gives, and include is
    added after that, whatever was excluded. Unlike there, an exclude that matches nothing is a problem: it is
    misspelt, or no longer needed.
    """
    _check_labels(definition, problems)
    cells: dict[str, Cell] = {}
    for number, entry in enumerate(definition.models):
        _add(cells, definition, entry, None, problems, f"models.{number}")
    for number, selection in enumerate(definition.exclude):
        _take_away(cells, selection, problems, f"exclude.{number}")
    for number, selection in enumerate(definition.include):
        chosen = [entry for entry in definition.models if entry.label in (selection.model or ())]
        if not chosen or len(chosen) < len(selection.model or ()):
            problems.append(f"include.{number}: model must name models of this matrix")
        for entry in chosen:
            _add(cells, definition, entry, selection, problems, f"include.{number}")
    if not cells and not problems:
        problems.append("no cell is left")
    return tuple(cells.values())


def _take_away(cells: dict[str, Cell], selection: Selection, problems: list[str], where: str) -> None:
    gone = [name for name, cell in cells.items() if selection.has(cell)]
    if not gone:
        problems.append(f"{where}: matches no cell")
    for name in gone:
        del cells[name]


def _check_labels(definition: Definition, problems: list[str]) -> None:
    labels = [entry.label for entry in definition.models]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        problems.append(f"models: several are called {label!r}; give each a name of its own")


def _add(
    cells: dict[str, Cell],
    definition: Definition,
    entry: ModelEntry,
    selection: Selection | None,
    problems: list[str],
    where: str,
) -> None:
    for cell in _product(definition, entry, selection):
        problem = _problem(cell) or (f"more than {MAX_CELLS} cells" if len(cells) >= MAX_CELLS else "")
        if problem:
            problems.append(f"{where}: {problem}")
            return
        cells[cell.id] = cell


def _product(definition: Definition, entry: ModelEntry, selection: Selection | None) -> Iterator[Cell]:
    def values(axis: str, plural: str) -> tuple[str, ...]:
        places = (getattr(selection, axis, None), *(getattr(place, plural) for place in (entry, definition, _DEFAULTS)))
        return next(found for found in places if found is not None)

    axes = {axis: values(axis, f"{axis}s") for axis in ("task", "shape", "target", "auto_cast")}
    choices = entry.num_choices or definition.num_choices
    options = {**(definition.options or {}), **(entry.options or {})}
    for chosen in product(*axes.values()):
        named = dict(zip(axes, chosen, strict=True))
        yield Cell(
            model=entry.label,
            checkpoint=entry.model,
            config=entry.config,
            revision=entry.revision,
            allow_random_weights=entry.allow_random_weights,
            num_choices=choices if named["task"] in (AUTO, "multiple-choice") else None,
            options=options.get(named["target"], Options()),
            **named,
        )


def _problem(cell: Cell) -> str:
    if cell.task == "multiple-choice" and cell.num_choices is None:
        return "multiple-choice needs num_choices"
    if cell.task == AUTO and cell.config is not None:
        return "a model made from a config has no task of its own; name its tasks"
    try:
        cell.shapes(cell.task)  # with the choices, the tokens may be too many
    except InvalidShapeError as error:
        return str(error).rstrip(".")
    return ""
