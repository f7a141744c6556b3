"""The model card of an artifact.

Owns: README.md's text. Knows nothing of the Hub or torch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuronbert.manifest import Manifest
    from neuronbert.report import ValidationReport


def render(manifest: Manifest, report: ValidationReport | None) -> str:
    """The card: what the artifact is, how it was validated, how to run it."""
    parts = [_front_matter(manifest), _summary(manifest), _validation(report), _usage(manifest)]
    return "\n".join(parts)


def _front_matter(manifest: Manifest) -> str:
    lines = ["---", "library_name: neuronbert", f"pipeline_tag: {manifest.task}"]
    if manifest.source.revision is not None:
        lines.append(f"base_model: {json.dumps(manifest.source.model)}")
    return "\n".join([*lines, "tags:", "- neuronbert", f"- {manifest.target}", "---", ""])


def _summary(manifest: Manifest) -> str:
    source, compiler = manifest.source, manifest.compiler
    cast = "none" if compiler.auto_cast == "none" else f"{compiler.auto_cast}, {compiler.auto_cast_type}"
    rows = {
        "Task": manifest.task,
        "Checkpoint": f"`{source.model}`" + (f" at `{source.revision}`" if source.revision else ""),
        "Head": f"`{source.class_name}`",
        "Target": manifest.target,
        "Static shapes": ", ".join(shape.name for shape in manifest.shapes),
        "Auto-cast": cast,
        "Compiler": compiler.name + " (" + ", ".join(f"{k} {v}" for k, v in compiler.versions.items()) + ")",
        "Weights": f"sha256 `{source.weights_sha256}`",
    }
    if source.random_weights:
        rows["Random weights"] = ", ".join(f"`{name}`" for name in source.random_weights)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    title = f"# {source.model}, compiled by neuronbert"
    return f"{title}\n\n| | |\n|---|---|\n{table}\n"


def _validation(report: ValidationReport | None) -> str:
    if report is None:
        return "## Validation\n\nNot validated. Do it with `neuronbert validate FOLDER`.\n"
    verdict = "passed" if report.passed else "FAILED"
    head = f"## Validation: {verdict}\n\nCompared with {report.reference} on {report.created}.\n"
    rows = [
        f"| {output} | {measure.name} | {measure.value:.6g} | {'at most' if measure.name == 'error' else 'at least'} "
        f"{measure.limit:g} | {count} | {'yes' if measure.passed else '**no**'} |"
        for output, measure, count in report.worst()
    ]
    table = "| output | measure | worst | limit | checks | passed |\n|---|---|---|---|---|---|\n" + "\n".join(rows)
    failures = "".join(f"\n- {failure}" for failure in report.failures)
    return f"{head}\n{table}\n{failures}\n{_metrics(report)}"


def _metrics(report: ValidationReport) -> str:
    if not report.metrics:
        return ""
    rows = (f"| {m.name} | {m.rows} | {m.program:.4f} | {m.reference:.4f} |" for m in report.metrics)
    return "\n| metric | rows | program | reference |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _usage(manifest: Manifest) -> str:
    return (
        "## Use\n\n```python\nfrom neuronbert import NeuronAutoModel\nfrom transformers import AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("THIS_REPOSITORY")\n'
        'model = NeuronAutoModel.from_pretrained("THIS_REPOSITORY")\n'
        'outputs = model(**tokenizer("A sentence.", return_tensors="pt"))\n'
        f"print(outputs.{manifest.outputs[0].name}.shape)\n```\n"
    )
