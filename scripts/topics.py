"""Fine-tune all-MiniLM-L6-v2 on tasks of Python's own documentation, and print how well it answers held-out rows.

The tasks are explained in topics_tasks.py. A checkpoint that was trained once is kept and found again; its folder is
what `neuronbert export --model` takes.

Examples:
    python scripts/topics.py --task sections-128 --seed 0
    python scripts/topics.py --task sections-128 --model artifact/
    python scripts/topics.py --write-data out/topics
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from demo import sample_checkpoint
from topics_scores import load, scores
from topics_tasks import NAMES, read, write
from topics_training import trained
from transformers.utils import logging as transformers_logging

from neuronbert import tokenization

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path("~/.cache/neuronbert-bench/topics")
SEEDS: Final = (0, 1, 2)


def main() -> int:
    """Train what isn't there yet, score it, and print a line or an object for each."""
    options = _options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    if options.write_data:
        tokenizer = tokenization.require(sample_checkpoint())
        for name in options.task or NAMES:
            dataset = read(name, tokenizer)
            write(dataset, options.write_data)
            print(dataset.summary)
        return 0
    found = []
    for row in _measure(options):
        found.append(row)
        if not options.json:
            print(_line(row), flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", action="append", choices=NAMES, help="of this task; may be given again")
    parser.add_argument("--seed", action="append", type=int, help="train with this seed (default: 0, 1 and 2)")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help=f"where trained checkpoints lie (default: {FOLDER})"
    )
    parser.add_argument("--model", type=Path, help="score this checkpoint or artifact in place of trained ones")
    parser.add_argument("--write-data", type=Path, metavar="FOLDER", help="only write the rows, as JSON Lines")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of lines")
    options = parser.parse_args()
    if options.model and (len(options.task or ()) != 1 or options.seed):
        parser.error("--model takes one --task and no --seed")
    return options


def _measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    sample = sample_checkpoint()
    tokenizer = tokenization.require(sample)
    for name in options.task or NAMES:
        dataset = read(name, tokenizer)
        print(dataset.summary, file=sys.stderr)
        if options.model:
            yield {
                "task": name,
                "model": str(options.model),
                **scores(load(dataset, options.model), dataset, tokenizer),
            }
            continue
        for seed in options.seed or SEEDS:
            folder = trained(name, seed, sample, options.folder.expanduser())
            yield {"task": name, "model": str(folder), **scores(load(dataset, folder), dataset, tokenizer)}


def _line(row: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value:.1%}" for name, value in row.items() if isinstance(value, float))
    return f"{row['task']}: {figures} ({row['model']})"


if __name__ == "__main__":
    sys.exit(main())
