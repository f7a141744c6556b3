"""neuronbert export."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from neuronbert.errors import InvalidOptionError, MissingOptionError
from neuronbert.spec import AUTO_CAST_TYPES, AUTO_CASTS, QUANTIZATIONS

from .. import _buckets, _lengths, _output
from .._lengths import KeepFirst, LayerConfig, LengthConfig, SearchResult, SelectionOption, Speedup
from .._options import BatchSize, Bucket, Json, NumChoices, Revision, SequenceLength, Token, shape_options, words

_NEURON = "Neuron targets"
_FORMATS = ("neuronbert", "onnx")
_OF_ONNX = ("model", "task", "quantization", "revision", "layer_config", "always_keep_cls_token", "selection")
"""What counts for a model.onnx, too; lengths and layers in that they are refused."""


def export(
    output: Annotated[Path, typer.Argument(help="The folder to make.", metavar="OUTPUT")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint folder, a Hub id, or a zip of Megatron-LM.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The head's task; auto reads it off the checkpoint.", show_default="auto")
    ] = None,
    batch_size: BatchSize = None,
    sequence_length: SequenceLength = None,
    num_choices: NumChoices = None,
    bucket: Bucket = None,
    buckets_from: Annotated[
        str | None,
        typer.Option(
            help="Texts like those to come: .jsonl, .csv or .txt, or - for stdin. The sequence lengths that compute "
            "them at the least cost are chosen.",
            metavar="FILE",
        ),
    ] = None,
    max_buckets: Annotated[
        int | None, typer.Option(help="How many sequence lengths to choose at most.", show_default="5")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "--instance-type",
            help="What to compile for: cpu, inf2, trn1, trn1n, trn2, trn3; auto is the device found here, or cpu.",
            show_default="auto",
        ),
    ] = None,
    auto_cast: Annotated[
        str | None, typer.Option(help=f"What is lowered: {', '.join(AUTO_CASTS)}.", show_default="matmul")
    ] = None,
    auto_cast_type: Annotated[
        str | None, typer.Option(help=f"To what: {', '.join(AUTO_CAST_TYPES)}.", show_default="bf16")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help=f"Of a quantized checkpoint: {', '.join(QUANTIZATIONS)}.", show_default="auto: what it is"),
    ] = None,
    dynamic_batch: Annotated[
        bool | None, typer.Option("--dynamic-batch", "--dynamic-batch-size", help="Take any number of rows.")
    ] = None,
    optlevel: Annotated[
        str | None,
        typer.Option("--optlevel", "-O", help="1, 2 or 3.", show_default="2", rich_help_panel=_NEURON),
    ] = None,
    lnc: Annotated[
        int | None, typer.Option(help="Physical cores to a logical one, on Trn2 and Trn3.", rich_help_panel=_NEURON)
    ] = None,
    compiler_args: Annotated[
        str | None, typer.Option(help="More flags for neuronx-cc, in quotes.", rich_help_panel=_NEURON)
    ] = None,
    inline_weights: Annotated[
        bool | None,
        typer.Option(
            "--inline-weights/--no-inline-weights",
            "--inline-weights-neff",
            help="Keep the weights inside the NEFF.",
            show_default="inline",
            rich_help_panel=_NEURON,
        ),
    ] = None,
    lazy_load: Annotated[
        bool | None, typer.Option("--lazy-load", help="Load at the first call.", rich_help_panel=_NEURON)
    ] = None,
    async_load: Annotated[
        bool | None, typer.Option("--async-load", help="Load in the background.", rich_help_panel=_NEURON)
    ] = None,
    compiler_workdir: Annotated[
        Path | None, typer.Option(help="Keep the compiler's files here.", rich_help_panel=_NEURON)
    ] = None,
    length_config: LengthConfig = None,
    speedup: Speedup = None,
    search: SearchResult = None,
    layer_config: LayerConfig = None,
    always_keep_cls_token: KeepFirst = None,
    selection: SelectionOption = None,
    format_: Annotated[
        str, typer.Option("--format", help="neuronbert, or onnx: a model.onnx of any batch and sequence, no artifact.")
    ] = "neuronbert",
    recipe: Annotated[Path | None, typer.Option(help="A TOML file with these options; given ones win.")] = None,
    allow_random_weights: Annotated[
        bool, typer.Option("--allow-random-weights", help="Initialise a head that the checkpoint lacks.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            " /--disable-neuron-cache",
            help="Copy programs that were compiled before from the cache.",
        ),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact that is there.")] = False,
    disable_validation: Annotated[bool, typer.Option("--disable-validation", hidden=True)] = False,
    cache_dir: Annotated[str | None, typer.Option("--cache-dir", hidden=True)] = None,
    revision: Revision = None,
    token: Token = None,
    json_: Json = False,
) -> None:
    """Compile a checkpoint for static shapes.

    Example: neuronbert export --model my-bert/ --task fill-mask --batch-size 1 --sequence-length 128 out/

    With buckets for texts of mixed lengths: neuronbert export --model my-bert/ --buckets-from texts.jsonl out/

    Twice as fast by dropping tokens: neuronbert export --model my-bert/ --speedup 2.0 --search found/front.json out/
    """
    # Two more that optimum-cli has. An export is never validated here, so who asks for that has it already.
    del disable_validation
    if cache_dir is not None:
        raise InvalidOptionError("--cache-dir", cache_dir, "left out: HF_HUB_CACHE says where downloads are kept")
    _check_format(format_)
    sizes = shape_options(bucket, batch_size, sequence_length, num_choices)
    sample = _buckets.Sample.of(buckets_from, max_buckets, sizes)
    given = {
        "model": model,
        "task": task,
        "target": target,
        "auto_cast": auto_cast,
        "auto_cast_type": auto_cast_type,
        "quantization": quantization,
        "revision": revision,
        "dynamic_batch": dynamic_batch,
        "optlevel": optlevel,
        "lnc": lnc,
        "compiler_args": None if compiler_args is None else words("--compiler-args", compiler_args),
        "inline_weights": inline_weights,
        "lazy_load": lazy_load,
        "async_load": async_load,
        "compiler_workdir": None if compiler_workdir is None else str(compiler_workdir),
        **_lengths.options(layer_config, always_keep_cls_token, selection),
    }
    if format_ == "onnx":
        others = {"buckets_from": buckets_from, "force": force or None}
        _check_onnx({**given, **others, "no_cache": None if cache else True})
    with _output.progress() as progress:
        from neuronbert import recipes

        options = _buckets.merged(recipes.load(recipe) if recipe else {}, sizes)
        options |= {name: value for name, value in given.items() if value is not None}
        asked = _lengths.Asked.of(length_config, speedup, search, options)
        spec = _spec(options, allow_random_weights)
        choice = _buckets.choose(sample, spec, token, progress) if sample else None
    if format_ == "onnx":
        _export_onnx(asked.applied(spec), output, token, json_)
        return
    if choice:
        spec = choice.spec
        if not json_:
            choice.show()
    spec = asked.applied(spec)
    with _output.progress() as progress:
        from neuronbert import export as run

        artifact = run(spec, output, overwrite=force, token=token, cache=cache, progress=progress)
    if json_:
        chosen = {"buckets": choice.as_json()} if choice else {}
        _output.as_json({"path": str(artifact.path), **artifact.manifest.model_dump(mode="json"), **chosen})
    else:
        _say(artifact)


def _say(artifact: Any) -> None:
    manifest = artifact.manifest
    shapes = ", ".join(shape.name for shape in manifest.shapes)
    _output.data(f"{artifact.path}: {manifest.source.class_name} for {manifest.target}, {shapes}")
    if manifest.source.random_weights:
        _output.note(f"{len(manifest.source.random_weights)} weights are random: the checkpoint has no such head.")
    if manifest.backend == "torchneuron":
        _output.note("Nothing is compiled yet: it was exported for TorchNeuron, which compiles where it is loaded.")
    where = "" if manifest.target == "cpu" else f", on an instance of type {manifest.target}"
    _output.note(f"Next{where}: neuronbert validate {shlex.quote(str(artifact.path))}")


def _check_format(name: str) -> None:
    if name not in _FORMATS:
        raise InvalidOptionError("--format", name, "one of " + ", ".join(map(repr, _FORMATS)))


def _check_onnx(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None and name not in _OF_ONNX:
            expected = (
                "left out with --format onnx: that file is of any shape, and neither compiled, cached nor replaced"
            )
            raise InvalidOptionError("--" + name.replace("_", "-"), value, expected)


def _export_onnx(spec: Any, output: Path, token: str | None, as_json: bool) -> None:
    with _output.progress() as progress:
        from neuronbert import export_onnx

        path = export_onnx(spec, output, token=token, progress=progress)
    if as_json:
        _output.as_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        _output.data(f"{path}: {path.stat().st_size} bytes")


def _spec(options: dict[str, Any], allow_random_weights: bool) -> Any:
    from neuronbert.spec import ExportSpec

    if "model" not in options:
        raise MissingOptionError("--model", "--model my-checkpoint/")
    return ExportSpec(shapes=_buckets.shapes(options), allow_random_weights=allow_random_weights, **options)
