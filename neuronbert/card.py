"""The model card of an artifact.

Owns: README.md's text. Knows nothing of the Hub or torch.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.manifest import Manifest
    from neuronbert.report import ValidationReport


_EXAMPLES: Final[Mapping[str, object]] = {
    "feature-extraction": {"text": "A man is playing a guitar."},
    "fill-mask": {"text": "Paris is the [MASK] of France."},
    "text-classification": {"text": "What a fine day."},
    "token-classification": {"text": "Ada Lovelace lived in London."},
    "question-answering": {"question": "Where did Ada live?", "context": "Ada Lovelace lived in London."},
    "multiple-choice": {"text": "When it rains", "choices": ["the street gets wet.", "the moon is full."]},
    "next-sentence-prediction": {"text": "It rains.", "text_pair": "We stay at home."},
    "pre-training": {"text": "It [MASK].", "text_pair": "We stay at home."},
    "text-generation": {"text": "The capital of France is"},
    "replaced-token-detection": {"text": "The chef ate the meal."},
    "sentence-embedding": {"text": "A man is playing a guitar."},
}


def render(manifest: Manifest, report: ValidationReport | None, place: str) -> str:
    """The card: what the artifact is, how it was validated, how to run it.

    Args:
        manifest: Of the artifact.
        report: Of its validation, if there was one.
        place: What to open it by: a folder's name or a repository's.
    """
    parts = [_front_matter(manifest), _summary(manifest), _validation(report, place), _usage(manifest, place)]
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
        "Checkpoint": f"`{_inline(source.model)}`" + (f" at `{source.revision}`" if source.revision else ""),
        "Head": f"`{source.class_name}`",
        "Target": manifest.target,
        "Static shapes": ", ".join(shape.name for shape in manifest.shapes),
        "Auto-cast": cast,
        "Compiler": compiler.name + " (" + ", ".join(f"{k} {v}" for k, v in compiler.versions.items()) + ")",
        "Weights": f"sha256 `{source.weights_sha256}`",
    }
    if manifest.quantization != "none":
        rows["Quantization"] = manifest.quantization
    if source.random_weights:
        rows["Random weights"] = ", ".join(f"`{name}`" for name in source.random_weights)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    title = f"# {_inline(source.model)}, compiled by neuronbert"
    return f"{title}\n\n| | |\n|---|---|\n{table}\n"


def _inline(name: str) -> str:
    # A folder may be called anything; Markdown's tables and headings end at some of it.
    return "".join(char if char.isprintable() and char not in "|`" else "_" for char in name)


def _literal(text: str) -> str:
    # Python's own: JSON spells what lies beyond 16 bits as two surrogates. Three backticks would end the example.
    literal = repr(text).replace("`", r"\x60")
    return f'"{literal[1:-1]}"' if '"' not in literal and "'" not in literal[1:-1] else literal


def _validation(report: ValidationReport | None, place: str) -> str:
    if report is None:
        return f"## Validation\n\nNot validated. Do it with `neuronbert validate {shlex.quote(_inline(place))}`.\n"
    verdict = "passed" if report.passed else "FAILED"
    head = f"## Validation: {verdict}\n\nCompared with {_inline(report.reference)} on {report.created}.\n"
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


def _usage(manifest: Manifest, place: str) -> str:
    row, name = json.dumps(_EXAMPLES[manifest.task]), _literal(place)
    return (
        "## Use\n\nWith texts, tokenized and answered:\n\n```python\nfrom neuronbert import Predictor\n\n"
        f"predictor = Predictor.from_pretrained({name})\nprint(predictor.predict([{row}]))\n```\n\n"
        "With tensors, called like the transformers model:\n\n```python\nfrom neuronbert import NeuronAutoModel\n\n"
        f"model = NeuronAutoModel.from_pretrained({name})\n```\n"
    )
