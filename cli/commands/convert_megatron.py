"""neuronbert convert-megatron."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import _output
from .._options import Json


def convert_megatron(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="The zip that NVIDIA publishes, a folder of Megatron-LM, or one file.", metavar="CHECKPOINT"
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The folder to make.", metavar="OUTPUT")],
    num_attention_heads: Annotated[
        int | None, typer.Option(help="Needed where the checkpoint doesn't say it and isn't of the 345M size.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(help="The vocabulary, one token a line.", show_default="*vocab*.txt beside it")
    ] = None,
    json_: Json = False,
) -> None:
    """Convert a MegatronBERT checkpoint to one that transformers and export read.

    Example: neuronbert convert-megatron megatron_bert_345m_v0_1_cased.zip megatron-bert/ --vocab vocab.txt
    """
    with _output.bar("converting") as progress:
        from neuronbert import convert_megatron as run

        done = run(checkpoint, output, num_attention_heads=num_attention_heads, vocab=vocab, progress=progress)
    if json_:
        _output.as_json({**asdict(done), "path": str(done.path)})
    else:
        shards = f"{done.ranks} x {done.stages} shards of version {done.version:g}"
        _output.data(f"{done.path}: {done.class_name}, {done.weights_bytes} bytes of weights from {shards}")
    for note in done.notes:
        _output.note(note)
    _output.note(f"Next: neuronbert export --model {shlex.quote(str(done.path))} OUTPUT")
