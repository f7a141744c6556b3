"""Measure what 8 bits cost on the tasks of Python's own documentation, and print a table in Markdown.

Each task's checkpoints (see topics.py) are quantized in several ways with the passages that they were trained on,
without their labels, and exported; the programs answer the rows that are held out. What was trained or exported once
is kept and found again: remove its folder to have it made anew.

Examples:
    python scripts/bench_accuracy.py
    python scripts/bench_accuracy.py --task sections-128 --seed 0 --way learned
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tempfile
import warnings
from pathlib import Path

import torch
from demo import sample_checkpoint
from topics import FOLDER, SEEDS
from topics_scores import accuracy, load
from topics_tasks import NAMES, read, write
from topics_training import trained
from transformers.utils import logging as transformers_logging

from neuronbert import ExportSpec, QuantizationPlan, StaticShape, export, quantize, tokenization

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from topics_tasks import Dataset

TASKS: Final = tuple(name for name in NAMES if name.endswith("-128"))
LIMIT: Final = 0.01
"""What 8 bits may cost."""
DEFAULT: Final = "learned"
HELD: Final = (DEFAULT, "ibert+qat")
"""The ways that are held to the limit."""
WAYS: Final[Mapping[str, QuantizationPlan]] = {
    DEFAULT: QuantizationPlan(),
    "percentile": QuantizationPlan("percentile"),
    "mse": QuantizationPlan("mse"),
    "max": QuantizationPlan("max"),
    "learned+float": QuantizationPlan(sensitivity=0.02),
    "learned+qat": QuantizationPlan(qat_steps=64),
    "ibert": QuantizationPlan(quantization="ibert"),
    "ibert+qat": QuantizationPlan(quantization="ibert", qat_steps=64),
}
"""How checkpoints are quantized. +float: with what --sensitivity proposes for its loss; +qat: weights learn, too."""
_SHAPES: Final = (StaticShape(8, 128),)


def main() -> int:
    """Make what isn't there yet, score it, and print the table; 1 if a way costs more than it may."""
    options = _options()
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    seeds = options.seed or SEEDS
    columns = ["task", "quantized", *(f"seed {seed}" for seed in seeds), "mean"]
    print(f"| {' | '.join(columns)} |\n| {' | '.join('---' for _ in columns)} |", flush=True)
    kept = True
    for task in options.task or TASKS:
        exact = 0.0
        for way in ("float", *(options.way or WAYS)):
            found = list(_scores(options.folder.expanduser(), task, seeds, way))
            mean = statistics.mean(found)
            exact = exact or mean
            cells = [task, way, *(f"{100 * score:.1f}" for score in found), f"{100 * mean:.1f}"]
            cells[-1] += "" if way == "float" else f" ({100 * (mean - exact):+.1f})"
            print(f"| {' | '.join(cells)} |", flush=True)
            kept = kept and (way not in HELD or mean >= exact - LIMIT)
    return 0 if kept else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="of this task; may be given again")
    parser.add_argument("--seed", action="append", type=int, help="of this seed (default: 0, 1 and 2)")
    parser.add_argument("--way", action="append", choices=tuple(WAYS), help="quantized so; may be given again")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where checkpoints lie (default: {FOLDER})")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    return parser.parse_args()


def _scores(folder: Path, task: str, seeds: tuple[int, ...], way: str) -> Iterator[float]:
    sample = sample_checkpoint()
    tokenizer = tokenization.require(sample)
    dataset = read(task, tokenizer)
    for seed in seeds:
        found = trained(task, seed, sample, folder)
        if way != "float":
            found = _program(found, dataset, way, folder / "int8")
        yield accuracy(load(dataset, found), dataset, tokenizer)


def _program(checkpoint: Path, dataset: Dataset, way: str, folder: Path) -> Path:
    """The artifact of a checkpoint that was quantized in a way: the one that is there, or a new one."""
    output = folder / f"{checkpoint.name}-{way}"
    if not output.is_dir():
        with tempfile.TemporaryDirectory(prefix="neuronbert-accuracy-") as name:
            work = Path(name)
            write(dataset, work)
            plan, rows = WAYS[way], work / f"{dataset.name}-train.jsonl"
            done = quantize(str(checkpoint), work / "first", rows, plan)
            if plan.sensitivity:
                kept = replace(plan, sensitivity=None, keep_float=done.proposed)
                done = quantize(str(checkpoint), work / "second", rows, kept)
                print(f"{output.name}: {len(done.scheme.kept_float)} quantizers in float", file=sys.stderr)
            if done.losses:
                before, after = done.losses
                print(f"{output.name}: a loss of {after:.4f}, {before:.4f} before", file=sys.stderr, flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            export(ExportSpec(str(done.path), _SHAPES), output)
    return output


if __name__ == "__main__":
    sys.exit(main())
