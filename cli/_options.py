"""The options that several commands share."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from neuronbert.errors import InvalidOptionError, InvalidShapeError
from neuronbert.shapes import StaticShape

ArtifactArgument = Annotated[str, typer.Argument(help="An artifact: a local folder or a Hub id.", metavar="ARTIFACT")]
FolderArgument = Annotated[Path, typer.Argument(help="An artifact's folder.", metavar="ARTIFACT")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Token = Annotated[
    str | None,
    typer.Option(help="Token for the Hub; by default the one that is logged in.", envvar="HF_TOKEN"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
BatchSize = Annotated[
    str | None, typer.Option(help="Rows of a call. Several, as in 1,8: a program for each.", show_default="1")
]
SequenceLength = Annotated[
    str | None, typer.Option(help="Tokens of a row. Several, as in 32,128: a program for each.", show_default="128")
]
NumChoices = Annotated[int | None, typer.Option(help="Choices to a question, for multiple-choice.")]
Bucket = Annotated[
    list[str] | None,
    typer.Option(help="A program's shape, as 8x128, or 8x4x128 with choices; give it once for each.", metavar="SHAPE"),
]


def check_picture(name: str, path: Path) -> None:
    """Refuse a file that no picture can be drawn into, before there is anything to draw.

    Raises:
        InvalidOptionError: it is no .svg file, or its folder isn't there.
        MissingPackageError: nothing can be drawn here.
        StorageError: its folder may not be written.
    """
    from neuronbert import pictures, staging

    if path.suffix != ".svg" or path.is_dir() or not path.parent.is_dir():
        raise InvalidOptionError(name, str(path), "an .svg file in a folder that is there")
    pictures.require()
    staging.check_writable(path)


def sizes(name: str, text: str) -> tuple[int, ...]:
    """The whole numbers in "128" or "32,64,128", each 1 or more."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise InvalidShapeError(name, text, "a whole number of 1 or more, or several joined by commas")
    return found


def shape_options(
    bucket: list[str] | None, batch_size: str | None, sequence_length: str | None, num_choices: int | None
) -> dict[str, object]:
    """What these options say of the shapes, as a recipe would: those that were given."""
    given: dict[str, object] = {
        "batch_sizes": None if batch_size is None else sizes("--batch-size", batch_size),
        "sequence_lengths": None if sequence_length is None else sizes("--sequence-length", sequence_length),
        "num_choices": num_choices,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not bucket:
        return given
    if given:
        raise InvalidOptionError("--bucket", bucket[0], "used without " + ", ".join(map(_option, given)))
    return {"buckets": tuple(StaticShape.parse(text) for text in bucket)}


def _option(name: str) -> str:
    return "--" + name.removesuffix("s").replace("_", "-") if name != "num_choices" else "--num-choices"


def words(name: str, text: str) -> tuple[str, ...]:
    """The words of a command line."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise InvalidOptionError(name, text, "a command line whose quotes are closed") from None


def size(name: str, text: str) -> int:
    """The bytes in "8G", "512M" or "1.5GiB"; a number on its own is bytes."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([KMGT]?)(?:i?B)?", text, flags=re.IGNORECASE)
    if found is None:
        raise InvalidOptionError(name, text, "a number of bytes, as in 8G or 512M")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))
