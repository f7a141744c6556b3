"""Texts to vectors by Ray Data: one part after another, each in whichever process is free.

Owns: embed. Which rows a part has is settled before anything runs, and a part is the same whoever makes it: a process
that is lost costs the part that it was at, which Ray gives to another, and a run that is broken off goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neuronbert import hub
from neuronbert.artifact import Artifact
from neuronbert.engine import Engine
from neuronbert.errors import (
    ArtifactReplacedError,
    ClusterError,
    DataFileError,
    MissingPackageError,
    NeuronBertError,
    NotEmbeddingError,
    TextError,
    first_line,
)
from neuronbert.reference import RAY_CORES
from neuronbert.workers import wire

try:
    import ray.data
    from ray.exceptions import RayError

    from neuronbert.dataset import cluster, source
    from neuronbert.dataset.files import Contents
    from neuronbert.dataset.parts import Job, Output
    from neuronbert.dataset.source import Columns, Source, Stretch
except ImportError as error:
    raise MissingPackageError("ray", "ray", first_line(error)) from error

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    import pyarrow as pa

_TASKS: Final = ("feature-extraction", "sentence-embedding")
_LOST: Final = "lost what it wrote"
_GAVE_UP: Final = "gave up"
_BLOCK: Final = 2048
"""Texts that are tokenized and planned together; the memory that they take doesn't grow with a part."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a dataset is embedded.

    Attributes:
        columns: Where a row has its text and its id.
        rows_per_part: Rows of each file that is written, but for the last one of a file that is read.
        auto_truncate: Whether texts that are too long are cut; else they are an error.
        workers: Processes; None for one to a NeuronCore, or one to a node where the CPU is the target.
        address: Of a Ray cluster; None for one of this machine.
        resume: Whether to go on with parts that are there.
        revision: Branch, tag or commit of an artifact on the Hub.
        token: For the Hub, in this process; the nodes of a cluster that is there already have their own.
    """

    columns: Columns
    rows_per_part: int = 8192
    auto_truncate: bool = True
    workers: int | None = None
    address: str | None = None
    resume: bool = False
    revision: str | None = None
    token: str | bool | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a dataset.

    Attributes:
        output: Where the parts are.
        rows: How many rows they have: as many as the input.
        parts: How many there are.
        kept: How many of them were there already.
    """

    output: str
    rows: int
    parts: int
    kept: int


def embed(
    artifact: str,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    plan: Plan,
    progress: Callable[[int, int], None] = lambda _done, _rows: None,
) -> Summary:
    """Write a vector for each text of Parquet or JSON Lines files, in their order.

    Args:
        artifact: A local folder or a Hub id; a folder must be at the same place on every node, and each node of a
            cluster that is there already fetches the same commit from the Hub.
        data: A file, or a folder of such files; the same.
        output: The folder to write: `part-00000.parquet` and so on with the columns `id` and `embedding`; the same.
        plan: How.
        progress: Called with the rows that are done, and with all.

    Raises:
        NotEmbeddingError: the artifact gives no vectors.
        DataFileError: a file can't be read or was changed, a text is too long and may not be cut, or its vector holds
            what is no number.
        ArtifactReplacedError: a node has another artifact there.
        BadRowsError: rows have no text or no id of their own; nothing was run.
        ClusterError: Ray doesn't do its part.
        NeuronBertError: the output can't be written, or a program can't be run.
    """
    found = hub.resolve(artifact, revision=plan.revision, token=plan.token, files=None)
    engine = Engine(Artifact.open(found.path.absolute()))
    if engine.task not in _TASKS:
        raise NotEmbeddingError(artifact, engine.task)
    read = Source.read(Path(data), plan.columns, plan.rows_per_part)
    folder = Path(output).resolve()
    job = _job(engine, read, plan)
    if not plan.resume:
        cluster.check(plan.address)  # before there is a folder
    with Output.opened(folder, job, len(read.stretches), resume=plan.resume) as there:
        missing = [number for number, part in enumerate(read.stretches) if not there.has(number, part.rows)]
        done = read.rows - sum(read.stretches[number].rows for number in missing)
        progress(done, read.rows)
        if missing:
            cluster.check(plan.address)
            # What this node has of the Hub is at no place that others know of.
            fetched = found.revision is not None and not cluster.is_own(plan.address)
            place = artifact if fetched else str(engine.artifact.path)
            revision = found.revision if fetched else None
            work = _Work(place, revision, job.artifact, there, read.columns, read.stretches, plan.auto_truncate)
            try:
                for number in _made(work, missing, plan, on_device=engine.on_device):
                    done += read.stretches[number].rows
                    progress(done, read.rows)
            except KeyboardInterrupt:  # parts may be there that nobody has told of yet
                progress(_written(read, there), read.rows)
                raise
        _check(read, there)
    return Summary(str(folder), read.rows, len(read.stretches), len(read.stretches) - len(missing))


def _job(engine: Engine, read: Source, plan: Plan) -> Job:
    return Job(
        artifact=_digest(engine.artifact),
        files=read.digests,
        text=plan.columns.text,
        id=plan.columns.id,
        rows=read.rows,
        rows_per_part=plan.rows_per_part,
        auto_truncate=plan.auto_truncate,
    )


def _digest(artifact: Artifact) -> str:
    files = {name: info.sha256 for name, info in artifact.manifest.files.items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _written(read: Source, there: Output) -> int:
    return sum(part.rows for number, part in enumerate(read.stretches) if there.has(number, part.rows))


def _check(read: Source, there: Output) -> None:
    lacking = [number for number, part in enumerate(read.stretches) if not there.has(number, part.rows)]
    if lacking:
        raise ClusterError(_LOST, f"{there.path(lacking[0])} is not there, or not whole")


@dataclass(frozen=True, slots=True)
class _Work:
    """What every process is told.

    Attributes:
        artifact: The folder, or what the Hub calls it.
        revision: The commit on the Hub; None for a folder.
        digest: Of the artifact, as the job has it.
        output: Where parts go.
        columns: Where a row has what.
        stretches: Which rows each part has.
        auto_truncate: Whether texts that are too long are cut.
    """

    artifact: str
    revision: str | None
    digest: str
    output: Output
    columns: Columns
    stretches: list[Stretch]
    auto_truncate: bool


class _Embedder:
    """An actor of Ray: the artifact in a process, which makes one part after another."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._contents = Contents()
        self._engine: Engine | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Make the part that is asked for, and say so; or what went wrong, as Ray would tell it in fifty lines."""
        (number,) = batch["part"].tolist()
        try:
            self._make(number)
        except (NeuronBertError, OSError) as error:
            return {"part": [number], "error": [json.dumps(wire.pack_error(error))]}
        return {"part": [number], "error": [""]}

    def _make(self, number: int) -> None:
        work, stretch = self._work, self._work.stretches[number]
        ids, texts = source.load(stretch, work.columns, self._contents)
        if self._engine is None:
            self._engine = self._loaded()
        blocks = [self._vectors(self._engine, ids, texts, first, stretch) for first in range(0, len(texts), _BLOCK)]
        work.output.write(number, ids, np.concatenate(blocks))

    def _loaded(self) -> Engine:
        engine = Engine.find(self._work.artifact, revision=self._work.revision)
        self._compare(engine.artifact)
        engine.load()
        self._compare(Artifact.open(engine.artifact.path))  # it may have been replaced meanwhile
        return engine

    def _compare(self, artifact: Artifact) -> None:
        if _digest(artifact) != self._work.digest:
            raise ArtifactReplacedError(artifact.path, socket.gethostname())

    def _vectors(self, engine: Engine, ids: pa.Array, texts: list[str], first: int, stretch: Stretch) -> np.ndarray:
        try:
            return engine.vectors(texts[first : first + _BLOCK], "right" if self._work.auto_truncate else "refuse")
        except TextError as error:
            # Numbered among all rows, as they are where they have no id.
            place = first + error.row
            known = f" ({self._work.columns.id} {ids[place].as_py()!r})" if self._work.columns.id else ""
            named = f"row {stretch.first + place} of all{known}"
            raise DataFileError(stretch.file, 0, f"{named}: {error.problem.rstrip('.')}") from error


def _made(work: _Work, missing: list[int], plan: Plan, *, on_device: bool) -> Iterator[int]:
    """Each part as it is made."""
    with cluster.connected(plan.address):
        workers, cpus = cluster.share(plan.workers, on_device=on_device)
        workers = min(workers, len(missing))
        _quieten()
        items = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing))
        made = items.map_batches(
            _Embedder,
            fn_constructor_args=(work,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus,
            **({"resources": {RAY_CORES: 1}} if on_device else {}),
        )
        try:
            for row in made.iter_rows():
                if row["error"]:
                    raise wire.unpack_error(json.loads(row["error"]))
                yield row["part"]
        except RayError as error:
            raise ClusterError(_GAVE_UP, first_line(error)) from error


def _quieten() -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised
