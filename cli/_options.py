"""The options that several commands share."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from neuronbert.errors import InvalidOptionError, InvalidShapeError

ArtifactArgument = Annotated[str, typer.Argument(help="An artifact: a local folder or a Hub id.", metavar="ARTIFACT")]
FolderArgument = Annotated[Path, typer.Argument(help="An artifact's folder.", metavar="ARTIFACT")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Token = Annotated[
    str | None,
    typer.Option(help="Token for the Hub; by default the one that is logged in.", envvar="HF_TOKEN"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]


def sizes(name: str, text: str) -> tuple[int, ...]:
    """The whole numbers in "128" or "32,64,128"."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidShapeError(name, text, "a whole number, or several joined by commas") from None


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
