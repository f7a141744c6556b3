"""Measure what the tolerances of neuronbert/compare.py are set from: python scripts/tolerances.py (about five minutes).

Every head over the real encoder (all-MiniLM-L6-v2, heads at random), every auto-cast, compared with fp32.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from pathlib import Path

import transformers
from demo import sample_checkpoint

from neuronbert import ExportSpec, StaticShape, export, validate
from neuronbert.architectures import ARCHITECTURES
from neuronbert.spec import AUTO_CAST_TYPES


def save_head(class_name: str, folder: Path) -> None:
    """Save the real encoder with a random head and the real tokenizer."""
    checkpoint = sample_checkpoint()
    getattr(transformers, class_name).from_pretrained(checkpoint).save_pretrained(folder)
    for path in checkpoint.glob("*token*"):
        shutil.copy(path, folder)


def main() -> None:
    """Print a line for each head and auto-cast: worst value, and the limit it is held to."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    casts = [("none", "bf16"), *((mode, dtype) for mode in ("matmul", "all") for dtype in AUTO_CAST_TYPES)]
    print("| task | auto-cast | output | measure | worst | limit |\n|---|---|---|---|---|---|")
    for task, class_name in ARCHITECTURES["bert"].heads.items():
        with tempfile.TemporaryDirectory() as place:
            checkpoint, out = Path(place, "checkpoint"), Path(place, "out")
            save_head(class_name, checkpoint)
            shapes = (StaticShape(2, 64, 4 if task == "multiple-choice" else None),)
            for mode, dtype in casts:
                spec = ExportSpec(str(checkpoint), shapes, task, auto_cast=mode, auto_cast_type=dtype)
                export(spec, out, overwrite=True)
                for output, measure, _ in validate(out, record=False).worst():
                    cells = (
                        task,
                        f"{mode} {dtype}",
                        output,
                        measure.name,
                        f"{measure.value:.3g}",
                        f"{measure.limit:g}",
                    )
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
