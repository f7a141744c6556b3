"""Checkpoint to what can be said before its compilation for a Neuron device: the rules that its programs break.

Owns: which programs are looked at, in which forms, and the verdict. Needs no device and no compiler; never says that
something will compile. Knows nothing of artifacts.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from neuronbert import hlo, inputs, modeling, sources
from neuronbert._version import __version__
from neuronbert.architectures import find_head
from neuronbert.backends import registry
from neuronbert.checkpoint import canonical_task
from neuronbert.errors import (
    InvalidOptionError,
    LoweringUnavailableError,
    NotExportableError,
    PreflightFailedError,
)
from neuronbert.graphs import Graph
from neuronbert.patterns import Case
from neuronbert.recording import record
from neuronbert.rules import RULES, Finding, findings
from neuronbert.shapes import check_choices
from neuronbert.targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from neuronbert.modeling import LoadedHead
    from neuronbert.shapes import StaticShape
    from neuronbert.spec import ExportSpec

logger = logging.getLogger("neuronbert")


@dataclass(frozen=True, slots=True)
class ProgramCounts:
    """What a program takes, counted and not predicted.

    Attributes:
        name: Its static shape.
        operations: How many of torch's operators it calls.
        flops: Two for each multiplication and addition in its matrix products.
        weights_bytes: Its weights, as they are in the checkpoint's type on the host: fp32.
        io_bytes: Its inputs and outputs.
        peak_bytes: The values in between, where they take the most.
        hlo_operations: How many HLO instructions it lowers to; None if it wasn't lowered to its end.
        hlo_flops: As `flops`, counted in the HLO.
    """

    name: str
    operations: int
    flops: int
    weights_bytes: int
    io_bytes: int
    peak_bytes: int
    hlo_operations: int | None = None
    hlo_flops: int | None = None

    @property
    def intensity(self) -> float:
        """FLOPs for each byte of weights, inputs and outputs."""
        return self.flops / max(1, self.weights_bytes + self.io_bytes)


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """Everything one pre-flight found.

    Attributes:
        neuronbert_version: What looked.
        model: The checkpoint, as it was named.
        task: The head's task.
        target: The target.
        lnc: Physical cores to a logical one; None for the target's own.
        rules: The codes of the rules that were applied.
        programs: What each program takes; none for one that can't be traced.
        findings: The rules that are broken.
        lowered_by: The versions of torch and torch_xla that lowered programs; empty if they lowered none.
        not_lowered: Why one wasn't, or all of them weren't.
    """

    neuronbert_version: str
    model: str
    task: str
    target: str
    lnc: int | None
    rules: tuple[str, ...]
    programs: tuple[ProgramCounts, ...]
    findings: tuple[Finding, ...]
    lowered_by: Mapping[str, str]
    not_lowered: str

    @property
    def passed(self) -> bool:
        """Whether no rule is broken."""
        return not self.findings

    @property
    def lowered(self) -> bool:
        """Whether every program was lowered to HLO."""
        return bool(self.programs) and all(program.hlo_operations is not None for program in self.programs)

    @property
    def verdict(self) -> str:
        """The most that can be said of it."""
        refused = sum(finding.refused for finding in self.findings)
        if refused:
            others = f" and {len(self.findings) - refused} more" if refused < len(self.findings) else ""
            return f"the compiler is documented to refuse this ({refused} found{others})"
        if self.findings:
            return f"{len(self.findings)} problem{'s' if len(self.findings) > 1 else ''} found"
        return "lowers, no known-bad pattern" if self.lowered else "no known-bad pattern found"

    def raise_if_failed(self) -> None:
        """Raise if a rule is broken.

        Raises:
            PreflightFailedError: one is.
        """
        if self.findings:
            first = self.findings[0]
            raise PreflightFailedError(first.code, first.problem, first.fix, len(self.findings) - 1)


def check(
    spec: ExportSpec,
    *,
    hlo_python: str | None = None,
    token: str | bool | None = None,
    progress: Callable[[str], None] = logger.info,
) -> PreflightReport:
    """Trace a checkpoint's programs on the CPU and apply every rule that can be decided there.

    Args:
        spec: What would be exported: model, task, shapes, target, lnc, inline_weights; the rest plays no part.
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
    target = _target(spec.target)
    progress("finding the checkpoint")
    with sources.opened(spec.model, revision=spec.revision, token=token, progress=progress) as (_, checkpoint):
        task = canonical_task(spec.task, checkpoint)
        find_head(checkpoint.architecture, task)
        check_choices(spec.shapes, needed=task == "multiple-choice")
        progress("loading the weights")
        loaded = modeling.load(checkpoint, task, allow_random_weights=spec.allow_random_weights)
    flight = _Flight(spec, target, checkpoint.max_sequence_length, loaded, hlo_python)
    for shape in spec.shapes:
        progress(f"looking at {shape.name}")
        flight.look(shape)
    if hlo_python and flight.not_exported and not flight.findings:
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


def to_json(report: PreflightReport) -> str:
    """The report as JSON, with the verdict and the arithmetic intensities spelled out."""
    body: dict[str, Any] = {"passed": report.passed, "verdict": report.verdict, **asdict(report)}
    for row, program in zip(body["programs"], report.programs, strict=True):
        row["flops_per_byte"] = round(program.intensity, 3)
    return json.dumps(body, indent=2) + "\n"


def _target(name: str) -> Target:
    resolved, _ = registry.resolve_target(name)
    if resolved not in TARGETS:
        raise InvalidOptionError("target", name, "a Neuron target, one of " + ", ".join(TARGETS))
    return TARGETS[resolved]


class _Flight:
    # What is being looked at, and what has been found so far.

    def __init__(
        self, spec: ExportSpec, target: Target, positions: int, loaded: LoadedHead, hlo_python: str | None
    ) -> None:
        self.programs: list[ProgramCounts] = []
        self.findings: list[Finding] = []
        self.lowered_by: Mapping[str, str] = {}
        self.not_lowered = ""
        self.not_exported: NotExportableError | None = None
        self._spec, self._target, self._positions, self._loaded = spec, target, positions, loaded
        self._asked = hlo_python is not None
        self._python = hlo_python or hlo.find_interpreter()
        if self._python is None:
            self.not_lowered = "torch_xla is not installed here; name an interpreter that has it with --hlo-python"

    def look(self, shape: StaticShape) -> None:
        """Trace one program, lower it if that can be done, and apply the rules to both forms."""
        spec = self._spec
        case = Case(
            self._target,
            Graph(()),
            sequence_length=shape.sequence_length,
            positions=self._positions,
            lnc=spec.lnc,
            copies=len(spec.shapes) if spec.inline_weights else 1,
        )
        if shape.sequence_length > self._positions:  # transformers fails on it somewhere inside
            self.findings += findings(case, shape.name, "torch")
            return
        example = inputs.example(self._loaded.inputs, shape)
        graph = record(self._loaded.head, example)
        self.findings += findings(replace(case, graph=graph), shape.name, "torch")
        lowered = self._lower(example)
        if lowered:
            self.findings += findings(Case(self._target, lowered), shape.name, "hlo")
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
