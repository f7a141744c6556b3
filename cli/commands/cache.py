"""neuronbert cache ls, rm and verify."""

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronbert.errors import DamagedCacheError, InvalidOptionError, MissingOptionError

from .. import _output
from .._options import Json

if TYPE_CHECKING:
    from neuronbert.cache.entry import Entry

_SHOWN = 12
"""Letters of a key: as many as tell the entries of any cache apart."""
_CHOICE = "KEY, --all or --older-than"
_AGE = re.compile(r"([0-9]+)([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 604800}


def ls(json_: Json = False) -> None:
    """List what is in the cache, last used first.

    Example: neuronbert cache ls
    """
    from neuronbert import Cache

    cache = Cache()
    rows = [_facts(entry) for entry in cache.entries()]
    total = sum(row["size"] for row in rows)
    if json_:
        _output.as_json({"folder": str(cache.folder), "limit": cache.limit, "size": total, "entries": rows})
        return
    if rows:
        columns = ["key", "model", "task", "shapes", "target", "size", "last used"]
        _output.table(columns, [_cells(row) for row in rows])
    _output.note(f"entries: {len(rows)}, {_size(total)} of {_size(cache.limit)}, in {cache.folder}")


def rm(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys, or how they begin.", metavar="KEY...")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
    older_than: Annotated[
        str | None, typer.Option(help="Remove what wasn't used for so long, as 12h, 30d or 8w.", metavar="AGE")
    ] = None,
    json_: Json = False,
) -> None:
    """Remove entries of the cache, once nobody reads them.

    Example: neuronbert cache rm --older-than 30d
    """
    from neuronbert import Cache

    given = [bool(keys), all_, older_than is not None]
    if sum(given) != 1:
        raise MissingOptionError(_CHOICE, "neuronbert cache rm --older-than 30d")
    cache = Cache()
    chosen = [cache.find(key) for key in keys] if keys else cache.entries()
    if older_than is not None:
        before = time.time() - _age(older_than)
        chosen = [entry for entry in chosen if entry.used < before]
    size = sum(entry.size for entry in chosen)
    for entry in chosen:
        cache.remove(entry)
    if json_:
        _output.as_json({"removed": [entry.key for entry in chosen], "size": size})
        return
    _output.data(f"removed: {len(chosen)}, {_size(size)}")


def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is damaged.")] = False,
    json_: Json = False,
) -> None:
    """Compare the digest of every file in the cache; exit 1 if something is damaged and left.

    Example: neuronbert cache verify --repair
    """
    from neuronbert import Cache

    cache = Cache()
    with _output.progress() as progress:
        damaged = cache.verify(progress=progress)
    if json_:
        _output.as_json([{"key": entry.key, "problem": problem} for entry, problem in damaged.items()])
    elif damaged:
        _output.table(["key", "problem"], [[entry.key[:_SHOWN], problem] for entry, problem in damaged.items()])
    else:
        _output.data(f"entries: {len(cache.entries())}, each as it was written")
    if damaged and not repair:
        raise DamagedCacheError(cache.folder, len(damaged))
    for entry in damaged:
        cache.remove(entry)


def _facts(entry: "Entry") -> dict[str, Any]:
    used = datetime.fromtimestamp(entry.used).astimezone().isoformat(timespec="seconds")
    facts: dict[str, Any] = {"key": entry.key, "size": entry.size, "last_used": used}
    try:
        record = entry.read()
    except (OSError, ValueError) as error:
        return {**facts, "problem": str(error)}
    shapes = [program.shape.name for program in record.build.programs]
    return {**facts, "model": record.model, "task": record.task, "target": record.target, "shapes": shapes}


def _cells(row: dict[str, Any]) -> list[str]:
    about = [row.get("model", row.get("problem")), row.get("task", ""), ", ".join(row.get("shapes", ()))]
    return [row["key"][:_SHOWN], *about, row.get("target", ""), _size(row["size"]), row["last_used"][:16]]


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def _age(text: str) -> int:
    found = _AGE.fullmatch(text)
    if found is None:
        raise InvalidOptionError("--older-than", text, "a number of hours, days or weeks, as 12h, 30d or 8w")
    return int(found[1]) * _SECONDS[found[2]]
