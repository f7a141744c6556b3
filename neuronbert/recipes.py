"""configs/*.toml to the options of an export.

Owns: the recipe format: the fields of ExportSpec, with batch sizes and sequence lengths, or names like 8x128, in place
of shapes. Knows nothing of torch or the network.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neuronbert.errors import InvalidShapeError, MissingFileError, RecipeError
from neuronbert.shapes import StaticShape
from neuronbert.spec import AutoCast, AutoCastType, OptLevel, Quantization
from neuronbert.targets import LogicalCores

if TYPE_CHECKING:
    from pathlib import Path

Size = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]


class Recipe(BaseModel):
    """A named export: what is left out is asked of the command line, or its default."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    model: str | None = None
    task: str | None = None
    batch_sizes: Sizes | None = None
    sequence_lengths: Sizes | None = None
    num_choices: Size | None = None
    buckets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    revision: str | None = None
    target: str | None = None
    auto_cast: AutoCast | None = None
    auto_cast_type: AutoCastType | None = None
    quantization: Quantization | None = None
    dynamic_batch: bool | None = None
    optlevel: OptLevel | None = None
    lnc: LogicalCores | None = None
    compiler_args: tuple[str, ...] | None = None
    inline_weights: bool | None = None
    lazy_load: bool | None = None
    async_load: bool | None = None
    compiler_workdir: str | None = None


def load(path: Path) -> dict[str, Any]:
    """The options that a recipe file sets.

    Raises:
        MissingFileError: there is no such file.
        RecipeError: it isn't TOML, or has fields that no export takes; all of them are named.
    """
    if not path.is_file():
        raise MissingFileError(path)
    try:
        body = tomllib.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(path, [f"it is not TOML ({error})"]) from error
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in error.errors()]
        raise RecipeError(path, problems) from error
    options = recipe.model_dump(exclude_none=True)
    if recipe.buckets is None:
        return options
    if given := sorted(options.keys() & {"batch_sizes", "sequence_lengths", "num_choices"}):
        raise RecipeError(path, [f"buckets: they are whole shapes, so {', '.join(given)} can't be given as well"])
    try:
        return options | {"buckets": tuple(StaticShape.parse(text) for text in recipe.buckets)}
    except InvalidShapeError as error:
        raise RecipeError(path, [f"buckets: {str(error).rstrip('.')}"]) from error
