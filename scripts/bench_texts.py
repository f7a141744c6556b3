"""The figures of texts of mixed lengths: 512 pieces of Python's own documentation to embeddings, tokenizing included.

Owns: the texts, what runs, and the limits. Everyone gives the same normalized mean of all-MiniLM-L6-v2.
"""

from __future__ import annotations

import json
import math
import random
from contextlib import ExitStack
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any, Final

import torch
from bench_peers import Peer, differ
from bench_tools import Row, over, take_turns, timer

from neuronbert import Predictor, StaticShape, choose_buckets, tokenization

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from bench_tools import Models

PEERS: Final = {"sentence-transformers": "sentence-transformers", "onnxruntime-texts": "ONNX Runtime, sorted by length"}
BUCKETS: Final = {5: 1.15, 16: 1.4}
"""How many buckets are chosen, to how many times as long sentence-transformers must take."""
SORTED: Final = 1.0
"""How many times as long ONNX Runtime must take beside 16 buckets."""
TEXTS: Final = 512
LIMIT: Final = 256
BATCH: Final = 32
MEAN: Final = 60
SPREAD: Final = 0.7
"""Of the logarithm of the lengths."""
ROUNDING: Final = 1e-4


def texts(models: Models, rounds: int) -> list[Row]:
    """Programs of chosen buckets against sentence-transformers and ONNX Runtime."""
    tokenizer = tokenization.require(models.minilm)
    pieces = documentation(tokenizer)
    lengths = [len(ids) for ids in tokenizer(pieces, truncation=True, max_length=LIMIT)["input_ids"]]
    case = models.folder / "texts.json"
    case.write_text(json.dumps(pieces), encoding="utf-8")
    calls = {f"{count} buckets": _encoder(models, choose(lengths, count), pieces) for count in BUCKETS}
    with ExitStack() as stack:
        peers = {kind: stack.enter_context(Peer(models, kind, models.minilm)) for kind in PEERS}
        candidates = {name: timer(call) for name, call in calls.items()}
        answers = {name: call() for name, call in calls.items()}
        for kind, peer in peers.items():
            expected = peer.load("texts", case)
            for name, answer in answers.items():
                differ(f"{PEERS[kind]} beside {name}", answer, expected, ROUNDING)
            candidates[kind] = peer.candidate("texts")
        taken = take_turns(candidates, rounds, models.seconds)
    mean = sum(lengths) / len(lengths)
    rows = [Row(f"texts: mean length of {len(lengths)}, longest {max(lengths)}", (mean,), "")]
    for count, limit in BUCKETS.items():
        ours = taken[f"{count} buckets"]
        first = over(taken["sentence-transformers"], ours)
        second = over(taken["onnxruntime-texts"], ours)
        rows += [
            Row(f"texts: {count} buckets", tuple(ours), "s"),
            Row(f"texts: time of sentence-transformers over {count} buckets'", first, "x", limit, at_least=True),
            Row(
                f"texts: time of ONNX Runtime over {count} buckets'",
                second,
                "x",
                SORTED if count == max(BUCKETS) else None,
                at_least=True,
            ),
        ]
    return rows


def documentation(tokenizer: Any) -> list[str]:
    """Pieces of Python's documentation with as many tokens as a log-normal distribution says, seeded."""
    corpus = "\n".join(topics[name] for name in sorted(topics))
    places = tokenizer(corpus, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    chance = random.Random(0)
    pieces, first = [], 0
    for _ in range(TEXTS):
        drawn = chance.lognormvariate(0, SPREAD) * (MEAN - 2) / math.exp(SPREAD**2 / 2)
        length = min(max(1, round(drawn)), LIMIT - 2)
        if first + length >= len(places):
            first = 0
        pieces.append(corpus[places[first][0] : places[first + length - 1][1]])
        first += length
    return pieces


def choose(lengths: Sequence[int], count: int) -> tuple[StaticShape, ...]:
    """The buckets that the library chooses for rows of these lengths."""
    chosen = choose_buckets(lengths, count, batch_size=BATCH)
    return tuple(StaticShape(BATCH, length) for length in chosen.lengths)


def _encoder(models: Models, shapes: Sequence[StaticShape], pieces: list[str]) -> Callable[[], np.ndarray]:
    """The texts to normalized means through our own front door."""
    artifact = models.export(models.minilm, shapes, "none")
    predictor = Predictor.from_pretrained(str(artifact.path))
    rows = [{"text": piece} for piece in pieces]

    def encode() -> np.ndarray:
        replies = predictor.predict(rows, truncate=True)
        return torch.nn.functional.normalize(torch.tensor([reply["embedding"] for reply in replies])).numpy()

    return encode
