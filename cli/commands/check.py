"""neuronbert check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from .. import _lengths, _output
from .._buckets import shapes
from .._lengths import KeepFirst, LayerConfig, LengthConfig, SearchResult, SelectionOption, Speedup
from .._options import BatchSize, Bucket, Json, NumChoices, Revision, SequenceLength, Token, shape_options

if TYPE_CHECKING:
    from neuronbert import PreflightReport


_Model = Annotated[str, typer.Argument(help="A checkpoint folder, a Hub id, or a zip of Megatron-LM.", metavar="MODEL")]
_Target = Annotated[
    str,
    typer.Option("--target", "--instance-type", help="inf2, trn1, trn1n, trn2, trn3; auto is the one found here."),
]
_Task = Annotated[str, typer.Option(help="The head's task; auto reads it off the checkpoint.")]
_Lnc = Annotated[int | None, typer.Option(help="Physical cores to a logical one on Trn2 and Trn3: 1 or 2.")]
_Python = Annotated[
    Path | None,
    typer.Option(help="A Python with torch and torch_xla 2.9, to lower the programs to HLO; else this one's."),
]
_RandomWeights = Annotated[
    bool, typer.Option("--allow-random-weights", help="Initialise a head that the checkpoint lacks.")
]


def check(
    model: _Model,
    target: _Target,
    task: _Task = "auto",
    batch_size: BatchSize = None,
    sequence_length: SequenceLength = None,
    num_choices: NumChoices = None,
    bucket: Bucket = None,
    lnc: _Lnc = None,
    length_config: LengthConfig = None,
    speedup: Speedup = None,
    search: SearchResult = None,
    layer_config: LayerConfig = None,
    always_keep_cls_token: KeepFirst = None,
    selection: SelectionOption = None,
    hlo_python: _Python = None,
    allow_random_weights: _RandomWeights = False,
    revision: Revision = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Look for what the Neuron compiler is documented to refuse or to get wrong, without it; exit 1 if there is any.

    It can't tell that something will compile.

    Example: neuronbert check my-bert/ --task fill-mask --sequence-length 128 --target inf2

    What drops tokens: neuronbert check my-bert/ --target inf2 --length-config "(96, 80, 64, 48, 40, 32)"
    """
    lengths = _lengths.options(layer_config, always_keep_cls_token, selection)
    asked = _lengths.Asked.of(length_config, speedup, search, {})
    with _output.progress() as progress:
        from neuronbert import check as run
        from neuronbert.spec import ExportSpec

        spec = ExportSpec(
            model=model,
            shapes=shapes(shape_options(bucket, batch_size, sequence_length, num_choices)),
            task=task,
            revision=revision,
            target=target,
            allow_random_weights=allow_random_weights,
            lnc=cast("Literal[1, 2] | None", lnc),  # the spec refuses the rest
            **{name: value for name, value in lengths.items() if value is not None},
        )
        python = None if hlo_python is None else str(hlo_python)
        found = run(asked.applied(spec), hlo_python=python, token=token, progress=progress)
    _print(found, as_json=json_)
    found.raise_if_failed()


def _print(found: "PreflightReport", *, as_json: bool) -> None:
    if as_json:
        from neuronbert.preflight.report import to_json

        _output.data(to_json(found).rstrip())
    else:
        _show(found)


def _show(found: "PreflightReport") -> None:
    rows = [
        [
            program.name,
            str(program.operations),
            "" if program.hlo_operations is None else str(program.hlo_operations),
            f"{program.flops / 1e9:.3f}",
            f"{program.weights_bytes / 1e6:.1f}",
            f"{program.io_bytes / 1e6:.1f}",
            f"{program.peak_bytes / 1e6:.1f}",
            f"{program.intensity:.1f}",
        ]
        for program in found.programs
    ]
    if rows:
        columns = ["shape", "operators", "HLO", "GFLOP", "weights MB", "in and out MB", "between MB", "FLOP/byte"]
        _output.table(columns, rows)
    for finding in found.findings:
        _output.note(f"{finding.code}: {finding.program}, {finding.graph}: {finding.problem}. {finding.fix}.")
        _output.note(f"  {finding.page}")
    if found.not_lowered:
        _output.note(f"Not lowered to HLO: {found.not_lowered.rstrip('.')}.")
    tools = ", ".join(f"{name} {version}" for name, version in found.lowered_by.items())
    _output.data(f"{found.target}: {found.verdict}" + (f", by {tools}" if found.passed and found.lowered else ""))
