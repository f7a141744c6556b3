"""The figures of the benchmark: each is a function that gives rows of its table.

Owns: what is compared with what, and the limits. Every ratio is of two things measured in turn in the same run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from bench_megatron import megatron
from bench_tools import ROOT, Clocked, Row, alternate, peak_bytes, python, ratios

from neuronbert import Cache, ExportSpec, NeuronBertModel, StaticShape, check, export
from neuronbert.backends import registry
from neuronbert.backends.autocast import AutoCastMode
from neuronbert.backends.base import ANYWHERE
from neuronbert.inputs import example
from neuronbert.neff import HEADER_SIZE, read_header
from neuronbert.preflight.recording import record
from neuronbert.runtime import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bench_tools import Models
    from torch import nn

    from neuronbert import Artifact
    from neuronbert.backends.base import Program

ONE: Final = StaticShape(1, 128)
EIGHT: Final = StaticShape(8, 128)
SHORT: Final = StaticShape(1, 64)

CALL_US: Final = 60.0
CALL_SHARE: Final = 0.02
"""What a call may add: so many microseconds, or this share of the program's own time if that is more."""
IMPORTED: Final = 0
HELP_SECONDS: Final = 0.4
EXPORT_TIME: Final = 1.3
ARTIFACT_SIZE: Final = 1.02
EXPORT_MEMORY: Final = 2.2
PROGRAM_TIME: Final = 1.0
HEADER_US: Final = 10_000.0
HEADER_MIB: Final = 16.0
HIT_TIME: Final = 1.2
CHECK_TIME: Final = 1.5
DOCTOR_SECONDS: Final = 2.0


def call(models: Models, rounds: int) -> list[Row]:
    """A call of the model against the same program alone.

    "In all" is the difference of two medians, with the noise of two programs in it. "Outside the program" takes the
    same calls, but of each only what passed before and after its program, so that the noise drops out and the cold
    caches that a program leaves stay in. "A free program" is the same with caches that are always warm.
    """
    artifact = models.export(models.minilm, (ONE,), "none")
    program = Clocked(_programs(artifact)[ONE])
    answer = program(*example(artifact.manifest.inputs, ONE))
    real = [_beside(artifact, program, calls=120) for _ in range(rounds)]
    free = [_beside(artifact, Clocked(lambda *_: answer), calls=2000) for _ in range(rounds)]
    alone = tuple(sample["alone"] for sample in real)
    limit = max(CALL_US, CALL_SHARE * statistics.median(alone))
    in_all = Row("call: what the model adds, in all", tuple(sample["in all"] for sample in real), "us", limit)
    outside = Row("call: what the model adds, outside", tuple(sample["outside"] for sample in real), "us", limit)
    share = tuple(100 * sample["outside"] / sample["alone"] for sample in real)
    return [
        Row("call: the program alone", alone, "us"),
        in_all,
        outside,
        Row("call: the same, as a share of the program", share, "%"),
        Row("call: the same, beside a free program", tuple(sample["outside"] for sample in free), "us"),
    ]


def _beside(artifact: Artifact, program: Clocked, calls: int) -> dict[str, float]:
    model = NeuronBertModel(Session(artifact, {ONE: program}))
    inputs = example(artifact.manifest.inputs, ONE)
    given = dict(zip((spec.name for spec in artifact.manifest.inputs), inputs, strict=True))
    inside: dict[str, list[float]] = {"model": [], "bare": []}

    def through_model() -> None:
        model(**given)
        inside["model"].append(program.seconds)

    def bare() -> None:
        with torch.no_grad():
            program(*inputs)
        inside["bare"].append(program.seconds)

    whole, alone = (torch.tensor(seconds) * 1e6 for seconds in alternate((through_model, bare), calls))
    beside, around = whole - torch.tensor(inside["model"]) * 1e6, alone - torch.tensor(inside["bare"]) * 1e6
    return {
        "alone": alone.median().item(),
        "in all": (whole.median() - alone.median()).item(),
        "outside": (beside.median() - around.median()).item(),
    }


def imports(models: Models, rounds: int) -> list[Row]:  # noqa: ARG001  every figure is called alike
    """What `import neuronbert` brings in, and what the command line's help costs a fresh process."""
    count = "import neuronbert, sys; print(len({'torch', 'transformers'} & set(sys.modules)))"
    rows = [Row("import: torch and transformers, imported", (float(python("-c", count)),), "", IMPORTED)]
    commands: dict[str, Callable[[], str]] = {"python -m cli --help": lambda: python("-m", "cli", "--help")}
    script = Path(sys.executable).parent / "neuronbert"
    if script.is_file():
        commands["neuronbert --help"] = lambda: python("--help", program=script)
    for name, command in commands.items():
        command()
        taken = [alternate((command, lambda: python("-c", "pass")), calls=5) for _ in range(rounds)]
        more = tuple(statistics.median(helped) - statistics.median(idle) for helped, idle in taken)
        rows.append(Row(f"import: {name} over python -c pass", more, "s", HELP_SECONDS))
    return rows


def doctor(models: Models, rounds: int) -> list[Row]:  # noqa: ARG001  every figure is called alike
    """The whole command, in a fresh process: without the Hub, and with one that never answers."""

    def seconds(**environ: str) -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "cli", "doctor"]
        # Its exit code says what this machine lacks, which is no matter here.
        subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, check=False)
        return time.perf_counter() - start

    with socket.create_server(("127.0.0.1", 0)) as mute:
        slow = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{mute.getsockname()[1]}", "NO_PROXY": "*"}
        offline, waiting = zip(*((seconds(HF_HUB_OFFLINE="1"), seconds(**slow)) for _ in range(rounds)), strict=True)
    return [
        Row("doctor: offline", offline, "s", DOCTOR_SECONDS),
        Row("doctor: with a Hub that never answers", waiting, "s", DOCTOR_SECONDS),
    ]


def exports(models: Models, rounds: int) -> list[Row]:
    """An export against loading, tracing and saving by hand, both in this process.

    A fresh process for each would add the same seconds of imports to both, and so hide what the library adds.
    """
    inputs = example(models.export(models.minilm, (ONE,), "none").manifest.inputs, ONE)

    def bare(cast: AbstractContextManager[object]) -> None:
        with tempfile.TemporaryDirectory(dir=models.folder) as folder, torch.no_grad(), cast:
            head = _eager(models.minilm, return_dict=False)
            trace: Any = torch.jit.trace(head, inputs, check_trace=False, strict=False)
            torch.jit.save(trace, str(Path(folder, "model.pt")))

    def ours(mode: str) -> None:
        shutil.rmtree(models.export(models.minilm, (ONE,), mode).path)

    def row(mode: str, of: str, cast: Callable[[], AbstractContextManager[object]], limit: float | None) -> Row:
        pair = partial(ours, mode), lambda: bare(cast())
        return Row(f"export: auto_cast {mode}, time of {of}", ratios(*pair, rounds, calls=3), "x", limit)

    return [
        row("none", "bare", nullcontext, EXPORT_TIME),
        row("matmul", "bare with the same casts", partial(AutoCastMode, "matmul", "bf16"), EXPORT_TIME),
        row("matmul", "bare without any cast", nullcontext, None),
    ]


def size(models: Models, rounds: int) -> list[Row]:  # noqa: ARG001  a size has no noise
    """The program file, and the whole folder, against the weights of the model, a tied one counted once."""
    cases = {
        "MiniLM": (models.minilm, "BertModel", (ONE,)),
        "MiniLM, three shapes": (models.minilm, "BertModel", (SHORT, ONE, EIGHT)),
        "fill-mask, tied decoder": (models.masked, "BertForMaskedLM", (ONE,)),
    }
    rows = []
    for name, (checkpoint, class_name, shapes) in cases.items():
        head = _eager(checkpoint, class_name)
        weights = sum(weight.nbytes for weight in (*head.parameters(), *head.buffers()))
        artifact = models.export(checkpoint, shapes, "matmul")
        folder = sum(path.stat().st_size for path in artifact.path.rglob("*") if path.is_file())
        rows.append(Row(f"size: {name}, of weights", (folder / weights,), "x", ARTIFACT_SIZE))
    return rows


def memory(models: Models, rounds: int) -> list[Row]:
    """The peak memory of an export in a fresh process, over that of one that has only imported the frameworks."""
    checkpoint = models.base
    weights = (checkpoint / "model.safetensors").stat().st_size
    idle_code = "import torch; from transformers import BertModel\n"
    rows = []
    for auto_cast in ("none", "matmul"):
        samples = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir=models.folder) as folder:
                given = f"model={str(checkpoint)!r}, shapes=(StaticShape(1, 128),), auto_cast={auto_cast!r}"
                export_code = f"export(ExportSpec({given}), {folder!r})\n"
                names = "from neuronbert import ExportSpec, StaticShape, export\n"
                more = peak_bytes(idle_code + names + export_code) - peak_bytes(idle_code)
            samples.append(more / weights)
        rows.append(Row(f"memory: auto_cast {auto_cast}, of checkpoint", tuple(samples), "x", EXPORT_MEMORY))
    return rows


def speed(models: Models, rounds: int) -> list[Row]:
    """The programs of a BERT-base against transformers' eager model with its fused attention."""
    fp32 = models.export(models.base, (ONE, EIGHT), "none")
    programs = {"fp32": _programs(fp32), "bf16": _programs(models.export(models.base, (ONE, EIGHT), "matmul"))}
    head = _eager(models.base)
    rows = []
    for shape, calls in ((ONE, 8), (EIGHT, 2)):
        inputs = example(fp32.manifest.inputs, shape)
        given = dict(zip((spec.name for spec in fp32.manifest.inputs), inputs, strict=True))
        for kind, limit in (("fp32", PROGRAM_TIME), ("bf16", None)):
            pair = (
                _without_grad(lambda p=programs[kind][shape], x=inputs: p(*x)),
                _without_grad(lambda x=given: head(**x)),
            )
            rows.append(Row(f"speed: {kind} at {shape.name}, time of eager", ratios(*pair, rounds, calls), "x", limit))
    return rows


def load(models: Models, rounds: int) -> list[Row]:
    """Opening a session against loading the program and computing its file's digest."""
    artifact = models.export(models.minilm, (ONE,), "none")
    program = artifact.path / artifact.manifest.program_files[0]

    def bare() -> None:
        hashlib.sha256(program.read_bytes()).hexdigest()
        torch.jit.load(str(program))

    return [Row("load: Session.open, time of bare", ratios(lambda: Session.open(artifact.path), bare, rounds, 5), "x")]


def neff(models: Models, rounds: int) -> list[Row]:
    """The header of a NEFF of 1 GiB: the time of one read, and the memory of a process that does nothing else.

    The memory is what it takes over a bare interpreter, imports included.
    """
    path = models.folder / "huge.neff"
    header = bytearray(HEADER_SIZE)
    struct.pack_into("<5Q", header, 0, 2, HEADER_SIZE, (1 << 30) - HEADER_SIZE, 2, 0)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(1 << 30)
    seconds = [statistics.median(alternate([partial(read_header, path)], calls=50)[0]) for _ in range(rounds)]
    code = f"from neuronbert.neff import read_header\nread_header({str(path)!r})\n"
    more = [(peak_bytes(code) - peak_bytes("pass\n")) / 2**20 for _ in range(rounds)]
    return [
        Row("neff: header of a 1 GiB file", tuple(1e6 * value for value in seconds), "us", HEADER_US),
        Row("neff: the same, memory over python -c pass", tuple(more), "MiB", HEADER_MIB),
    ]


def cached(models: Models, rounds: int) -> list[Row]:
    """An export of what was exported before, against copying the files of its artifact.

    To copy an artifact is to copy each file, flush it to the disk and compare its digest, as `save_pretrained` does;
    here by hand, one after the other. Beside it, without a limit: the same without the digests, and `shutil.copyfile`
    alone. An export reads the weights as well, since their digest is in the key.
    """
    cache = Cache(models.folder / "cache", 1 << 32)
    spec = ExportSpec(str(models.minilm), (ONE,))
    files = tuple(path for path in export(spec, models.folder / "cached", cache=cache).path.iterdir())
    ways: Mapping[str, Callable[[Path], object]] = {
        "a hit": lambda folder: export(spec, folder, cache=cache),
        "copying the artifact": lambda folder: _copy(files, folder, flush=True, compare=True),
        "copying without digests": lambda folder: _copy(files, folder, flush=True),
        "copyfile alone": lambda folder: _copy(files, folder),
    }
    samples = []
    for _ in range(rounds):
        calls = [{name: _seconds(way, models.folder) for name, way in ways.items()} for _ in range(5)]
        samples.append({name: statistics.median(call[name] for call in calls) for name in ways})
    rows = [Row("cache: a hit", tuple(sample["a hit"] for sample in samples), "s")]
    for name in (*ways,)[1:]:
        limit = HIT_TIME if name == "copying the artifact" else None
        ratio = tuple(sample["a hit"] / sample[name] for sample in samples)
        rows.append(Row(f"cache: a hit, time of {name}", ratio, "x", limit))
    return rows


def _copy(files: Sequence[Path], folder: Path, *, flush: bool = False, compare: bool = False) -> None:
    for path in files:
        shutil.copyfile(path, folder / path.name)
        with (folder / path.name).open("rb") as file:
            if flush:
                os.fsync(file.fileno())
            if compare:
                hashlib.file_digest(file, "sha256")


def _seconds(write: Callable[[Path], object], place: Path) -> float:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        start = time.perf_counter()
        write(Path(folder))
        return time.perf_counter() - start


def checks(models: Models, rounds: int) -> list[Row]:
    """A pre-flight without HLO against loading and tracing by hand, and its trace against a bare one."""
    spec = ExportSpec(str(models.minilm), (ONE,), "feature-extraction", target="inf2")
    inputs = example(models.export(models.minilm, (ONE,), "none").manifest.inputs, ONE)
    held = _eager(models.minilm, return_dict=False)

    def trace(head: nn.Module) -> None:
        with torch.no_grad():
            torch.jit.trace(head, inputs, check_trace=False, strict=False)

    def bare() -> None:
        trace(_eager(models.minilm, return_dict=False))

    def ours() -> None:
        check(spec)

    whole = ratios(ours, bare, rounds, calls=3)
    alone = ratios(lambda: record(held, inputs), lambda: trace(held), rounds, calls=3)
    return [
        Row("check: without HLO, time of load and trace", whole, "x", CHECK_TIME),
        Row("check: its trace, time of bare", alone, "x", CHECK_TIME),
    ]


def _programs(artifact: Artifact) -> Mapping[StaticShape, Program]:
    runtime = registry.runtime(artifact.manifest.backend, artifact.manifest.target)
    return runtime.load(artifact.path, artifact.manifest, ANYWHERE)


def _eager(checkpoint: Path, class_name: str = "BertModel", **options: Any) -> nn.Module:
    kind = getattr(transformers, class_name)
    return kind.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa", **options).eval()


def _without_grad(function: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(function)


FIGURES: Final[Mapping[str, Callable[[Models, int], list[Row]]]] = {
    "call": call,
    "import": imports,
    "doctor": doctor,
    "export": exports,
    "size": size,
    "memory": memory,
    "speed": speed,
    "load": load,
    "neff": neff,
    "cache": cached,
    "check": checks,
    "megatron": megatron,
}
