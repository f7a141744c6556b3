"""Train the passages' checkpoint to answer as it does at full length when it drops tokens, in pieces.

There are two rounds, each with a checkpoint of its own. The first goes on from that of `topics.py --task sections-384`,
with a configuration that drops more than half of the work in every other step, and with others in between. The second
goes on from the first's, with that configuration alone. What a round begins with stays as it is and is the teacher: its
answers to texts without labels are learned.

Where it was ended it goes on when it is started again; any pieces give the same weights, on the same machine with as
many threads. Some blocks of text are kept apart for `neuronbert search-lengths`: of rows that it was trained on a model
is surer than of others.

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
from topics_unlabelled import Passages, docstrings
from torch.nn.functional import kl_div, log_softmax
from transformers.utils import logging as transformers_logging

from neuronbert import adapt_lengths, tokenization
from neuronbert.staging import staged

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """How a round trains.

    Attributes:
        name: What its checkpoint is called, besides task and seed.
        steps: Of the optimizer.
        batch: Passages of a step.
        rate: The highest learning rate; it falls along a cosine.
        lengths: The configuration of every step, or of every other one.
        drop: In the steps between, the share of its tokens that a layer drops at most; how much is drawn for each. None
            if there are none.
        layers: Those after which the first token's state is to be the teacher's, besides the answer.
    """

    name: str
    steps: int
    drop: float | None
    batch: int = 8
    rate: float = 1e-4
    lengths: Lengths = (252, 216, 176, 136, 96, 2)
    layers: tuple[int, ...] = (3, 4, 5, 6)


ROUNDS: Final = (Recipe("lengths", 2000, 0.4), Recipe("lengths-alone", 1500, None))


def main() -> int:
    """Write the rows, or train; print where the checkpoints are once they are whole."""
    options = _options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    sample = sample_checkpoint()
    tokenizer = tokenization.require(sample)
    pages, apart, held_out = split(tokenizer)
    if options.write_data:
        options.write_data.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read(TASK, tokenizer).train if any(row["text"] in text for text in apart)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.write_data / f"{TASK}-apart.jsonl").write_text(lines, encoding="utf-8")
        print(f"{TASK}: {len(pages)} blocks to train on, {len(rows)} rows of {len(apart)} kept apart")
        return 0
    folder = options.folder.expanduser()
    start = trained(TASK, options.seed, sample, folder)
    until = time.monotonic() + 60 * options.minutes
    passages = Passages(tokenizer, pages, docstrings(unlike=(*apart, *held_out)), LENGTH)
    for recipe in ROUNDS:
        output = folder / f"{TASK}-{recipe.name}-seed{options.seed}"
        whole = is_whole(output, recipe, start, options.seed)
        if not whole and not train(recipe, passages, start, output, options.seed, until):
            print("not done yet: the same command goes on", file=sys.stderr)
            return 1
        print(output)
        start = output
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the checkpoint (default: 0)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where checkpoints lie (default: {FOLDER})")
    parser.add_argument("--write-data", type=Path, metavar="FOLDER", help="only write the rows that are kept apart")
    parser.add_argument("--minutes", type=float, default=60.0, help="end, and go on next time (default: 60)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    return parser.parse_args()


def split(tokenizer: Any) -> tuple[list[str], list[str], list[str]]:
    """The blocks to train on, those that are kept apart for the search, and those that are held out."""
    found = blocks(tokenizer)
    texts = [block.text for block in found if not block.held_out]
    apart = texts[APART - 1 :: APART]
    return [text for text in texts if text not in apart], apart, [block.text for block in found if block.held_out]


def is_whole(output: Path, recipe: Recipe, start: Path, seed: int) -> bool:
    """Whether the checkpoint is there, made from this one in this way."""
    note = output / NOTE
    return note.is_file() and json.loads(note.read_text(encoding="utf-8")) == _note(recipe, start, seed)


def _note(recipe: Recipe, start: Path, seed: int) -> dict[str, Any]:
    weights = hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()
    held = json.loads(json.dumps(asdict(recipe)))
    return {"task": TASK, "seed": seed, "start": weights, "recipe": held, "apart": APART}


def train(recipe: Recipe, passages: Passages, start: Path, output: Path, seed: int, until: float) -> bool:
    """Train from where it was ended, until the checkpoint is written or the time is over; whether it is written."""
    kind = CLASSES["text-classification"]
    teacher, model = kind.from_pretrained(start).eval(), adapt_lengths(kind.from_pretrained(start)).eval()
    optimizer = optimizer_of(model, recipe.rate, 1.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, recipe.steps // 20, recipe.steps)
    state, note = output.with_name(f"{output.name}.{_STATE}"), _note(recipe, start, seed)
    parts = (model, optimizer, schedule)
    for step in range(_load(state, note, parts) + 1, recipe.steps + 1):
        chance = Random(
            f"{recipe.name}/{seed}/{step}"
        )  # what a step draws at random doesn't depend on where it went on
        ids = passages.draw(recipe.batch, chance)
        loss = distance(model, teacher, ids, lengths_of(recipe, step, chance), recipe.layers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"step {step} of {recipe.steps}, loss {loss:.3f}", file=sys.stderr, flush=True)
        late = time.monotonic() >= until
        if step % _SAVED == 0 or late:
            _save(state, note, parts, step)
        if late and step < recipe.steps:
            return False
    with staged(output, owned=owned, overwrite=True) as new:
        model.base_model.set_length_config(None)
        model.save_pretrained(new)
        tokenization.require(start).save_pretrained(new)
        (new / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    state.unlink(missing_ok=True)
    return True


def lengths_of(recipe: Recipe, step: int, chance: Random) -> Lengths:
    """The configuration that a step runs with."""
    if recipe.drop is None or step % 2:
        return recipe.lengths
    found, length = [], LENGTH
    for _ in recipe.lengths:
        length = chance.randint(max(2, ceil(length * (1 - recipe.drop))), length)
        found.append(length)
    return tuple(found)


def distance(model: Any, teacher: Any, ids: Tensor, lengths: Lengths, layers: Sequence[int]) -> Tensor:
    """How far a model that drops tokens is from its teacher: in its answers, and in the first token's states.

    Args:
        model: It learns.
        teacher: It doesn't.
        ids: Rows without padding, of shape (rows, length).
        lengths: The model's configuration.
        layers: Those after which the first token's states are compared.
    """
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "output_hidden_states": True}
    with torch.no_grad():
        wanted = teacher(**call)
    found = model(**call, length_config=lengths)
    answers = [log_softmax(outputs.logits, dim=-1) for outputs in (found, wanted)]
    states = [[outputs.hidden_states[layer][:, 0] for layer in layers] for outputs in (found, wanted)]
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
