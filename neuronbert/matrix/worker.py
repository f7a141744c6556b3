"""What a process of its own does: one cell, or the question whether a target can be used.

Owns: the order of a cell: checkpoint, export, validation. Run as `python -m neuronbert.matrix.worker FOLDER`, with a
job in the folder; its answer is left beside it. What ends this process ends nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from neuronbert.architectures import find_architecture, find_head
from neuronbert.backends import registry
from neuronbert.checkpoint import Checkpoint, canonical_task
from neuronbert.errors import BackendUnavailableError, NeuronBertError, RandomModelError, first_line
from neuronbert.exporter import export
from neuronbert.lifeline import end_with_parent
from neuronbert.matrix.messages import ANSWER, JOB, Job, Outcome, Probe, Stage, Status
from neuronbert.spec import ExportSpec
from neuronbert.validation import validate

if TYPE_CHECKING:
    from neuronbert.artifact import Artifact
    from neuronbert.matrix.schema import Cell
    from neuronbert.report import ValidationReport


def probe(target: str) -> Probe:
    """Ask the backend of a target what it can do on this machine."""
    reasons = {}
    for part in ("compiler", "runtime"):
        try:
            name, backend = registry.resolve_target(target)
            getattr(registry, part)(backend, name)
        except BackendUnavailableError as error:
            reasons[part] = error.reason
    return Probe(**reasons)


def run(cell: Cell, checkpoint: str | None, folder: Path) -> Outcome:
    """Make a cell's artifact in a folder and validate it.

    Args:
        cell: What to make.
        checkpoint: The folder of its model; None to make one from the cell's config.
        folder: For whatever is made; nothing of it is needed afterwards.
    """
    reached: list[Stage] = ["checkpoint"]
    try:
        place = Path(checkpoint) if checkpoint else make_checkpoint(cell, folder / "checkpoint")
        reached.append("export")
        artifact = _export(cell, place, folder / "artifact")
        reached.append("validate")
        return _judge(validate(artifact.path, record=False))
    except BackendUnavailableError as error:
        status: Status = "compiled" if reached[-1] == "validate" else "skipped"
        return Outcome(status=status, stage=reached[-1], reason=error.reason)
    except NeuronBertError as error:
        log = str(getattr(error, "log", None) or "")
        return Outcome(status="failed", stage=reached[-1], reason=str(error), log=log)


def _export(cell: Cell, checkpoint: Path, output: Path) -> Artifact:
    task = canonical_task(cell.task, Checkpoint.open(checkpoint))
    auto_cast, auto_cast_type = cell.casts()
    spec = ExportSpec(
        model=str(checkpoint),
        shapes=cell.shapes(task),
        task=task,
        target=cell.target,
        auto_cast=auto_cast,
        auto_cast_type=auto_cast_type,
        allow_random_weights=cell.allow_random_weights,
        **cell.options.model_dump(exclude_none=True),
    )
    return export(spec, output, cache=False)  # whether it compiles is what is asked


def _judge(report: ValidationReport) -> Outcome:
    more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
    reason = report.failures[0] + more if report.failures else ""
    return Outcome(status="passed" if report.passed else "failed", stage="validate", reason=reason, report=report)


def make_checkpoint(cell: Cell, folder: Path) -> Path:
    """Save a checkpoint with random weights, the same ones each time, of a cell's config and for its task.

    Raises:
        RandomModelError: the config makes no model.
        UnsupportedHeadError: the architecture has no such head.
    """
    settings: dict[str, Any] = dict(cell.config or {})
    name = settings.pop("model_type")
    class_name = find_head(find_architecture(name), cell.task)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    try:
        config = transformers.AutoConfig.for_model(name, **settings)
        getattr(transformers, class_name)(config).save_pretrained(folder)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RandomModelError(cell.model, first_line(error)) from error
    return folder


def main() -> None:
    """Do the job in the folder named by the only argument."""
    end_with_parent()
    folder = Path(sys.argv[1])
    job = Job.model_validate_json((folder / JOB).read_bytes())
    answer = run(job.cell, job.checkpoint, folder) if job.cell else probe(job.target)
    (folder / ANSWER).write_text(answer.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
