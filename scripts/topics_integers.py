"""Fine-tune checkpoints of topics.py for integers alone (I-BERT), and print how well they answer held-out rows.

Each is calibrated with the passages that it was trained on, and then trained on them once more with I-BERT's rounding
in it. Both are exported for the CPU, and their programs answer the rows that are held out. What was made once is kept
and found again.

Examples:
    python scripts/topics_integers.py
    python scripts/topics_integers.py --seed 0
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from demo import sample_checkpoint
from topics import FOLDER, SEEDS
from topics_scores import accuracy, load
from topics_tasks import read
from topics_training import Recipe, fine_tune, trained
from transformers.utils import logging as transformers_logging

from neuronbert import (
    ExportSpec,
    QuantizationPlan,
    StaticShape,
    export,
    quantize,
    save_quantized,
    tokenization,
    trainable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from topics_tasks import Dataset

TASK: Final = "sections-128"
RECIPE: Final = Recipe(steps=32, rate=5e-5, head=1.0)
"""Three fifths of the rows once, at a quarter of the learning rate that the checkpoint was trained with."""
KINDS: Final = ("float", "calibrated", "fine-tuned")


def main() -> int:
    """Make what isn't there yet, score it, and print a table in Markdown."""
    options = _options()
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    tokenizer = tokenization.require(sample_checkpoint())
    dataset = read(TASK, tokenizer)
    seeds = options.seed or SEEDS
    rows = [_scores(dataset, tokenizer, seed, options.folder.expanduser()) for seed in seeds]
    print("|", " | ".join([f"accuracy on {TASK}", *(f"seed {seed}" for seed in seeds), "mean"]), "|")
    print("|", " | ".join(["---"] * (len(seeds) + 2)), "|")
    for kind in KINDS:
        found = [row[kind] for row in rows]
        print("|", " | ".join([kind, *(f"{100 * score:.1f} %" for score in (*found, statistics.mean(found)))]), "|")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", action="append", type=int, help="of this one alone (default: 0, 1 and 2)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where checkpoints lie (default: {FOLDER})")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    return parser.parse_args()


def _scores(dataset: Dataset, tokenizer: Any, seed: int, folder: Path) -> dict[str, float]:
    source = trained(TASK, seed, sample_checkpoint(), folder)
    calibrated = _kept(folder / f"{TASK}-ibert-seed{seed}", lambda path: _calibrate(dataset, source, path))
    tuned = _kept(
        folder / f"{TASK}-ibert-tuned-seed{seed}", lambda path: _tune(dataset, tokenizer, seed, calibrated, path)
    )
    folders = dict(zip(KINDS, (source, _compiled(calibrated), _compiled(tuned)), strict=True))
    found = {kind: accuracy(load(dataset, path), dataset, tokenizer) for kind, path in folders.items()}
    print(f"seed {seed}:", ", ".join(f"{kind} {score:.1%}" for kind, score in found.items()), file=sys.stderr)
    return found


def _calibrate(dataset: Dataset, source: Path, path: Path) -> None:
    quantize(str(source), path, [row["text"] for row in dataset.train], QuantizationPlan(quantization="ibert"))


def _tune(dataset: Dataset, tokenizer: Any, seed: int, calibrated: Path, path: Path) -> None:
    model = trainable(calibrated)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # rounding is noise enough
    save_quantized(fine_tune(model, tokenizer, dataset, RECIPE, seed), calibrated, path)


def _compiled(checkpoint: Path) -> Path:
    spec = ExportSpec(str(checkpoint), (StaticShape(8, 128),), target="cpu")
    return _kept(checkpoint.with_name(f"{checkpoint.name}-program"), lambda path: export(spec, path))


def _kept(path: Path, make: Callable[[Path], object]) -> Path:
    if not path.exists():
        make(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
