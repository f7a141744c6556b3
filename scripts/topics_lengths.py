"""Train the passages' checkpoint to answer as it does at full length when it drops tokens, in pieces.

It goes on from the checkpoint of `topics.py --task sections-384`, which stays as it is and is the teacher: what is
learned are its answers to texts without labels, with a configuration that drops more than half of the work in every
other step, and with others in between. Where it was ended it goes on when it is started again; any pieces give the same
weights, on the same machine with as many threads. Some blocks of text are kept apart for `neuronbert search-lengths`:
of rows that it was trained on a model is surer than of others.

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
from math import ceil
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
from topics_text import blocks
from topics_training import CLASSES, NOTE, optimizer_of, owned, trained
from topics_unlabelled import Passages
from torch.nn.functional import kl_div, log_softmax
from transformers.utils import logging as transformers_logging

from neuronbert import adapt_lengths, tokenization
from neuronbert.staging import staged

if TYPE_CHECKING:
    from torch import Tensor

    from neuronbert.adaptive.configuration import Lengths

TASK: Final = "sections-384"
LENGTH: Final = 384
APART: Final = 5
"""One of so many blocks is kept apart."""
_STATE: Final = "lengths.state"
_SAVED: Final = 50
"""Steps after which the state is written."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How it is trained.

    Attributes:
        steps: Of the optimizer.
        batch: Passages of a step.
        rate: The highest learning rate; it falls along a cosine.
        lengths: The configuration of every other step.
        drop: In the steps between, the share of its tokens that a layer drops at most; how much is drawn for each.
        layers: Those after which the first token's state is to be the teacher's, besides the answer.
    """

    steps: int = 2000
    batch: int = 8
    rate: float = 1e-4
    lengths: Lengths = (256, 220, 180, 140, 100, 2)
    drop: float = 0.4
    layers: tuple[int, ...] = (3, 4, 5, 6)


RECIPE: Final = Recipe()


def main() -> int:
    """Write the rows, or train; print where the checkpoint is once it is whole."""
    options = _options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    sample = sample_checkpoint()
    tokenizer = tokenization.require(sample)
    pages, apart = split(tokenizer)
    if options.write_data:
        options.write_data.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read(TASK, tokenizer).train if any(row["text"] in text for text in apart)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.write_data / f"{TASK}-apart.jsonl").write_text(lines, encoding="utf-8")
        print(f"{TASK}: {len(pages)} blocks to train on, {len(rows)} rows of {len(apart)} kept apart")
        return 0
    folder = options.folder.expanduser()
    start = trained(TASK, options.seed, sample, folder)
    output = folder / f"{TASK}-lengths-seed{options.seed}"
    until = time.monotonic() + 60 * options.minutes
    if not is_whole(output, start, options.seed):
        passages = Passages(tokenizer, pages, LENGTH)
        if not train(passages, start, output, options.seed, until):
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


def split(tokenizer: Any) -> tuple[list[str], list[str]]:
    """The blocks that aren't held out: those to train on, and those that are kept apart for the search."""
    texts = [block.text for block in blocks(tokenizer) if not block.held_out]
    apart = texts[APART - 1 :: APART]
    return [text for text in texts if text not in apart], apart


def is_whole(output: Path, start: Path, seed: int) -> bool:
    """Whether the checkpoint is there, made from this one in this way."""
    note = output / NOTE
    return note.is_file() and json.loads(note.read_text(encoding="utf-8")) == _note(start, seed)


def _note(start: Path, seed: int) -> dict[str, Any]:
    weights = hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()
    recipe = json.loads(json.dumps(asdict(RECIPE)))
    return {"task": TASK, "seed": seed, "start": weights, "recipe": recipe, "apart": APART}


def train(passages: Passages, start: Path, output: Path, seed: int, until: float) -> bool:
    """Train from where it was ended, until the checkpoint is written or the time is over; whether it is written."""
    kind = CLASSES["text-classification"]
    teacher, model = kind.from_pretrained(start).eval(), adapt_lengths(kind.from_pretrained(start)).eval()
    optimizer = optimizer_of(model, RECIPE.rate, 1.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, RECIPE.steps // 20, RECIPE.steps)
    state, note = output.with_name(f"{output.name}.{_STATE}"), _note(start, seed)
    parts = (model, optimizer, schedule)
    for step in range(_load(state, note, parts) + 1, RECIPE.steps + 1):
        chance = Random(f"{seed}/{step}")  # what a step draws at random doesn't depend on where it went on
        loss = distance(model, teacher, passages.draw(RECIPE.batch, chance), lengths_of(step, chance))
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
        model.base_model.set_length_config(None)
        model.save_pretrained(new)
        tokenization.require(start).save_pretrained(new)
        (new / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    state.unlink(missing_ok=True)
    return True


def lengths_of(step: int, chance: Random) -> Lengths:
    """The configuration that a step runs with."""
    if step % 2:
        return RECIPE.lengths
    found, length = [], LENGTH
    for _ in RECIPE.lengths:
        length = chance.randint(max(2, ceil(length * (1 - RECIPE.drop))), length)
        found.append(length)
    return tuple(found)


def distance(model: Any, teacher: Any, ids: Tensor, lengths: Lengths) -> Tensor:
    """How far a model that drops tokens is from its teacher: in its answers, and in the first token's states.

    Args:
        model: It learns.
        teacher: It doesn't.
        ids: Rows without padding, of shape (rows, length).
        lengths: The model's configuration.
    """
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "output_hidden_states": True}
    with torch.no_grad():
        wanted = teacher(**call)
    found = model(**call, length_config=lengths)
    answers = [log_softmax(outputs.logits, dim=-1) for outputs in (found, wanted)]
    states = [[outputs.hidden_states[layer][:, 0] for layer in RECIPE.layers] for outputs in (found, wanted)]
    apart = [(own - other).square().mean() / other.var() for own, other in zip(*states, strict=True)]
    return kl_div(*answers, log_target=True, reduction="batchmean") + torch.stack(apart).sum() / 2


def _save(path: Path, note: dict[str, Any], parts: Any, step: int) -> None:
    held = {"note": json.dumps(note), "step": step, "parts": [part.state_dict() for part in parts]}
    torch.save(held, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _load(path: Path, note: dict[str, Any], parts: Any) -> int:
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
