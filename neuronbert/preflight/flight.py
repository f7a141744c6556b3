"""Checkpoint to what can be said before its compilation for a Neuron device: the rules that its programs break.

Owns: which programs are looked at, and in which forms. Needs no device and no compiler. Knows nothing of artifacts, or
of what is said in the end.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from neuronbert import inputs, modeling, sources
from neuronbert._version import __version__
from neuronbert.architectures import find_head
from neuronbert.backends import registry
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import InvalidOptionError, LoweringUnavailableError, NotExportableError
from neuronbert.preflight import hlo
from neuronbert.preflight.graphs import Graph
from neuronbert.preflight.patterns import Case
from neuronbert.preflight.recording import record
from neuronbert.preflight.report import PreflightReport, ProgramCounts
from neuronbert.preflight.rules import RULES, Finding, findings
from neuronbert.shapes import check_choices
from neuronbert.targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from neuronbert.modeling import LoadedHead
    from neuronbert.shapes import StaticShape
    from neuronbert.spec import ExportSpec

logger = logging.getLogger("neuronbert")


def check(
    spec: ExportSpec,
    *,
    hlo_python: str | None = None,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> PreflightReport:
    """Trace a checkpoint's programs on the CPU and apply every rule that can be decided there.

    Args:
        spec: What would be exported: model, task, shapes, target, lnc, and which tokens are dropped; the rest plays no
            part.
        hlo_python: An interpreter with torch and torch_xla 2.9, which lowers the programs to HLO too. By default this
            one, if it has torch_xla.
        token: For the Hub; None takes the one that is logged in.
        progress: Told what is being done.

    Returns:
        What was found: see `PreflightReport.raise_if_failed`.

    Raises:
        UsageError: the spec makes no program (task, head, shape, target).
        DataError: the checkpoint is broken or unsafe.
        UnavailableError: the model isn't there, or `hlo_python` can't lower (a model that torch.export can't take is
            an error only if nothing else was found).

    Example:
        >>> from neuronbert import ExportSpec, StaticShape, check
        >>> spec = ExportSpec("my-checkpoint/", (StaticShape(1, 128),), target="inf2")
        >>> check(spec).raise_if_failed()  # doctest: +SKIP
    """
    target, backend = _target(spec.target)
    progress("finding the checkpoint")
    with sources.opened(spec.model, revision=spec.revision, token=token, progress=progress) as (_, checkpoint):
        task = canonical_task(spec.task, checkpoint)
        find_head(checkpoint.architecture, task)
        checkpoint.check_settings(task)
        check_choices(spec.shapes, needed=task == "multiple-choice")
        progress("loading the weights")
        keeping = spec.keeping(task, checkpoint.config)
        method = checkpoint.quantization(spec.quantization)
        loaded = modeling.load(checkpoint, task, quantization=method, allow_random_weights=spec.allow_random_weights)
        loaded = modeling.as_computed(modeling.keep_tokens(loaded, keeping), method, integers=False)
    copies = 1 if backend == "torchneuron" else len(spec.shapes)  # it has one set of weights for all programs
    case = Case(target, Graph(()), positions=checkpoint.max_sequence_length, lnc=spec.lnc, copies=copies)
    flight = _Flight(case, loaded, hlo_python)
    for shape in spec.shapes:
        progress(f"looking at {shape.name}")
        flight.look(shape)
    if hlo_python is not None and flight.not_exported and not flight.findings:
        raise flight.not_exported
    return PreflightReport(
        neuronbert_version=__version__,
        model=spec.model,
        task=task,
        target=target.name,
        lnc=spec.lnc,
        rules=tuple(dict.fromkeys(code for rule in RULES for code in (rule.code, *rule.also))),
        programs=tuple(flight.programs),
        findings=tuple(flight.findings),
        lowered_by=flight.lowered_by,
        not_lowered=flight.not_lowered,
    )


def _target(name: str) -> tuple[Target, str]:
    resolved, backend = registry.resolve_target(name)
    if resolved not in TARGETS:
        raise InvalidOptionError("target", name, "a Neuron target, one of " + ", ".join(TARGETS))
    return TARGETS[resolved], backend


class _Flight:
    # What is being looked at, and what has been found so far.

    def __init__(self, case: Case, loaded: LoadedHead, hlo_python: str | None) -> None:
        self.programs: list[ProgramCounts] = []
        self.findings: list[Finding] = []
        self.lowered_by: Mapping[str, str] = {}
        self.not_lowered = ""
        self.not_exported: NotExportableError | None = None
        self._case, self._loaded = case, loaded
        self._asked = hlo_python is not None
        self._python = hlo_python or hlo.find_interpreter()
        if self._python is None:
            self.not_lowered = "torch_xla is not installed here; name an interpreter that has it with --hlo-python"

    def look(self, shape: StaticShape) -> None:
        """Trace one program, lower it if that can be done, and apply the rules to both forms."""
        case = replace(self._case, sequence_length=shape.sequence_length)
        if shape.sequence_length > case.positions:  # transformers fails on it somewhere inside
            self.findings += findings(case, shape.name, "torch")
            return
        example = inputs.example(self._loaded.inputs, shape)
        graph = record(self._loaded.head, example)
        self.findings += findings(replace(case, graph=graph), shape.name, "torch")
        lowered = self._lower(example)
        if lowered:
            self.findings += findings(Case(case.target, lowered), shape.name, "hlo")
        whole = lowered if lowered and not lowered.problem else None
        self.programs.append(
            ProgramCounts(
                name=shape.name,
                operations=len(graph.ops),
                flops=graph.flops,
                weights_bytes=graph.weights_bytes,
                io_bytes=graph.io_bytes,
                peak_bytes=graph.peak_bytes,
                hlo_operations=len(whole.ops) if whole else None,
                hlo_flops=whole.flops if whole else None,
            )
        )

    def _lower(self, example: tuple[Tensor, ...]) -> Graph | None:
        if self._python is None:
            return None
        try:
            lowered = hlo.lower(self._loaded.head, example, self._python)
        except LoweringUnavailableError as error:
            if self._asked:
                raise
            self._python, self.not_lowered = None, str(error)
            return None
        except NotExportableError as error:
            self.not_exported, self.not_lowered = error, str(error)
            return None
        self.lowered_by = lowered.versions
        return lowered.graph
