"""Ray Serve and Ray Data over a real cluster of this machine, whose NeuronCores are those of a double."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn

from neuronbert import Predictor, StaticShape
from neuronbert.engine import Engine
from neuronbert.errors import (
    ArtifactReplacedError,
    BadRowsError,
    ClusterError,
    ClusterUnreachableError,
    DataFileError,
    DeviceLoadError,
    InvalidOptionError,
    NotEmbeddingError,
    WorkersUnwellError,
)
from neuronbert.workers import wire
from tests.support import ray_cluster

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings

SHAPES = (StaticShape(1, 16), StaticShape(4, 16), StaticShape(4, 48))
TEXTS = [f"Number {number} is told {'again and ' * (number % 9)}again." for number in range(60)]
PLACES = np.arange(len(TEXTS))
PATIENCE = 60.0
WORKER = "neuronbert.workers.worker"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One with an inf2 device of two cores, for processes that are started."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_cluster.environment(tmp_path_factory.mktemp("ray") / "site").items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def exporting(machine: None, tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The model of `artifact` for inf2, as it is compiled by the double; meanwhile the cluster starts."""
    folder = tmp_path_factory.mktemp("inf2") / "artifact"
    shapes = [word for shape in SHAPES for word in ("--bucket", shape.name)]
    given = ("--model", tiny("sentence-embedding"), "--task", "sentence-embedding", *shapes, "--target", "inf2")
    line = ray_cluster.command("export", *given, folder)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        yield folder, running


@pytest.fixture(scope="module")
def address(exporting: Any) -> Iterator[str]:
    with ray_cluster.cluster() as address:
        yield address


@pytest.fixture(scope="module")
def on_device(exporting: Any, address: str) -> Path:
    folder, running = exporting
    said = running.communicate(timeout=PATIENCE)[1]
    assert running.returncode == 0, said
    return Path(folder)


@pytest.fixture(scope="module")
def artifact(exported: Callable[..., Path]) -> Path:
    return exported("sentence-embedding", *SHAPES)


@pytest.fixture(scope="module")
def expected(artifact: Path) -> np.ndarray:
    return np.array(
        [reply["embedding"] for reply in Predictor.from_pretrained(str(artifact)).predict(TEXTS, truncate=True)]
    )


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def close(some: Any, other: np.ndarray) -> bool:
    """Whether vectors are the same but for what bf16 and a batch's other rows change; and not each other's."""
    found = np.array(some)
    apart = np.abs(found[:, None] - other[None]).max(axis=-1)
    return found.shape == other.shape and bool((apart.diagonal() < 2e-2).all() and (apart.argmin(1) == PLACES).all())


def test_replicas_answer_as_one_server(address: str, on_device: Path, expected: np.ndarray) -> None:
    from ray import serve

    from neuronbert.server.ray import app

    port = ray_cluster.free_port()
    serve.start(http_options={"port": port}, proxy_location="HeadOnly")
    try:
        given = {"artifact": f"mine={on_device}", "replicas": "2", "max_client_batch_size": "64", "timeout": "60"}
        serve.run(app(given), logging_config={"log_level": "ERROR"})
        workers = until(lambda: ray_cluster.named(os.getpid(), WORKER))
        cores = [Path(f"/proc/{worker}/environ").read_text() for worker in workers]
        assert sorted(line.split("NEURON_RT_VISIBLE_CORES=")[1][:2] for line in cores) == ["0\0", "1\0"]

        url, key = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {ray_cluster.KEY}"}
        with httpx.Client(base_url=url, headers=key, timeout=PATIENCE) as client:
            assert httpx.post(f"{url}/embed", json={"inputs": TEXTS}).status_code == 401
            assert client.get("/info").json()["served_model_name"] == "mine"
            assert client.get("/health").status_code == 200
            assert close(client.post("/embed", json={"inputs": TEXTS}).json(), expected)
            assert client.post("/embed", json={"inputs": []}).status_code == 400

            replica = ray_cluster.named(os.getpid(), "ServeReplica")[0]
            (orphan,) = ray_cluster.named(replica, WORKER)
            os.kill(replica, signal.SIGKILL)
            until(lambda: client.post("/embed", json={"inputs": TEXTS}).status_code == 200)
            until(lambda: not Path(f"/proc/{orphan}").exists())

            (worker,) = {*workers} - {orphan}
            os.kill(worker, signal.SIGSTOP)
            flying: list[httpx.Response] = []
            ask = threading.Thread(target=lambda: flying.append(client.post("/embed", json={"inputs": TEXTS})))
            ask.start()
            time.sleep(0.5)
            ending = threading.Thread(target=serve.delete, args=["default"])
            ending.start()
            until(lambda: serve.status().applications["default"].status == "DELETING")
            time.sleep(1)
            os.kill(worker, signal.SIGCONT)
            ask.join(PATIENCE)
            ending.join(PATIENCE)
            assert close(flying[0].json(), expected), "what is in flight is finished"
            until(lambda: not ray_cluster.named(os.getpid(), WORKER))
    finally:
        serve.shutdown()


def test_a_replica_is_well_while_its_workers_answer(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuronbert.server.ray import Arguments, Replica

    settings = Arguments.settings
    monkeypatch.setattr(Arguments, "settings", lambda self: replace(settings(self), health_timeout=0.5))

    async def life() -> None:
        replica = Replica({"mine": str(artifact)}, Arguments(artifact=[str(artifact)]))
        early = asyncio.ensure_future(replica.check_health())
        lifespan = LifespanOn(Config(replica.__serve_build_asgi_app__(), lifespan="on", log_config=None))
        assert not (await asyncio.wait([early], timeout=0.1))[0], "it waits until the model is loaded"
        await lifespan.startup()
        try:
            await early
            (worker,) = ray_cluster.named(os.getpid(), WORKER)
            os.kill(worker, signal.SIGSTOP)
            with pytest.raises(WorkersUnwellError, match="The workers of mine don't answer"):
                await replica.check_health()
            os.kill(worker, signal.SIGCONT)
            while True:
                with suppress(WorkersUnwellError):
                    await replica.check_health()
                    break
        finally:
            await lifespan.shutdown()

    def fail(*_: Any, **__: Any) -> None:
        raise DeviceLoadError("model.neuron", "it is busy")

    async def failing() -> None:
        replica = Replica({"mine": str(artifact)}, Arguments(artifact=[str(artifact)]))
        lifespan = LifespanOn(Config(replica.__serve_build_asgi_app__(), lifespan="on", log_config=None))
        await lifespan.startup()
        try:
            with pytest.raises(DeviceLoadError, match="it is busy"):
                await replica.check_health()
        finally:
            await lifespan.shutdown()

    asyncio.run(life())
    monkeypatch.setattr(Engine, "start", fail)
    asyncio.run(failing())


def test_what_an_application_asks_of_the_cluster(address: str, artifact: Path, on_device: Path) -> None:
    from neuronbert.server.ray import app

    def built(**given: Any) -> Any:
        return app(given)._bound_deployment

    two = built(artifact=[f"a={on_device}", f"b={artifact}", f"c={on_device}"], workers=3, drain=4)
    assert two.ray_actor_options["resources"] == {"neuron_cores": 6}
    assert two._deployment_config.graceful_shutdown_timeout_s == 4
    assert two.num_replicas == 1
    scaled = built(artifact=str(artifact), replicas="2", max_replicas="5", cpus="3", max_concurrent_requests="8")
    assert scaled.ray_actor_options == {"num_cpus": 3, "resources": {}}
    assert scaled.max_ongoing_requests == 16
    scale = scaled._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas, scale.target_ongoing_requests) == (2, 5, 8)
    for given, said in [
        ({}, "artifact is .*; it must be an argument .* .Field required."),
        ({"artifact": str(artifact), "replica": 1}, "replica is 1; .*Extra inputs"),
        ({"artifact": str(artifact), "replicas": "none"}, "replicas is 'none'"),
        ({"artifact": str(artifact), "replicas": 3, "max_replicas": 2}, r"max_replicas is 2; it must be 3 .* or more"),
        ({"artifact": f"{artifact},{artifact}"}, "called differently"),
    ]:
        with pytest.raises(InvalidOptionError, match=said) as caught:
            app(given)
        assert "\n" not in str(caught.value)


def rows(folder: Path) -> tuple[list[Any], np.ndarray]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    assert {path.suffix for path in folder.iterdir()} == {".parquet", ".json"}
    table = pa.concat_tables(tables)
    return table["id"].to_pylist(), np.array(table["embedding"].to_pylist(), dtype=np.float32)


def jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps({"name": f"k{n}", "body": text}) + "\n" for n, text in enumerate(TEXTS)))
    return path


NAMES = [f"k{number}" for number in range(len(TEXTS))]
OPTIONS = ("--column", "body", "--id-column", "name", "--rows-per-part", 3)


def test_a_process_that_is_killed_costs_no_row(
    address: str, on_device: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    from neuronbert.dataset.job import Plan, embed
    from neuronbert.dataset.source import Columns

    killed: list[int] = []

    def kill(done: int, _rows: int) -> None:
        if done and len(killed) < 2:
            others = [pid for pid in ray_cluster.named(os.getpid(), "MapWorker") if pid not in killed]
            if others:  # one that was killed is seen for a while yet
                killed.append(others[0])
                os.kill(others[0], signal.SIGKILL)

    plan = Plan(Columns("body", "name"), rows_per_part=3)
    summary = embed(str(on_device), jsonl(tmp_path / "rows.jsonl"), tmp_path / "out", plan, kill)
    assert (summary.rows, summary.parts, summary.kept) == (60, 20, 0)
    assert len(set(killed)) == 2
    ids, vectors = rows(tmp_path / "out")
    assert ids == NAMES
    assert close(vectors, expected)
    with pytest.raises(InvalidOptionError, match="workers is 3; it must be 2 or less: the cluster has 2 neuron_cores"):
        embed(str(on_device), tmp_path / "rows.jsonl", tmp_path / "other", Plan(Columns("body", None), workers=3))


def test_a_run_that_is_killed_goes_on(address: str, artifact: Path, expected: np.ndarray, tmp_path: Path) -> None:
    from neuronbert.dataset.job import Plan, embed
    from neuronbert.dataset.source import Columns

    out, given = tmp_path / "out", jsonl(tmp_path / "rows.jsonl")
    line = ray_cluster.command("embed-dataset", artifact, given, out, *OPTIONS, "--address", address)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        until(lambda: list(out.glob("part-*")))
        driver.kill()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    plan = Plan(Columns("body", "name"), rows_per_part=3, resume=True)
    summary = embed(str(artifact), given, out, plan)
    assert (summary.output, summary.rows, summary.parts) == (str(out), 60, 20)
    assert 20 > summary.kept >= len(before) > 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    ids, vectors = rows(out)
    assert ids == NAMES
    assert close(vectors, expected)


def test_ctrl_c_leaves_whole_parts_and_nothing_else(artifact: Path, tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nb-", dir="/tmp") as temporary:
        out, given = tmp_path / "out", jsonl(tmp_path / "rows.jsonl")
        line = ray_cluster.command("embed-dataset", artifact, given, out, *OPTIONS)
        home = {**os.environ, "TMPDIR": temporary, "HOME": temporary}
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=home) as driver:
            until(lambda: list(out.glob("part-*")))
            there = ray_cluster.children(driver.pid)
            driver.send_signal(signal.SIGINT)
            said = driver.communicate(timeout=PATIENCE)[1].splitlines()
        assert driver.returncode == 130
        assert said[-1] == "Interrupted."
        written = 3 * len(list(out.glob("part-*")))
        assert said[0] == f"{written} of 60 rows are written. Go on with: --resume."
        assert len(said) == 2
        assert there
        until(lambda: not [pid for pid in there if Path(f"/proc/{pid}").exists()])
        assert not list(Path(temporary).iterdir())
        for path in out.glob("part-*"):
            assert pq.read_metadata(path).num_rows == 3
        assert not list(out.glob(".*"))


def test_errors_are_one_line(address: str, artifact: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    from neuronbert.dataset.job import Plan, embed
    from neuronbert.dataset.source import Columns

    given = jsonl(tmp_path / "rows.jsonl")
    plan = Plan(Columns("body", None), rows_per_part=40, auto_truncate=False)
    given.write_text(given.read_text() + json.dumps({"body": "word " * 99}) + "\n")
    with pytest.raises(DataFileError) as caught:
        embed(str(artifact), given, tmp_path / "out", plan)
    said = str(caught.value)
    assert said.startswith(f"{given}: row 60 of all: It has 101 tokens, and may have 48. Shorten it")
    assert "\n" not in said
    with pytest.raises(BadRowsError):
        embed(str(artifact), given, tmp_path / "none", Plan(Columns("text", None)))
    assert not (tmp_path / "none").exists()
    with pytest.raises(NotEmbeddingError, match="is for text-classification, and gives no vectors"):
        embed(str(exported("text-classification")), given, tmp_path / "none", plan)


@pytest.mark.parametrize("nobody", ["127.0.0.1:1", "ray://[::1]:1", "nobody.invalid:6379", "127.0.0.1:port"])
def test_where_no_cluster_answers_nothing_is_begun(
    nobody: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuronbert.dataset import cluster
    from neuronbert.dataset.job import Plan, embed
    from neuronbert.dataset.source import Columns

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    plan = Plan(Columns("body", None), address=nobody)
    with pytest.raises(ClusterUnreachableError, match=rf"at {re.escape(nobody)}: .*--address"):
        embed(str(artifact), jsonl(tmp_path / "rows.jsonl"), tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_an_actor_takes_no_other_artifact_than_the_run_began_with(
    address: str, artifact: Path, exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuronbert import hub
    from neuronbert.dataset import job
    from neuronbert.dataset.source import Columns

    place, kept, other = tmp_path / "place", tmp_path / "kept", exported("feature-extraction", StaticShape(4, 48))
    shutil.copytree(artifact, place)
    given, plan = jsonl(tmp_path / "rows.jsonl"), job.Plan(Columns("body", None), rows_per_part=30)

    def replace(_done: int, _rows: int) -> None:
        if not kept.exists():
            place.rename(kept)
            shutil.copytree(other, place)

    with pytest.raises(ArtifactReplacedError, match=f"^{place} on .* isn't the artifact that this run began with"):
        job.embed(str(place), given, tmp_path / "out", plan, replace)
    assert not list((tmp_path / "out").glob("part-*"))

    load = Engine.load

    def replacing(engine: Engine) -> None:
        load(engine)
        replace(0, 0)

    shutil.rmtree(place)
    kept.rename(place)
    digest = job._digest(Engine.find(str(place)).artifact)
    embedder = job._Embedder(job._Work(str(place), None, digest, None, None, [], True))  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "load", replacing)
        with pytest.raises(ArtifactReplacedError):
            embedder._loaded()

    told: list[Any] = []
    monkeypatch.setattr(hub, "resolve", lambda *_, **__: hub.Resolved(artifact, "c0ffee"))
    monkeypatch.setattr(job, "_made", lambda work, *_, **__: told.append(work) or [])
    with pytest.raises(ClusterError):
        job.embed("me/mine", given, tmp_path / "hub", plan)
    assert (told[0].artifact, told[0].revision) == ("me/mine", "c0ffee"), "what is here isn't at that place elsewhere"


def test_what_is_no_number_is_written_nowhere(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuronbert.dataset import job
    from neuronbert.dataset.parts import Output
    from neuronbert.dataset.source import Columns, Source

    given, run = jsonl(tmp_path / "rows.jsonl"), Engine.run

    def spoiled(engine: Engine, shape: Any, pieces: Any) -> Any:
        found = run(engine, shape, pieces)
        return [
            vector * np.float32("inf") if len(piece) == longest else vector
            for vector, piece in zip(found, pieces, strict=True)
        ]

    def made(columns: Columns) -> str:
        read = Source.read(given, columns, 40)
        work = job._Work(str(artifact), None, digest, Output(tmp_path, 2), columns, read.stretches, True)
        answer = job._Embedder(work)({"part": np.array([1])})
        return str(wire.unpack_error(json.loads(answer["error"][0])))

    engine = Engine.find(str(artifact))
    digest = job._digest(engine.artifact)
    pieces = engine.texts.prepare([{"text": text} for text in TEXTS], "vector", "right")
    longest = max(len(piece) for (piece,) in pieces)
    first = 44  # the first of those with eight repetitions
    assert first % 9 == 8
    monkeypatch.setattr(Engine, "run", spoiled)
    said = f"{given}: row {first} of all%s: Its vector holds a value that is no number"
    assert made(Columns("body", "name")).startswith(said % f" (name 'k{first}')")
    assert made(Columns("body", None)).startswith(said % "")
    assert not list(tmp_path.glob("part-*"))


def test_the_command_of_the_page_runs(
    address: str, artifact: Path, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^neuronbert (embed-dataset .*)$", page, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("minilm").symlink_to(artifact)
    write = Path("texts.jsonl").write_text
    write("".join(json.dumps({"id": 7 * number, "text": text}) + "\n" for number, text in enumerate(TEXTS)))
    done = run(*shlex.split(line))
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path}/vectors: 60 vectors in 1 parts\n"
    ids, vectors = rows(Path("vectors"))
    assert ids == [7 * number for number in range(60)]
    assert close(vectors, expected)
    again = run(*shlex.split(line))
    assert again.code == 2
    assert again.err.endswith("holds vectors already. Go on with it with --resume, or choose another output.\n")
    finished = run(*shlex.split(line), "--resume", "--json")
    assert json.loads(finished.out)["kept"] == 1


def test_without_ray_it_is_one_line(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    for name in [name for name in sys.modules if name.startswith(("ray", "neuronbert.dataset"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run("embed-dataset", artifact, jsonl(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert done.code == 3
    assert done.err.startswith("Error: ray can't be imported (")
    assert done.err.endswith("with: pip install '.[ray]'.\n")
    assert done.err.count("\n") == 1
