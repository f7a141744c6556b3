"""make interop: artifacts exchanged with optimum-neuron, in both directions, value for value.

    interop.py PEER_PYTHON FOLDER

PEER_PYTHON is the Python of an environment with optimum-neuron. For every head that it has, on small random weights,
and on all-MiniLM-L6-v2: its runtime answers over our artifact what ours does, once as exported for the CPU and once
with the config that an export for Inf2 writes; our runtime answers over the artifact that its exporter wrote what
transformers does, and validates it. Ends with 1 if anything differs by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from demo import sample_checkpoint
from interop_fakes import COMPILER_VERSION
from safetensors.torch import load_file, save_file

from neuronbert import Artifact, ExportSpec, NeuronAutoModel, StaticShape, export, foreign, inputs, modeling, validate
from neuronbert.architectures import ARCHITECTURES
from neuronbert.checkpoint import Checkpoint
from neuronbert.folders import CONFIG, TOKENIZER_FILES
from neuronbert.inputs import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

HEADS: Final = (
    "feature-extraction",
    "fill-mask",
    "question-answering",
    "text-classification",
    "token-classification",
    "multiple-choice",
)
LIMIT: Final = 1e-5
"""The same program, or the same weights in fp32: what is left is the order of additions."""
PEER: Final = Path(__file__).with_name("interop_peer.py")


@dataclass(frozen=True, slots=True)
class Case:
    """One checkpoint and what is made of it, in a folder of its own."""

    folder: Path
    task: str
    shape: StaticShape
    dynamic: bool = False
    """Whether optimum-neuron exports it with a dynamic batch."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint."""
        return Checkpoint.open(self.folder / "checkpoint")

    def calls(self) -> list[Batch]:
        """Full rows, short rows, a single row, and rows with padding of their own."""
        return list(inputs.validation_batches(self.checkpoint.input_specs(self.task), self.shape, None))

    def options(self) -> dict[str, Any]:
        """What optimum-neuron's exporter is told."""
        shape = {"batch_size": self.shape.batch_size, "sequence_length": self.shape.sequence_length}
        choices = {"num_choices": self.shape.num_choices} if self.shape.num_choices else {}
        return {**shape, **choices, "dynamic_batch_size": self.dynamic}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    direction: str
    case: str
    call: str
    output: str
    difference: float

    @property
    def ok(self) -> bool:
        """Whether the outputs are equal but for rounding."""
        return self.difference <= LIMIT


def prepare(folder: Path) -> list[Case]:
    """The checkpoints, our artifacts of them, and the calls."""
    shutil.rmtree(folder, ignore_errors=True)
    cases = []
    for task in HEADS:
        choices = 3 if task == "multiple-choice" else None
        cases.append(Case(folder / task, task, StaticShape(2, 16, choices), dynamic=task == "text-classification"))
        _save_checkpoint(cases[-1].folder / "checkpoint", task)
    cases.append(Case(folder / "minilm", "feature-extraction", StaticShape(2, 32)))
    shutil.copytree(sample_checkpoint(), cases[-1].folder / "checkpoint")
    for case in cases:
        spec = ExportSpec(str(case.folder / "checkpoint"), (case.shape,), case.task, target="cpu", auto_cast="none")
        _as_for_inf2(export(spec, case.folder / "ours", cache=False), case.folder / "device")
        calls = {f"{batch.name}/{name}": value for batch in case.calls() for name, value in batch.inputs.items()}
        save_file({key: value.contiguous() for key, value in calls.items()}, case.folder / "calls.safetensors")
        said = json.dumps({"task": case.task, "options": case.options()})
        (case.folder / "case.json").write_text(said, encoding="utf-8")
    return cases


def _as_for_inf2(artifact: Artifact, output: Path) -> None:
    """The same program beside the config that an export for a device gets; the compiler isn't to be had here."""
    manifest = artifact.manifest
    compiler = manifest.compiler.model_copy(update={"versions": {"neuronx-cc": COMPILER_VERSION}, "optlevel": "2"})
    device = manifest.model_copy(update={"backend": "neuronx", "target": "inf2", "compiler": compiler})
    shutil.copytree(artifact.path, output)
    config = artifact.config() | {foreign.SECTION: foreign.section(device)}
    (output / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _save_checkpoint(folder: Path, task: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    # Wider than the usual 0.02, so that a wrong answer differs by more than rounding does.
    config = transformers.BertConfig(**sizes, intermediate_size=64, max_position_embeddings=64, initializer_range=0.2)
    torch.manual_seed(0)
    getattr(transformers, ARCHITECTURES["bert"].heads[task])(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (sample_checkpoint() / name).is_file():
            shutil.copy(sample_checkpoint() / name, folder)


def ours_in_theirs(cases: list[Case], peer: Path, folder: Path) -> Iterator[Row]:
    """Our artifacts in optimum-neuron's runtime, against our own."""
    for action, made in (("run", "ours"), ("device", "device")):
        subprocess.run([peer, PEER, action, folder], check=True)
        for case in cases:
            model = NeuronAutoModel.from_pretrained(case.folder / "ours")
            answers = load_file(case.folder / f"{made}.safetensors")
            for batch in case.calls():
                found = {key.split("/")[1]: value for key, value in answers.items() if key.startswith(f"{batch.name}/")}
                direction = "ours in theirs" if made == "ours" else "ours, as for inf2"
                yield from _rows((direction, case.folder.name, batch.name), found, dict(model(**batch.inputs)))


def theirs_in_ours(cases: list[Case], peer: Path, folder: Path) -> Iterator[Row]:
    """optimum-neuron's artifacts in our runtime, against transformers in fp32; and their validation."""
    subprocess.run([peer, PEER, "export", folder], check=True)
    for case in cases:
        loaded = modeling.load(case.checkpoint, case.task)
        model = NeuronAutoModel.from_pretrained(case.folder / "theirs")
        names = [spec.name for spec in loaded.outputs]
        for batch in case.calls() + ([_many_rows(case)] if case.dynamic else []):
            given = [batch.inputs[spec.name] for spec in loaded.inputs]
            with torch.no_grad():
                expected = dict(zip(names, loaded.head(*given), strict=True))
            yield from _rows(("theirs in ours", case.folder.name, batch.name), dict(model(**batch.inputs)), expected)
        report = validate(case.folder / "theirs", model=str(case.folder / "checkpoint"), record=False)
        yield Row("theirs in ours", case.folder.name, "validate", "all", 0.0 if report.passed else float("inf"))


def _many_rows(case: Case) -> Batch:
    """More rows than were compiled, and not a multiple of them."""
    shape = StaticShape(2 * case.shape.batch_size + 1, case.shape.sequence_length, case.shape.num_choices)
    batch = next(inputs.validation_batches(case.checkpoint.input_specs(case.task), shape, None))
    return Batch("many-rows", batch.inputs)


def _rows(where: tuple[str, str, str], found: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[Row]:
    for name in sorted({*found, *expected}):
        same = name in found and name in expected and found[name].shape == expected[name].shape
        difference = float((found[name] - expected[name]).abs().max()) if same else float("inf")
        yield Row(*where, name, difference)


def main() -> int:
    """Print the table; 1 if a row of it is wrong."""
    parser = argparse.ArgumentParser(description="Exchange artifacts with optimum-neuron, in both directions.")
    parser.add_argument("peer", type=Path, help="the Python of an environment with optimum-neuron")
    parser.add_argument("folder", type=Path, help="where everything is made")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    cases = prepare(options.folder)
    rows = [
        row for direction in (ours_in_theirs, theirs_in_ours) for row in direction(cases, options.peer, options.folder)
    ]
    print(f"{'direction':18} {'case':21} {'call':11} {'output':18} {'difference':>10}  equal")
    for row in rows:
        verdict = "yes" if row.ok else "NO"
        print(f"{row.direction:18} {row.case:21} {row.call:11} {row.output:18} {row.difference:10.1e}  {verdict}")
    wrong = sum(not row.ok for row in rows)
    print(f"{len(rows)} outputs compared, {wrong} of them differ by more than {LIMIT:g}")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
