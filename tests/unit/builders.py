"""Hand-made manifests and artifacts: no torch, no model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from neuronbert import manifest as schema
from neuronbert.artifact import seal, staged
from neuronbert.benchmark.report import BenchReport, Case, Timing
from neuronbert.manifest import CompilerInfo, InputSpec, Manifest, OutputSpec, ProgramSpec, Source
from neuronbert.provenance import digest
from neuronbert.report import Check, Measure, ValidationReport

ROOT = Path(__file__).parents[2]
DIGEST = "0123456789abcdef" * 4

INPUTS = (
    InputSpec(name="input_ids", maximum=99, padding=7),
    InputSpec(name="attention_mask", maximum=1, default=1),
    InputSpec(name="token_type_ids", maximum=1, default=0),
)
FILES = {"model.neuron": b"\x00\x01program", "config.json": b'{"model_type": "bert"}', "sub/vocab.txt": b"[PAD]\n"}
OTHER = {**FILES, "model.neuron": b"another program"}


class BlockError(Exception):
    """What goes wrong inside a block."""


def make_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "neuronbert_version": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "task": "fill-mask",
        "model_type": "bert",
        "target": "cpu",
        "backend": "cpu",
        "inputs": INPUTS,
        "outputs": (OutputSpec(name="logits", dims=("batch", "sequence", "vocabulary"), size=100, answer="argmax"),),
        "programs": (ProgramSpec(batch_size=2, sequence_length=8, file="model.neuron", method="forward"),),
        "compiler": CompilerInfo(
            name="torch.jit.trace", auto_cast="matmul", auto_cast_type="bf16", versions={"torch": "2.9"}
        ),
        "source": Source(model="checkpoint", path="/home/me/checkpoint", weights_sha256=DIGEST, class_name="Bert"),
        "files": {},
    }
    return Manifest(**{**fields, **changes})


def reseal(content: bytes, **changes: Any) -> bytes:
    """The content of a manifest with other values, under a seal that is right: what an attacker can make."""
    body = {**json.loads(content), **changes}
    body.pop("seal")
    return schema._render({**body, "seal": digest(body)})


def write_artifact(output: Path, *, overwrite: bool = False, files: dict[str, bytes] | None = None) -> Path:
    with staged(output, overwrite=overwrite) as folder:
        for name, content in (files or FILES).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        seal(folder, make_manifest())
    return output


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make_measure(name: str = "error", value: float = 0.001, limit: float = 0.01) -> Measure:
    return Measure.model_validate({"name": name, "value": value, "limit": limit, "reason": "by hand"})


def make_check(*measures: Measure, output: str = "logits", problem: str = "") -> Check:
    return Check(shape="2x8", batch="full", forward=1, output=output, problem=problem, measures=measures)


def make_report(*checks: Check, **changes: Any) -> ValidationReport:
    fields: dict[str, Any] = {
        "neuronbert_version": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "task": "fill-mask",
        "program_sha256": DIGEST,
        "reference": "Bert of checkpoint in fp32",
        "checks": checks,
    }
    return ValidationReport(**{**fields, **changes})


def make_case(
    *,
    program: list[list[float]] = [[0.1]],  # noqa: B006  never changed
    reference: list[list[float]] | None = [[0.2]],  # noqa: B006
    **changes: Any,
) -> Case:
    """A case of calls that took so many seconds, round by round."""
    fields: dict[str, Any] = {"bucket": "1x128", "rows": 1, "tokens": 128, "cores": 1, **changes}
    timings = {"program": program, "reference": reference}
    made = {who: taken and Timing.of(taken, fields["rows"], fields["tokens"]) for who, taken in timings.items()}
    return Case(**fields, **made)


def make_bench_report(*cases: Case, **changes: Any) -> BenchReport:
    fields: dict[str, Any] = {
        "neuronbert_version": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "artifact": "out",
        "task": "fill-mask",
        "target": "cpu",
        "auto_cast": "matmul bf16",
        "program_sha256": DIGEST,
        "reference": "BertForMaskedLM of bert in fp32",
        "inputs": "full rows of seeded ids",
        "rounds": 1,
        "processors": 2,
        "versions": {"torch": "2.13.0"},
        "load_before": 0.1,
        "load_after": 0.1,
    }
    return BenchReport(**{**fields, **changes}, cases=cases)


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run_python(code: str, *arguments: object) -> str:
    """What a program in a process of its own printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
