"""A pool's real processes: the same answers as one session, and what becomes of calls when processes end."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from neuronbert import Artifact, NeuronModelForFeatureExtraction, Pool, Predictor, StaticShape, errors
from neuronbert.artifact import seal
from neuronbert.runtime import Session
from neuronbert.workers import pool as pools
from neuronbert.workers.crew import Health
from neuronbert.workers.process import Worker

ROOT = Path(__file__).parents[2]
SHAPES = (StaticShape(2, 16), StaticShape(1, 32))
PATIENCE = 60.0


@pytest.fixture(scope="module")
def artifact(exported: Callable[..., Path]) -> Path:
    return exported("feature-extraction", *SHAPES)


@pytest.fixture(scope="module")
def shared(artifact: Path) -> Iterator[Pool]:
    with Pool.open(artifact, workers=2) as pool:
        yield pool


@pytest.fixture
def pool(shared: Pool) -> Pool:
    """Two workers, both idle."""
    wait(lambda: all(worker.state == "idle" for worker in shared.health()))
    return shared


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def rows(count: int, length: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(1000, 2000, (count, length))}


def same(given: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(given) == list(other) and all(torch.allclose(given[name], other[name], atol=1e-6) for name in given)


def pid(worker: Health) -> int:
    assert worker.pid is not None
    return worker.pid


def alive(process: int) -> bool:
    """Whether a process is there and not merely waiting to be asked how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(parent: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            mother = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if mother == parent and b"neuronbert.workers.worker" in words:
            found.append(int(place.name))
    return found


def children() -> list[str]:
    return [line for line in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() if alive(int(line))]


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that take a call, but don't get to answer it."""
    for process in pids:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in pids:
            if alive(process):
                os.kill(process, signal.SIGCONT)


def start(command: list[Any]) -> subprocess.Popen[str]:
    """A command in a process group of its own, which gets signals as from a terminal: all of it at once."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)


@pytest.fixture
def never_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes workers that are started from then on load for ever."""
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    return lambda: monkeypatch.setattr(sys, "executable", str(program))


def busy(pool: Pool) -> list[Health]:
    return [worker for worker in pool.health() if worker.state == "busy"]


@pytest.mark.parametrize("dims", [(2, 16), (1, 32), (1, 3), (2, 7)], ids=str)
def test_a_pool_answers_as_a_session_does(pool: Pool, artifact: Path, dims: tuple[int, int]) -> None:
    session = Session.open(artifact)
    assert pool.manifest == session.manifest
    inputs = rows(*dims)
    assert same(pool.run(inputs), session.run(inputs))


def test_many_rows_of_mixed_lengths_are_spread_over_the_workers(pool: Pool, artifact: Path) -> None:
    lengths = torch.tensor([1 + 7 * at % 32 for at in range(200)])
    mask = (torch.arange(32) < lengths[:, None]).long()
    inputs = {"input_ids": torch.randint(1000, 2000, (200, 32)) * mask, "attention_mask": mask}
    before = [worker.calls for worker in pool.health()]
    assert same(pool.run(inputs), Session.open(artifact).run(inputs))
    assert all(worker.calls > had for worker, had in zip(pool.health(), before, strict=True))


def test_a_dynamic_batch_is_spread_over_the_workers(exported: Callable[..., Path]) -> None:
    artifact = exported("feature-extraction", StaticShape(2, 8), dynamic_batch=True)
    inputs = rows(61, 8)
    with Pool.open(artifact, workers=2) as pool:
        assert same(pool.run(inputs), Session.open(artifact).run(inputs))
        assert [worker.calls > 0 for worker in pool.health()] == [True, True]


def test_what_a_call_gets_wrong_is_said_before_a_worker_hears_of_it(pool: Pool) -> None:
    answered = sum(worker.calls for worker in pool.health())
    with pytest.raises(errors.InputRangeError, match="30522"):
        pool.run({"input_ids": torch.full((1, 4), 30522)})
    assert sum(worker.calls for worker in pool.health()) == answered


def test_rows_come_back_in_order_each_once(pool: Pool, artifact: Path) -> None:
    chosen = random.Random(0)
    calls = [rows(1, chosen.randint(1, 32)) for _ in range(300)]
    session = Session.open(artifact)
    before = [worker.calls for worker in pool.health()]
    outputs = list(pool.spread(pool.run, calls))
    assert len(outputs) == len(calls)
    assert all(same(output, session.run(call)) for output, call in zip(outputs, calls, strict=True))
    counts = [worker.calls - had for worker, had in zip(pool.health(), before, strict=True)]
    assert sum(counts) == len(calls)
    assert min(counts) > 0


def test_calls_are_taken_as_they_are_needed(pool: Pool) -> None:
    taken = 0

    def calls() -> Iterator[dict[str, torch.Tensor]]:
        nonlocal taken
        while True:
            taken += 1
            yield rows(1, 8)

    for answered, _ in enumerate(pool.spread(pool.run, calls()), 1):
        assert taken <= answered + 2 * 2
        if answered == 50:
            break


def test_several_threads_may_call(pool: Pool, artifact: Path) -> None:
    session = Session.open(artifact)
    calls = [rows(1, 1 + at % 32) for at in range(64)]
    with ThreadPoolExecutor(8) as threads:
        assert all(map(same, threads.map(pool.run, calls), map(session.run, calls)))


def test_a_worker_that_is_killed_in_its_call_is_replaced_and_the_call_answered(pool: Pool, artifact: Path) -> None:
    inputs, restarts = rows(2, 16), sum(worker.restarts for worker in pool.health())
    with ThreadPoolExecutor(3) as threads, stopped(*map(pid, pool.health())) as _:
        answers = [threads.submit(pool.run, inputs) for _ in range(3)]
        wait(lambda: len(busy(pool)) == 2)
        victim, other = busy(pool)
        os.kill(pid(victim), signal.SIGKILL)
        os.kill(pid(other), signal.SIGCONT)
        expected = Session.open(artifact).run(inputs)
        assert all(same(answer.result(PATIENCE), expected) for answer in answers)
    wait(lambda: all(worker.state == "idle" for worker in pool.health()))
    replaced = pool.health()[victim.number]
    assert sum(worker.restarts for worker in pool.health()) == restarts + 1
    assert replaced.pid != victim.pid
    assert replaced.problem == "was ended by SIGKILL"
    assert not alive(pid(victim))


def test_a_call_that_ends_two_workers_is_an_error_and_not_tried_again(pool: Pool, artifact: Path) -> None:
    inputs = rows(2, 16)
    with ThreadPoolExecutor(1) as threads, stopped(*map(pid, pool.health())):
        answer = threads.submit(pool.run, inputs)
        wait(lambda: len(busy(pool)) == 1)
        (first,) = busy(pool)
        os.kill(pid(first), signal.SIGKILL)
        wait(lambda: [worker.number for worker in busy(pool)] == [1 - first.number])
        (second,) = busy(pool)
        os.kill(pid(second), signal.SIGKILL)
        with pytest.raises(errors.WorkerLostError, match=r"2x16 was given to 2 workers.*was ended by SIGKILL"):
            answer.result(PATIENCE)
    assert same(pool.run(inputs), Session.open(artifact).run(inputs))


def test_a_worker_that_dies_while_it_is_idle_is_replaced(pool: Pool) -> None:
    victim = pool.health()[1]
    os.kill(pid(victim), signal.SIGKILL)
    wait(lambda: pool.health()[1].restarts == victim.restarts + 1 and pool.health()[1].state == "idle")
    assert pool.health()[1].pid != victim.pid


def test_texts_are_answered_as_by_one_process(pool: Pool, artifact: Path) -> None:
    texts = [{"text": "word " * (1 + at % 20)} for at in range(40)]
    pooled, alone = Predictor(pool).predict(texts), Predictor.from_pretrained(str(artifact)).predict(texts)
    assert [len(answer["embedding"]) for answer in pooled] == [32] * 40
    for given, expected in zip(pooled, alone, strict=True):
        assert given["embedding"] == pytest.approx(expected["embedding"], abs=1e-5)


def test_models_take_a_pool(pool: Pool, artifact: Path) -> None:
    model, alone = NeuronModelForFeatureExtraction(pool), NeuronModelForFeatureExtraction.from_pretrained(artifact)
    inputs = rows(2, 9)
    assert torch.allclose(model(**inputs).last_hidden_state, alone(**inputs).last_hidden_state, atol=1e-6)
    with pytest.raises(errors.InvalidOptionError, match="workers is 2; it must be left out where weights"):
        model.replace_weights({})


def test_an_error_in_a_workers_program_is_the_calls_own(artifact: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(artifact)
    manifest = Artifact.open(folder).manifest
    wide = [item.model_copy(update={"maximum": 99999}) for item in manifest.inputs]
    seal(folder, manifest.model_copy(update={"inputs": tuple(wide)}))
    good, bad = rows(1, 8), {"input_ids": torch.full((1, 8), 99999)}  # a row that the embedding doesn't have
    with Pool.open(folder, workers=1) as pool:
        answers = pool.spread(pool.run, [good, bad, good])
        next(answers)
        with pytest.raises(errors.ArtifactCorruptError, match="can't be run"):
            next(answers)
        assert pool.run(good)
        assert [(worker.restarts, worker.state) for worker in pool.health()] == [(0, "idle")]


def test_a_worker_goes_on_with_no_other_artifact(
    artifact: Path, copied: Callable[[Path], Path], swapped: Callable[[Path], Path]
) -> None:
    folder = copied(artifact)
    with Pool.open(folder, workers=1) as pool:
        assert pool.run(rows(1, 8))
        swapped(folder)
        os.kill(pid(pool.health()[0]), signal.SIGKILL)
        wait(lambda: pool.health()[0].state == "down")
        with pytest.raises(errors.ArtifactCorruptError, match="another artifact than the one that was loaded"):
            pool.run(rows(1, 8))


def test_a_call_that_takes_too_long_ends_its_worker(artifact: Path) -> None:
    with Pool.open(artifact, workers=1, timeout=0.3) as pool, stopped(pid(pool.health()[0])):
        assert pool.run(rows(1, 8))  # by the next one
        (worker,) = pool.health()
        assert (worker.restarts, worker.calls) == (1, 1)
        assert worker.problem == "gave no answer in 0.3 s"


def test_a_worker_that_loads_for_too_long_is_ended_where_calls_have_a_limit(
    artifact: Path, never_ready: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_START", 0.3)
    never_ready()
    before = children()
    with pytest.raises(errors.WorkerStartError, match=r"its process gave no answer in 0\.3 s"):
        Pool.open(artifact, workers=1, timeout=0.2)
    assert children() == before


def test_a_pool_that_is_closed_while_its_worker_loads_says_that_it_was_closed(
    artifact: Path, never_ready: Callable[[], None]
) -> None:
    with Pool.open(artifact, workers=1) as pool, ThreadPoolExecutor(1) as threads:
        first = pid(pool.health()[0])
        never_ready()
        os.kill(first, signal.SIGKILL)
        wait(lambda: pool.health()[0].pid not in (None, first))
        answer = threads.submit(pool.run, rows(1, 8))
        wait(lambda: pool._crew._queue._calls or answer.done())
        pool.close()
        with pytest.raises(errors.PoolClosedError, match="was closed"):
            answer.result(PATIENCE)


@pytest.mark.parametrize("method", ["wait_ready", "run"])
def test_whatever_goes_wrong_with_a_worker_its_callers_hear_of_it(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with Pool.open(artifact, workers=1) as pool:
        monkeypatch.setattr(Worker, method, Mock(side_effect=[MemoryError("no room"), MemoryError("no room")]))
        if method == "wait_ready":
            os.kill(pid(pool.health()[0]), signal.SIGKILL)
            wait(lambda: pool.health()[0].state == "down")
            with pytest.raises(errors.WorkerStartError, match=r"its process can't be had \(no room\)"):
                pool.run(rows(1, 8))
        else:
            with pytest.raises(errors.WorkerLostError, match=r"given to 2 workers.*no room"):
                pool.run(rows(1, 8))
        monkeypatch.undo()
        wait(lambda: pool.health()[0].state == "idle")
        assert pool.run(rows(1, 8))


@pytest.mark.parametrize("timeout", ["1", 0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_a_time_to_wait(artifact: Path, timeout: Any) -> None:
    with pytest.raises(errors.InvalidOptionError, match="timeout is"):
        Pool.open(artifact, timeout=timeout)


def test_a_closed_pool_leaves_no_process_and_takes_no_call(artifact: Path) -> None:
    with Pool.open(artifact, workers=2) as pool:
        pids = [pid(worker) for worker in pool.health()]
        stopping = stopped(pids[0])
        with ThreadPoolExecutor(1) as threads, stopping:
            answer = threads.submit(pool.run, rows(1, 8))
            second = threads.submit(pool.run, rows(1, 8))
            wait(lambda: bool(busy(pool)) or answer.done())
            pool.close()
            for call in (answer, second):
                assert call.done() or isinstance(call.exception(PATIENCE), errors.PoolClosedError)
    assert not any(map(alive, pids))
    assert {worker.state for worker in pool.health()} == {"closed"}
    with pytest.raises(errors.PoolClosedError, match="was closed"):
        pool.run(rows(1, 8))
    pool.close()


def test_a_forgotten_pool_closes(artifact: Path) -> None:
    pool = Pool.open(artifact, workers=1)
    process = pid(pool.health()[0])
    del pool
    gc.collect()
    assert not alive(process)


def test_a_forked_process_leaves_the_workers_alone(pool: Pool) -> None:
    before = [(worker.pid, worker.restarts) for worker in pool.health()]
    child = os.fork()
    if not child:
        try:
            pool.run(rows(1, 8))
        except errors.PoolClosedError as error:
            pool.close()
            os._exit(0 if "forked" in str(error) else 1)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.run(rows(1, 8))
    assert [(worker.pid, worker.restarts) for worker in pool.health()] == before


def test_a_worker_that_does_not_start_is_one_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = workers_of(os.getpid())
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(errors.WorkerStartError, match=r"Worker \d didn't start: its process ended with exit code 1"):
        Pool.open(artifact, workers=2)
    assert workers_of(os.getpid()) == before


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_a_number_of_workers_is_one_or_more(artifact: Path, workers: Any) -> None:
    with pytest.raises(errors.InvalidOptionError, match="workers is"):
        Pool.open(artifact, workers=workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_command_leaves_no_process(artifact: Path, tmp_path: Path, number: int) -> None:
    texts = tmp_path / "rows.jsonl"
    texts.write_text('{"text": "a row"}\n' * 200_000)
    before = set(Path("/dev/shm").iterdir())
    command = [sys.executable, "-m", "cli", "predict", artifact, "--file", texts, "--workers", "2"]
    with start(command) as process:
        wait(lambda: len(workers_of(process.pid)) == 2)
        pids = workers_of(process.pid)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")
    assert not any(map(alive, pids))
    assert set(Path("/dev/shm").iterdir()) <= before


def test_interrupting_calls_leaves_no_process(artifact: Path) -> None:
    code = """
        import sys, itertools, torch
        from neuronbert import Pool
        try:
            with Pool.open(sys.argv[1], workers=2) as pool:
                print(*(worker.pid for worker in pool.health()), flush=True)
                for _ in pool.spread(pool.run, itertools.repeat({"input_ids": torch.ones(2, 16, dtype=torch.int64)})):
                    pass
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(artifact)]
    with start(command) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")
    assert len(pids) == 2
    assert not any(map(alive, pids))


def test_the_interpreter_ends_although_a_worker_hangs(artifact: Path) -> None:
    code = """
        import os, signal, sys, torch
        from neuronbert import Pool
        pool = Pool.open(sys.argv[1], workers=1)
        os.kill(pool.health()[0].pid, signal.SIGSTOP)
        calls = pool.spread(pool.run, [{"input_ids": torch.ones(2, 16, dtype=torch.int64)}])
        print(pool.health()[0].pid, flush=True)
        next(calls)
    """
    with start([sys.executable, "-c", textwrap.dedent(code), str(artifact)]) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        time.sleep(0.2)  # until it waits for the answer
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, err = process.communicate(timeout=PATIENCE)
            assert err.endswith("KeyboardInterrupt\n")
            assert not alive(worker)
        finally:
            process.kill()
            with suppress(ProcessLookupError):  # it is stopped, and doesn't see that its parent has gone
                os.kill(worker, signal.SIGKILL)


def test_a_worker_in_a_call_ends_with_its_parent_however_that_ends(exported: Callable[..., Path]) -> None:
    code = """
        import sys, threading, time, torch
        from neuronbert import Pool, StaticShape
        pool = Pool.open(sys.argv[1], workers=1)
        rows = {"input_ids": torch.ones(400_000, 4, dtype=torch.int64)}  # for minutes, one by one
        threading.Thread(target=lambda: pool.run(rows, shape=StaticShape(1, 4)), daemon=True).start()
        time.sleep(2)  # until the whole call is over there
        assert pool.health()[0].busy_seconds > 1
        print(pool.health()[0].pid, flush=True)
        sys.stdin.read()
    """
    artifact = exported("feature-extraction", StaticShape(1, 4), dynamic_batch=True)
    command = [sys.executable, "-c", textwrap.dedent(code), str(artifact)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
        wait(lambda: not alive(worker))


def test_a_command_spreads_over_workers(artifact: Path) -> None:
    command = [sys.executable, "-m", "cli", "predict", artifact, "one", "two", "three", "--json", "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = Predictor.from_pretrained(str(artifact)).predict([{"text": text} for text in ("one", "two", "three")])
    for given, answer in zip(json.loads(done.stdout), expected, strict=True):
        assert given["embedding"] == pytest.approx(answer["embedding"], abs=1e-5)
    assert done.stderr == ""
