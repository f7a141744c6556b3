"""Processes are started within the bounds, watched, and ended with all that they started. They are real ones."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronbert.errors import InvalidOptionError
from neuronbert.matrix import memory, pool
from neuronbert.matrix.pool import Limits
from neuronbert.matrix.process import Ended, Process
from neuronbert.matrix.settings import Settings
from tests.unit.builders import ROOT
from tests.unit.matrix_builders import make_cell

CHILD = """
    import os, signal, subprocess, sys, time
    action, *more = sys.argv[1:]
    sleeper = "import time; time.sleep(40); print('survived', flush=True)"
    if action == "hold":
        block = b"x" * int(more[0])
    elif action == "kill":
        os.kill(os.getpid(), int(more[0]))
    elif action == "fail":
        print("first\\nthe reason")
        sys.exit(7)
    elif action == "parent":
        child = subprocess.Popen([sys.executable, "-c", sleeper])
        print(child.pid, flush=True)
        time.sleep(50)
    elif action == "leave":
        child = subprocess.Popen([sys.executable, "-c", sleeper])
        print(child.pid, flush=True)
    elif action == "say":
        print(os.environ["OMP_NUM_THREADS"], os.environ["TMPDIR"], os.getsid(0) == os.getpid())
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "matrix_child.py").write_text(textwrap.dedent(CHILD))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda *arguments: Process("matrix_child", [str(part) for part in arguments], tmp_path, 3)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # what nobody waits for is a zombie where there is no init


def wait_for_end(pid: int) -> None:
    for _ in range(1200):
        if not is_alive(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it outlived what had to end it")


def pid_in(process: Process) -> int:
    while not (text := process.log()).endswith("\n"):
        time.sleep(0.01)
    return int(text)


def test_the_memory_that_a_process_took_is_told(start) -> None:
    more = memory.held() + (100 << 20)
    small, large = start("hold", 0).wait(), start("hold", more).wait()
    assert small.code == large.code == 0
    assert more < large.peak_bytes < more + (40 << 20)
    assert small.peak_bytes == 0, "Linux counts in what this process held"


def test_a_process_has_a_session_a_place_and_threads_of_its_own(start, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    process = start("say")
    process.wait()
    assert process.log() == f"3 {tmp_path} True\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    process = start("say")
    process.wait()
    assert process.log().startswith("5 ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fail",), "exit code 7: the reason"),
        (("kill", signal.SIGKILL), r"killed \(SIGKILL\), as is done where memory runs out"),
        (("kill", signal.SIGABRT), "ended by SIGABRT"),
        (("kill", 40), "ended by signal 40"),
    ],
    ids=str,
)
def test_how_a_process_ended_is_said(start, arguments: tuple[object, ...], said: str) -> None:
    process = start(*arguments)
    ended = process.wait()
    import re

    assert re.search(said, ended.problem(process.log()))


def test_what_a_process_printed_last_cannot_reach_a_terminal() -> None:
    assert "\x1b" not in Ended(1, 0.0, 0).problem("\x1b[31mred\x07")


def test_a_process_whose_time_is_up_is_ended_with_its_children(start) -> None:
    process = start("parent")
    ended = process.wait(timeout=1.5)
    assert ended.late
    assert "(--timeout)" in ended.problem("")
    wait_for_end(int(process.log()))
    assert "survived" not in process.log()


def test_what_a_process_leaves_behind_is_ended(start) -> None:
    process = start("leave")
    assert process.wait().code == 0
    wait_for_end(pid_in(process))
    assert "survived" not in process.log()


def test_a_process_that_has_ended_is_not_ended_again(start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start("hold", 0)
    process.wait()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("its number may be another's by now"))
    process.kill()


@dataclass
class Recorder:
    """Notes who runs beside whom."""

    running: dict[int, int] = field(default_factory=dict)
    together: list[tuple[int, ...]] = field(default_factory=list)
    numbers: list[tuple[int, ...]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)


@dataclass
class Piece:
    number: int
    needs: int
    recorder: Recorder
    start_process: object
    device: str = ""

    def need(self) -> int:
        return self.needs

    def holds(self) -> str:
        return self.device

    def start(self) -> object:
        self.recorder.running[self.number] = self.needs
        self.recorder.together.append(tuple(self.recorder.running.values()))
        self.recorder.numbers.append(tuple(self.recorder.running))
        return self.start_process()  # type: ignore[operator]

    def finish(self, process: object, ended: Ended) -> None:
        del self.recorder.running[self.number]
        self.recorder.done.append(self.number)


class Immediate:
    """A process that is over at once: for many orders of many pieces."""

    def wait(self, timeout: float | None) -> Ended:
        return Ended(0, 0.0, 0)

    def kill(self) -> None:
        pytest.fail("nothing has to be ended")


@settings(max_examples=200)
@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 4), st.integers(1, 10))
def test_no_more_than_the_bounds_unless_alone(needs: list[int], jobs: int, bound: int) -> None:
    recorder = Recorder()
    pool.run([Piece(n, need, recorder, Immediate) for n, need in enumerate(needs)], Limits(jobs, bound))
    assert sorted(recorder.done) == list(range(len(needs)))
    for together in recorder.together:
        assert len(together) <= jobs
        assert sum(together) <= bound or len(together) == 1


@given(st.lists(st.sampled_from(["", "", "device"]), max_size=12), st.integers(1, 4))
def test_what_only_one_may_have_is_never_held_twice_and_keeps_nobody_else_waiting(holds: list[str], jobs: int) -> None:
    recorder = Recorder()
    works = [Piece(n, 1, recorder, Immediate, held) for n, held in enumerate(holds)]
    pool.run(works, Limits(jobs, 100))
    assert sorted(recorder.done) == list(range(len(holds)))
    for together in recorder.numbers:
        assert [holds[number] for number in together].count("device") <= 1
    first = recorder.numbers[: min(jobs, holds.count("") + ("device" in holds))]
    assert [len(together) for together in first] == list(range(1, len(first) + 1)), "a place is left empty"


def test_when_it_is_interrupted_what_runs_is_ended(start) -> None:
    children: list[int] = []
    processes: list[Process] = []

    class Interrupting(Piece):
        def finish(self, process: object, ended: Ended) -> None:
            raise KeyboardInterrupt

    class Parent(Piece):
        def start(self) -> object:
            process = super().start()
            assert isinstance(process, Process)
            processes.append(process)
            children.append(pid_in(process))
            return process

    recorder = Recorder()
    works = [
        Parent(0, 1, recorder, lambda: start("parent")),
        Interrupting(1, 1, recorder, Immediate),
        Piece(2, 1, recorder, lambda: pytest.fail("nothing is started any more")),
    ]
    with pytest.raises(KeyboardInterrupt):
        pool.run(works, Limits(2, 10))
    wait_for_end(children[0])
    assert "survived" not in processes[0].log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_started_while_a_signal_comes_is_ended_too(start, number: int) -> None:
    children: list[int] = []
    processes: list[Process] = []

    class Parent(Piece):
        def start(self) -> object:
            process = super().start()
            assert isinstance(process, Process)
            processes.append(process)
            children.append(pid_in(process))
            signal.raise_signal(number)
            return process

    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run([Parent(0, 1, Recorder(), lambda: start("parent"))], Limits(1, 10))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    wait_for_end(children[0])
    assert "survived" not in processes[0].log()


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    import subprocess

    # The parent starts a worker and dies at once, by a signal that nothing can clean up after.
    code = f"""
import os, signal, sys
from pathlib import Path
from neuronbert.matrix.process import Process
process = Process("neuronbert.matrix.worker", [{str(tmp_path)!r}], Path({str(tmp_path)!r}), 1)
print(process._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "job.json").write_text('{"target": "cpu"}')
    os.mkfifo(tmp_path / "answer.json")  # nobody reads it: without its watch, the worker would wait here for ever
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    wait_for_end(int(done.stdout))


def test_the_estimate_grows_with_weights_rows_and_programs_and_is_corrected_by_what_was_measured() -> None:
    config = {"vocab_size": 1000, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}

    def estimate(weights: int = 1 << 20, **changes: str) -> int:
        return memory.estimate(make_cell(**changes), config, weights)

    assert estimate() < estimate(weights=1 << 30) < estimate(weights=1 << 30, shape="2x8+1x8")
    assert estimate(task="text-classification") < estimate(shape="2x8")
    assert estimate(shape="2x8") < estimate(shape="64x64") < estimate(shape="64x64", target="inf2")
    ledger = memory.Ledger()
    cell, other = make_cell(), make_cell(model="other")
    ledger.learn(cell, 100, 50)
    ledger.learn(cell, 100, 80)
    ledger.learn(cell, 100, 20)
    assert ledger.need(cell, 1000) == 800
    assert ledger.need(other, 1000) == 1000


def test_the_weights_of_a_config_are_those_that_transformers_makes(tiny) -> None:
    import json

    checkpoint = tiny("feature-extraction")
    found = memory.weights_of(json.loads((checkpoint / "config.json").read_text()))
    real = (checkpoint / "model.safetensors").stat().st_size
    assert real * 0.95 < found < real * 1.05
    assert memory.weights_of({"model_type": "bert"}) == pytest.approx(438e6, rel=0.02), "BERT base: 109.5M parameters"
    assert memory.weights_of({"hidden_size": "large", "vocab_size": -1}) == memory.weights_of({})


def test_the_limits_of_the_machine_are_taken_where_none_are_given() -> None:
    limits = Settings().limits
    assert limits.jobs == len(os.sched_getaffinity(0))
    assert 0 < limits.memory < memory.available()
    assert Settings(jobs=3, max_memory=5, timeout=1.0).limits == Limits(3, 5, 1.0)


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    machine = memory.available()
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory.available() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > machine / 2


@pytest.mark.parametrize("name", ["jobs", "max_memory", "timeout"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"{name} is 0; it must be more than 0"):
        Settings(**{name: 0})  # type: ignore[arg-type]
