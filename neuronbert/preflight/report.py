"""What a pre-flight found, as plain data.

Owns: the counts of a program, the verdict and its JSON. Never says that something will compile. Knows nothing of torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from neuronbert.errors import PreflightFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.preflight.rules import Finding


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


def to_json(report: PreflightReport) -> str:
    """The report as JSON, with the verdict and the arithmetic intensities spelled out."""
    body: dict[str, Any] = {"passed": report.passed, "verdict": report.verdict, **asdict(report)}
    for row, program in zip(body["programs"], report.programs, strict=True):
        row["flops_per_byte"] = round(program.intensity, 3)
    return json.dumps(body, indent=2) + "\n"
