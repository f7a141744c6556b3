"""make interop: artifacts exchanged with optimum-neuron, in both directions, value for value.

    interop.py PEER_PYTHON FOLDER [--only ours|theirs]

PEER_PYTHON is the Python of an environment with optimum-neuron. For every head that optimum-neuron has, on small random
weights and on all-MiniLM-L6-v2: its runtime answers over our artifact what ours does, and our runtime answers over the
artifact that its exporter wrote what transformers does. Ends with 1 if a difference is larger than allowed.
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
from safetensors.torch import load_file, save_file

from neuronbert import ExportSpec, NeuronAutoModel, StaticShape, export, inputs, modeling
from neuronbert.architectures import ARCHITECTURES
from neuronbert.checkpoint import TOKENIZER_FILES, Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from neuronbert.inputs import Batch

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

    @property
    def calls(self) -> list[Batch]:
        """Full rows, short rows, a single row, and rows with padding of their own."""
        specs = modeling.load(Checkpoint.open(self.folder / "checkpoint"), self.task).inputs
        return list(inputs.validation_batches(specs, self.shape, None))


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
        """Whether the outputs are equal."""
        return self.difference <= LIMIT


def prepare(folder: Path) -> list[Case]:
    """The checkpoints, our artifacts of them, and the calls."""
    shutil.rmtree(folder, ignore_errors=True)
    made = []
    for task in HEADS:
        choices = 3 if task == "multiple-choice" else None
        made.append(Case(folder / task, task, StaticShape(2, 16, choices)))
        _save_checkpoint(made[-1].folder / "checkpoint", task)
    made.append(Case(folder / "minilm", "feature-extraction", StaticShape(2, 32)))
    shutil.copytree(sample_checkpoint(), made[-1].folder / "checkpoint")
    for case in made:
        checkpoint = case.folder / "checkpoint"
        export(ExportSpec(model=str(checkpoint), shapes=(case.shape,), task=case.task), case.folder / "ours")
        calls = {f"{batch.name}/{name}": value for batch in case.calls for name, value in batch.inputs.items()}
        save_file({key: value.contiguous() for key, value in calls.items()}, case.folder / "calls.safetensors")
        sizes = {"batch_size": case.shape.batch_size, "sequence_length": case.shape.sequence_length}
        shape = sizes | ({"num_choices": case.shape.num_choices} if case.shape.num_choices else {})
        said = json.dumps({"task": case.task, "shape": shape})
        (case.folder / "case.json").write_text(said, encoding="utf-8")
    return made


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
    subprocess.run([peer, PEER, "run", folder], check=True)
    for case in cases:
        model = NeuronAutoModel.from_pretrained(case.folder / "ours")
        answers = load_file(case.folder / "answers.safetensors")
        for batch in case.calls:
            expected = dict(model(**batch.inputs).items())
            found = {key.split("/")[1]: value for key, value in answers.items() if key.startswith(f"{batch.name}/")}
            yield from _rows(("ours in theirs", case.folder.name, batch.name), found, expected)


def theirs_in_ours(cases: list[Case], peer: Path, folder: Path) -> Iterator[Row]:
    """optimum-neuron's artifacts in our runtime, against transformers in fp32."""
    subprocess.run([peer, PEER, "export", folder], check=True)
    for case in cases:
        loaded = modeling.load(Checkpoint.open(case.folder / "checkpoint"), case.task)
        model = NeuronAutoModel.from_pretrained(case.folder / "theirs")
        names = [spec.name for spec in loaded.outputs]
        for batch in case.calls:
            given = [batch.inputs[spec.name] for spec in loaded.inputs]
            with torch.no_grad():
                expected = dict(zip(names, loaded.head(*given), strict=True))
            yield from _rows(("theirs in ours", case.folder.name, batch.name), dict(model(**batch.inputs)), expected)


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
    cases = prepare(options.folder)
    rows = []
    for direction in (ours_in_theirs, theirs_in_ours):
        rows += list(direction(cases, options.peer, options.folder))
    print(f"{'direction':15} {'case':22} {'call':12} {'output':18} {'difference':>10}  equal")
    for row in rows:
        verdict = "yes" if row.ok else "NO"
        print(f"{row.direction:15} {row.case:22} {row.call:12} {row.output:18} {row.difference:10.1e}  {verdict}")
    wrong = sum(not row.ok for row in rows)
    print(f"{len(rows)} outputs compared, {wrong} of them differ by more than {LIMIT:g}")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
