"""What dropping tokens gives on passages of 384 tokens: time against our own full-length fp32 program, and accuracy.

The checkpoint is that of `topics.py --task sections-384`, or another of its size; configurations are of a search
front. All programs run in turn in one process, transformers in one of its own; a ratio is of two times of one round,
and the median of rounds is printed with its extremes.

Examples:
    python scripts/bench_lengths.py --search out/lengths/front.json --speedup 2.0
    python scripts/bench_lengths.py --search out/lengths/front.json --model trained/ --int8 trained-int8/ \
        --peers .venv-peers/bin/python
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from bench_peers import Peer
from bench_tools import over, programs, take_turns, timer, without_grad
from demo import sample_checkpoint
from topics import FOLDER
from topics_scores import accuracy, load
from topics_tasks import read
from topics_training import trained

from neuronbert import ExportSpec, StaticShape, export, tokenization
from neuronbert.adaptive.configuration import Lengths, parse, scale, spell
from neuronbert.adaptive.cost import EncoderSize
from neuronbert.adaptive.search import read_front
from neuronbert.inputs import example

TASK: Final = "sections-384"
LENGTH: Final = 384
SIZE: Final = EncoderSize(6, 384, 1536)
"""That of all-MiniLM-L6-v2."""
_ROWS: Final = 8
"""Of the program that accuracy is taken with, as the scores are."""


def main() -> int:
    """Export what is asked for, measure it, and print a line for each configuration."""
    options = _options()
    torch.set_num_threads(options.threads)
    found: dict[str, Lengths | None] = {"full length": None}
    found |= {spell(lengths): lengths for lengths in (parse("--lengths", given) for given in options.lengths)}
    if options.search:
        front = read_front(options.search)
        points = [front.at_least(speedup) for speedup in options.speedup] if options.speedup else front.front
        scaled = [scale(point.length_config, front.plan.sequence_length, LENGTH) for point in points]
        found |= {spell(lengths): lengths for lengths in scaled if lengths != (LENGTH,) * SIZE.layers}
    checkpoint = options.model or trained(TASK, options.seed, sample_checkpoint(), FOLDER.expanduser())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shapes = (StaticShape(1, LENGTH), *((StaticShape(_ROWS, LENGTH),) if options.accuracy else ()))
        made = {name: _export(checkpoint, shapes, lengths, Path(folder)) for name, lengths in found.items()}
        if options.int8:
            made |= {f"int8 {name}": _export(options.int8, shapes, found[name], Path(folder)) for name in found}
        right = _accuracies(made) if options.accuracy else {}
        candidates = {name: _candidate(artifact, shapes[0]) for name, artifact in made.items()}
        if options.peers:
            peer = stack.enter_context(Peer(options, "eager", checkpoint))
            candidates["eager"] = _eager(peer, made["full length"], shapes[0], Path(folder))
        taken = take_turns(candidates, options.rounds, options.seconds)
    for name in made:
        print(_line(name, found[name.removeprefix("int8 ")], taken, right), flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--search", type=Path, help="a front.json; without it only the full length is measured")
    parser.add_argument(
        "--speedup", action="append", type=float, help="only its best that is so much faster; may be given again"
    )
    parser.add_argument("--lengths", action="append", default=[], help="this configuration, too; may be given again")
    parser.add_argument("--model", type=Path, help="this checkpoint of MiniLM's size, in place of a trained one")
    parser.add_argument("--int8", type=Path, help="that checkpoint, quantized: measure its programs, too")
    parser.add_argument("--peers", type=Path, help="the Python of the peers' environment: measure transformers, too")
    parser.add_argument("--seed", type=int, default=0, help="of the trained checkpoint (default: 0)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measuring (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each program in a round (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument(
        "--no-accuracy", dest="accuracy", action="store_false", help="leave out the rows that are held out"
    )
    return parser.parse_args()


def _export(checkpoint: Path, shapes: tuple[StaticShape, ...], lengths: Lengths | None, folder: Path) -> Any:
    spec = ExportSpec(str(checkpoint), shapes, target="cpu", auto_cast="none", length_config=lengths or ())
    return export(spec, tempfile.mkdtemp(dir=folder))


def _candidate(artifact: Any, shape: StaticShape) -> Any:
    program, given = programs(artifact)[shape], example(artifact.manifest.inputs, shape)
    return timer(without_grad(lambda: program(*given)))


def _eager(peer: Peer, artifact: Any, shape: StaticShape, folder: Path) -> Any:
    """Transformers' encoder on the same row, in fp32."""
    specs = artifact.manifest.inputs
    named = zip((spec.name for spec in specs), map(np.asarray, example(specs, shape)), strict=True)
    np.savez(folder / "row.npz", **dict(named))
    peer.load("row", folder / "row.npz")
    return peer.candidate("row")


def _accuracies(made: dict[str, Any]) -> dict[str, float]:
    tokenizer = tokenization.require(sample_checkpoint())
    dataset = read(TASK, tokenizer)
    return {name: accuracy(load(dataset, artifact.path), dataset, tokenizer) for name, artifact in made.items()}


def _line(name: str, lengths: Lengths | None, taken: dict[str, list[float]], right: dict[str, float]) -> str:
    macs = SIZE.macs(LENGTH) / SIZE.macs(LENGTH, lengths)
    ratios = over(taken["full length"], taken[name])
    said = f"{name}: {1e3 * statistics.median(taken[name]):.1f} ms, {_spread(ratios)}, {macs:.2f} x fewer multiply-adds"
    if not name.startswith("int8"):
        said += f", {statistics.median(ratios) / macs:.2f} of that"
    if "eager" in taken:
        said += f", {_spread(over(taken['eager'], taken[name]))} against transformers"
    return f"{said}, accuracy {right[name]:.1%} ({right[name] - right['full length']:+.1%})" if right else said


def _spread(ratios: tuple[float, ...]) -> str:
    return f"{statistics.median(ratios):.2f} x [{min(ratios):.2f} x .. {max(ratios):.2f} x]"


if __name__ == "__main__":
    sys.exit(main())
