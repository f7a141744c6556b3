"""neuronbert inspect."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import _output
from .._options import Json

if TYPE_CHECKING:
    from neuronbert.manifest import Manifest
    from neuronbert.neff import Neff

_Target = Annotated[
    Path, typer.Argument(help="An artifact's folder, or one file: a NEFF or a TorchScript archive.", metavar="ARTIFACT")
]


def inspect(artifact: _Target, json_: Json = False) -> None:
    """Show what an artifact holds, after verifying every file of it; nothing is run.

    Of programs for a Neuron device it shows the header of each NEFF; of a file that is no artifact, those alone.

    Example: neuronbert inspect out/
    """
    if artifact.is_file():
        _inspect_file(artifact, json_=json_)
    else:
        _inspect_artifact(artifact, json_=json_)


def _inspect_file(path: Path, *, json_: bool) -> None:
    from neuronbert.neff import find_neffs

    neffs = [(path.name, neff) for neff in find_neffs(path)]
    if json_:
        _output.as_json({"neffs": _records(neffs)})
    elif neffs:
        _neff_table(neffs)
    else:
        _output.note(f"There is no NEFF in {path}.")


def _inspect_artifact(path: Path, *, json_: bool) -> None:
    from neuronbert import Artifact
    from neuronbert.neff import find_neffs

    found = Artifact.open(path)
    report = found.report()
    verdict = "not validated" if report is None else "passed" if report.passed else "failed"
    programs = found.manifest.program_files
    neffs = [(name, neff) for name in programs for neff in find_neffs(found.path / name)]
    if json_:
        facts = {**found.manifest.model_dump(mode="json"), "foreign": found.foreign, "validation": verdict}
        _output.as_json({**facts, "neffs": _records(neffs)})
        return
    for name, value in _facts(found.manifest, verdict).items():
        _output.data(f"{name:<12}{value}")
    _output.data("")
    files = [[name, str(info.size), info.sha256[:16]] for name, info in found.manifest.files.items()]
    _output.table(["file", "bytes", "sha256"], files)
    if neffs:
        _output.data("")
        _neff_table(neffs)
    elif found.manifest.target != "cpu":
        _output.note(f"There is no NEFF in {', '.join(programs)}.")


def _records(neffs: list[tuple[str, "Neff"]]) -> list[dict[str, object]]:
    return [{"file": file, **asdict(neff)} for file, neff in neffs]


def _neff_table(neffs: list[tuple[str, "Neff"]]) -> None:
    columns = ["neff in", "version", "build", "cores", "lnc", "header", "data", "payload", "uuid", "name"]
    rows = []
    for file, neff in neffs:
        header = neff.header
        version = f"{header.neff_version_major}.{header.neff_version_minor}"
        numbers = (header.num_tpb, header.lnc_size, header.header_size, header.data_size)
        texts = (neff.payload, header.uuid, header.name)
        rows.append([file, version, header.neff_build_version, *map(str, numbers), *texts])
    _output.table(columns, rows)


def _facts(manifest: "Manifest", verdict: str) -> dict[str, str]:
    source, compiler = manifest.source, manifest.compiler
    inputs = (f"{spec.name} {spec.dtype} 0..{spec.maximum}" for spec in manifest.inputs)
    outputs = (f"{spec.name} {spec.dtype} [{', '.join(spec.dims)}]" for spec in manifest.outputs)
    cast = "none" if compiler.auto_cast == "none" else f"{compiler.auto_cast} to {compiler.auto_cast_type}"
    return {
        "task": manifest.task,
        "model": f"{source.class_name} of {source.model}" + (f" at {source.revision}" if source.revision else ""),
        "weights": f"sha256 {source.weights_sha256}" if source.weights_sha256 else "not recorded",
        "target": f"{manifest.target}, by {compiler.name}, "
        + ", ".join(f"{name} {version}" for name, version in compiler.versions.items()),
        "auto-cast": cast,
        **({} if manifest.quantization == "none" else {"quantization": manifest.quantization}),
        "shapes": ", ".join(shape.name for shape in manifest.shapes),
        "inputs": "; ".join(inputs),
        "outputs": "; ".join(outputs),
        "validation": verdict,
        "made": f"{manifest.created} by neuronbert {manifest.neuronbert_version}"
        if manifest.created
        else "elsewhere: there is no neuronbert.json, and all of this is read off config.json",
    }
