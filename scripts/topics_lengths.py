"""Train the passages' checkpoint to do with fewer tokens (LengthDrop), in pieces, and keep rows apart for the search.

It goes on from the checkpoint of `topics.py --task sections-384`. Where it was ended it goes on when it is started
again; any pieces give the same weights, on the same machine with as many threads. Of the rows to train on, some blocks
of text are kept apart for `neuronbert search-lengths`: of rows that it was trained on a model is surer than of others.

Examples:
    python scripts/topics_lengths.py --write-data out/topics
    python scripts/topics_lengths.py --minutes 14
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers
from demo import sample_checkpoint
from topics import FOLDER
from topics_tasks import read
from topics_training import CLASSES, NOTE, batches, encode, optimizer_of, owned, trained
from transformers.utils import logging as transformers_logging

from neuronbert import LengthDrop, tokenization
from neuronbert.staging import staged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from topics_tasks import Dataset, Row

TASK: Final = "sections-384"
APART: Final = 5
"""One of so many blocks of rows is kept apart."""
_JOINED: Final = 60
"""Characters that a row has in common with the one before it, if they are of one block."""
_OWN: Final = (0.55, 0.9)
"""The share of its own words that a row keeps."""
_STATE: Final = "lengths.state"
_SAVED: Final = 10
"""Steps after which the state is written."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How tokens are dropped in training.

    Attributes:
        steps: Of the optimizer.
        last: The step at which the learning rate, which falls evenly, would be 0.
        batch: Rows of a step.
        rate: The highest learning rate of the encoder.
        head: The head's, over the encoder's.
        drop: The share of its tokens that a layer drops at most.
        sandwiches: Runs of each batch in which layers drop at random.
        whole: Steps on passages as they are. In those that follow, words of another one take the place of some: of what
            it has seen often enough a model is sure, whatever it drops, and nothing is learned from that.
    """

    steps: int = 170
    last: int = 200
    batch: int = 8
    rate: float = 6e-5
    head: float = 5.0
    drop: float = 0.4
    sandwiches: int = 1
    whole: int = 110


RECIPE: Final = Recipe()


def main() -> int:
    """Write the rows, or train; print where the checkpoint is once it is whole."""
    options = _options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    sample = sample_checkpoint()
    dataset = read(TASK, tokenization.require(sample))
    fitted, apart = split(dataset.train)
    if options.write_data:
        options.write_data.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in apart)
        (options.write_data / f"{TASK}-apart.jsonl").write_text(lines, encoding="utf-8")
        print(f"{TASK}: {len(fitted)} rows to train on, {len(apart)} kept apart")
        return 0
    folder = options.folder.expanduser()
    start = trained(TASK, options.seed, sample, folder)
    output = folder / f"{TASK}-lengths-seed{options.seed}"
    until = time.monotonic() + 60 * options.minutes
    if not is_whole(output, start, options.seed) and not train(dataset, start, output, options.seed, until):
        print("not done yet: the same command goes on", file=sys.stderr)
        return 1
    print(output)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the checkpoint (default: 0)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where checkpoints lie (default: {FOLDER})")
    parser.add_argument("--write-data", type=Path, metavar="FOLDER", help="only write the rows that are kept apart")
    parser.add_argument("--minutes", type=float, default=60.0, help="end, and go on next time (default: 60)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    return parser.parse_args()


def split(rows: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows to train on, and rows of other blocks that are kept apart for the search."""
    blocks = list(_blocks(rows))
    sides = (
        tuple(row for place, own in enumerate(blocks) if (place % APART == APART - 1) is kept for row in own)
        for kept in (False, True)
    )
    fitted, apart = sides
    return fitted, apart


def _blocks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    # Passages of one block overlap, those of different blocks have nothing in common.
    own: list[Row] = []
    for row in rows:
        if own and row["text"][:_JOINED] not in own[-1]["text"]:
            yield own
            own = []
        own.append(row)
    yield own


def is_whole(output: Path, start: Path, seed: int) -> bool:
    """Whether the checkpoint is there, made from this one in this way."""
    note = output / NOTE
    return note.is_file() and json.loads(note.read_text(encoding="utf-8")) == _note(start, seed)


def _note(start: Path, seed: int) -> dict[str, Any]:
    weights = hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()
    return {"task": TASK, "seed": seed, "start": weights, "recipe": asdict(RECIPE), "apart": APART}


def train(dataset: Dataset, start: Path, output: Path, seed: int, until: float) -> bool:
    """Train from where it was ended, until the checkpoint is written or the time is over; whether it is written."""
    tokenizer, (rows, _) = tokenization.require(start), split(dataset.train)
    model = CLASSES[dataset.task].from_pretrained(start)
    optimizer = optimizer_of(model, RECIPE.rate, RECIPE.head)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, RECIPE.last // 10, RECIPE.last)
    state, note = output.with_name(f"{output.name}.{_STATE}"), _note(start, seed)
    drop = LengthDrop(model, drop=RECIPE.drop, sandwiches=RECIPE.sandwiches, layer_dropout=0.0).train()
    parts = (model, optimizer, schedule)
    done = _load(state, note, parts)
    for step, chosen in enumerate(batches(rows, RECIPE.steps, RECIPE.batch, seed), start=1):
        if step <= done:
            continue
        torch.manual_seed(1000 * seed + step)  # what a step draws at random doesn't depend on where it went on
        if step > RECIPE.whole:
            chosen = spliced(chosen, rows, Random(f"{seed}/{step}"))
        drop = LengthDrop(model, drop=RECIPE.drop, sandwiches=RECIPE.sandwiches, layer_dropout=0.0, seed=step).train()
        loss = drop(**encode(dataset, tokenizer, chosen)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"step {step} of {RECIPE.steps}, loss {loss:.3f}", file=sys.stderr, flush=True)
        late = time.monotonic() >= until
        if step % _SAVED == 0 or late:
            _save(state, note, parts, step)
        if late and step < RECIPE.steps:
            return False
    with staged(output, owned=owned, overwrite=True) as new:
        model.eval().save_pretrained(new)
        tokenizer.save_pretrained(new)
        (new / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    state.unlink(missing_ok=True)
    return True


def spliced(chosen: Sequence[Row], rows: Sequence[Row], rng: Random) -> list[Row]:
    """Rows with some words of others before or after their own, which stay more than half: their label is right."""
    found = []
    for row in chosen:
        own, other = row["text"].split(), rng.choice(rows)["text"].split()
        count = round(len(own) * rng.uniform(*_OWN))
        kept, added = _stretch(own, count, rng), _stretch(other, len(own) - count, rng)
        found.append({**row, "text": " ".join(kept + added if rng.random() < 0.5 else added + kept)})
    return found


def _stretch(words: list[str], count: int, rng: Random) -> list[str]:
    first = rng.randint(0, max(0, len(words) - count))
    return words[first : first + count]


def _save(path: Path, note: dict[str, Any], parts: Sequence[Any], step: int) -> None:
    held = {"note": json.dumps(note), "step": step, "parts": [part.state_dict() for part in parts]}
    torch.save(held, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _load(path: Path, note: dict[str, Any], parts: Sequence[Any]) -> int:
    """How many steps are done."""
    if not path.is_file():
        return 0
    held = torch.load(path, weights_only=True)
    if held["note"] != json.dumps(note):
        return 0
    for part, state in zip(parts, held["parts"], strict=True):
        part.load_state_dict(state)
    return int(held["step"])


if __name__ == "__main__":
    sys.exit(main())
