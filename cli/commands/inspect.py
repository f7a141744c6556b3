"""neuronbert inspect."""

from typing import TYPE_CHECKING

from .. import _output
from .._options import FolderArgument, Json

if TYPE_CHECKING:
    from neuronbert.manifest import Manifest


def inspect(artifact: FolderArgument, json_: Json = False) -> None:
    """Show what an artifact holds, after verifying every file of it; nothing is run.

    Example: neuronbert inspect out/
    """
    from neuronbert import Artifact

    found = Artifact.open(artifact)
    report = found.report()
    verdict = "not validated" if report is None else "passed" if report.passed else "failed"
    if json_:
        _output.as_json({**found.manifest.model_dump(mode="json"), "validation": verdict})
        return
    for name, value in _facts(found.manifest, verdict).items():
        _output.data(f"{name:<12}{value}")
    _output.data("")
    files = [[name, str(info.size), info.sha256[:16]] for name, info in found.manifest.files.items()]
    _output.table(["file", "bytes", "sha256"], files)


def _facts(manifest: "Manifest", verdict: str) -> dict[str, str]:
    source, compiler = manifest.source, manifest.compiler
    inputs = (f"{spec.name} {spec.dtype} 0..{spec.maximum}" for spec in manifest.inputs)
    outputs = (f"{spec.name} {spec.dtype} [{', '.join(spec.dims)}]" for spec in manifest.outputs)
    cast = "none" if compiler.auto_cast == "none" else f"{compiler.auto_cast} to {compiler.auto_cast_type}"
    return {
        "task": manifest.task,
        "model": f"{source.class_name} of {source.model}" + (f" at {source.revision}" if source.revision else ""),
        "weights": f"sha256 {source.weights_sha256}",
        "target": f"{manifest.target}, by {compiler.name}, "
        + ", ".join(f"{name} {version}" for name, version in compiler.versions.items()),
        "auto-cast": cast,
        "shapes": ", ".join(shape.name for shape in manifest.shapes),
        "inputs": "; ".join(inputs),
        "outputs": "; ".join(outputs),
        "validation": verdict,
        "made": f"{manifest.created} by neuronbert {manifest.neuronbert_version}",
    }
