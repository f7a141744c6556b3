"""neuronbert quantize."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronbert.errors import InvalidOptionError, MissingOptionError

from .. import _output
from .._options import Json, Revision, Token, check_picture

if TYPE_CHECKING:
    from neuronbert.quantized import Quantized
    from neuronbert.schemes import Descriptor

_SHOWN = 10


def quantize(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or a Hub id.", metavar="MODEL")],
    output: Annotated[Path, typer.Argument(help="The folder to make.", metavar="OUTPUT")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Texts like those to come: .jsonl, .csv or .txt, - for stdin, or the word sample for passages of "
            "Python's own documentation.",
            metavar="FILE",
        ),
    ] = None,
    quantization: Annotated[
        str, typer.Option(help="qdq: 8 bits with float in between. ibert: integers alone, as in I-BERT.")
    ] = "qdq",
    method: Annotated[
        str | None,
        typer.Option(
            help="How ranges are chosen: max, percentile, mse or entropy, of what each place sees; or learned, of what "
            "the model answers, which takes several times as long.",
            show_default="qdq: learned, ibert: mse",
        ),
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(help="The share of values left unclipped, in percent.", show_default="99.99")
    ] = None,
    rows: Annotated[int, typer.Option(help="The most rows that are looked at.")] = 512,
    sequence_length: Annotated[int, typer.Option(help="Their tokens are cut to so many.")] = 128,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(help="A layer or module to leave in float, as layer.0 or layer.*.output.dense.", metavar="NAME"),
    ] = None,
    force_dequant: Annotated[
        str, typer.Option(help="ibert: what stays in float: none, gelu, softmax, layernorm or nonlinear (all three).")
    ] = "none",
    qat_steps: Annotated[
        int, typer.Option(help="Let the weights learn from so many batches to answer as in float; 0 leaves them.")
    ] = 0,
    learn_ranges: Annotated[bool, typer.Option("--learn-ranges", help="Let the ranges learn with them.")] = False,
    sensitivity: Annotated[
        float | None,
        typer.Option(
            help="Measure what each place costs, and propose what to keep in float for no more than this loss of the "
            "last hidden states: 0.01 is a hundredth of their variance.",
            metavar="LOSS",
        ),
    ] = None,
    input_bits: Annotated[
        int,
        typer.Option(help="Bits of the inputs of linear layers, products and sums; other than 8 is simulated only."),
    ] = 8,
    weight_bits: Annotated[
        int, typer.Option(help="Bits of the weights of linear layers; other than 8 is simulated only.")
    ] = 8,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the noise of each place over the layers.", metavar="FILE.svg")
    ] = None,
    revision: Revision = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Calibrate a BERT or RoBERTa for 8 bits, and write the quantized checkpoint.

    Example: neuronbert quantize my-bert/ my-bert-int8/ --data texts.jsonl
    """
    if data is None:
        raise MissingOptionError("--data", "--data texts.jsonl, or --data sample")
    if plot is not None:
        check_picture("--plot", plot)
    with _output.progress() as progress:
        from neuronbert import QuantizationPlan
        from neuronbert import quantize as run

        given: dict[str, Any] = {"method": method, "rows": rows, "sequence_length": sequence_length}
        given |= {"quantization": quantization, "force_dequant": force_dequant}
        given |= {} if percentile is None else {"percentile": percentile}
        given |= {"qat_steps": qat_steps, "learn_ranges": learn_ranges, "sensitivity": sensitivity}
        given |= {"inputs": _bits("--input-bits", input_bits, quantization)}
        given |= {"weights": _bits("--weight-bits", weight_bits, quantization, axis=0)}
        plan = QuantizationPlan(keep_float=tuple(keep_float or ()), **given)
        if plot is not None and plan.keep_float:
            _check_drawn(plot, model, plan.keep_float, revision=revision, token=token)
        done = run(model, output, data, plan, revision=revision, token=token, progress=progress)
    if json_:
        scheme = done.scheme.model_dump(mode="json")
        _output.as_json({**asdict(done), "path": str(done.path), "scheme": scheme})
    else:
        _show(done)
    if plot is not None:
        from neuronbert import pictures
        from neuronbert.quantization import plots

        pictures.save(plots.draw(done.noises, model), plot)
    if sensitivity is not None:
        kept_float = " ".join(f"--keep-float {name}" for name in done.proposed)
        _output.note(f"For a loss of {sensitivity:g} at most: {kept_float or 'nothing has to stay in float'}")
    _output.note(f"Next: neuronbert export --model {shlex.quote(str(done.path))} OUTPUT")


def _check_drawn(plot: Path, model: str, keep_float: tuple[str, ...], **where: Any) -> None:
    """Refuse a picture of nothing before anything is calibrated."""
    from neuronbert import sources
    from neuronbert.quantization import placement

    with sources.opened(model, **where) as (_, checkpoint):
        layers = range(checkpoint.config.get("num_hidden_layers", 12))
    names = [f"layer.{layer}.{site}" for layer in layers for site in placement.SITES]
    left = set(names) - set(placement.select(names, keep_float, "keep_float"))
    if all(name.endswith(placement.WEIGHT) for name in left):
        problem = "left out: all inputs stay in float, so there is no noise to draw"
        raise InvalidOptionError("--plot", str(plot), problem)


def _bits(option: str, bits: int, quantization: str, **kind: Any) -> "Descriptor":
    from neuronbert.schemes import Descriptor

    if quantization == "ibert" and bits != Descriptor().num_bits:
        raise InvalidOptionError(option, bits, "left out: the integers of ibert have no such setting")
    try:
        return Descriptor(num_bits=bits, **kind)
    except ValueError:
        raise InvalidOptionError(option, bits, "from 2 to 16") from None


def _show(done: "Quantized") -> None:
    noisy = sorted(done.noises, key=lambda item: -item.noise)[:_SHOWN]
    if noisy:
        rows = [[i.name, f"{i.range:.4g}", f"{i.largest:.4g}", f"{i.clipped:.4%}", f"{i.noise:.2%}"] for i in noisy]
        _output.table(["noisiest places", "range", "largest", "clipped", "noise"], rows)
    if done.costs:
        _output.table(
            ["costliest places", "loss of each alone"], [[c.name, f"{c.loss:.3g}"] for c in done.costs[:_SHOWN]]
        )
    counted = f"{done.rows} {'row' if done.rows == 1 else 'rows'}"
    _output.data(f"{done.path}: {done.quantizers} ranges, calibrated with {counted}")
    if done.losses:
        before, after = done.losses
        _output.data(f"hidden states move by {after:.2%} of their variance; {before:.2%} before the ranges learned")
