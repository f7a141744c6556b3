"""The one place that prints."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from textwrap import indent
from typing import Any

_STDOUT, _STDERR = 1, 2


def _printable(text: str) -> str:
    # What an artifact or a checkpoint says of itself may hold codes that a terminal would obey.
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def data(text: str) -> None:
    """Print data on stdout."""
    sys.stdout.write(_printable(text) + "\n")


def as_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    sys.stdout.write(_json(value) + "\n")


def as_json_list(values: Iterable[Any]) -> None:
    """Print values as a JSON list on stdout, each as it comes."""
    before = "["
    for value in values:
        sys.stdout.write(f"{before}\n{indent(_json(value), '  ')}")
        before = ","
    sys.stdout.write("\n]\n")


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def note(text: str) -> None:
    """Print what isn't data on stderr."""
    sys.stderr.write(text + "\n")


def table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout: aligned on a terminal, in a pipe too."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, ["-" * width for width in widths], *rows]:
        data("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What a long command tells about itself: a line that changes on a terminal, nothing elsewhere."""
    with _stdout_kept():
        if not sys.stderr.isatty():
            yield lambda _text: None
            return
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("starting") as status:
            yield lambda text: status.update(Text(text))


@contextmanager
def _stdout_kept() -> Iterator[None]:
    # Compilers print what they do (neuronx-cc to stdout, with --verbose info): beside the data, not among it.
    sys.stdout.flush()
    try:
        held = os.dup(_STDOUT)
    except OSError:  # closed
        yield
        return
    try:
        os.dup2(_STDERR, _STDOUT)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(held, _STDOUT)
        os.close(held)


@contextmanager
def steps() -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """As `progress`, for a command of many steps: the second is told of each that is done, which stays to be read."""
    if not sys.stderr.isatty():
        yield lambda _text: None, lambda text: note(_printable(text))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status("starting") as status:
        yield lambda text: status.update(Text(text)), lambda text: console.print(Text(_printable(text)))


@contextmanager
def bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """How much of how much a long command has done: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(text, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
