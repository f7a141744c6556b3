"""neuronbert doctor."""

from typing import TYPE_CHECKING, Annotated

import typer

from .. import _output
from .._options import Json

if TYPE_CHECKING:
    from neuronbert.doctor.diagnosis import Diagnosis


def doctor(
    target: Annotated[
        str | None, typer.Option(help="Look only at this one: cpu, inf2, trn1, trn1n, trn2 or trn3.")
    ] = None,
    json_: Json = False,
) -> None:
    """Show what this machine can compile for and run on, and what stands in the way.

    Exit code: 0, nothing that is here is broken; 1, a line FAILED; 3, --target is given and can't be compiled for here.

    Example: neuronbert doctor --target inf2
    """
    from neuronbert.doctor.diagnosis import diagnose
    from neuronbert.errors import BackendUnavailableError

    found = diagnose(target)
    if json_:
        _output.as_json(_body(found))
    else:
        _show(found)
    if target is not None and found.abilities[0].why_not_compile:
        raise BackendUnavailableError(target, found.abilities[0].why_not_compile)
    if not found.passed:
        raise typer.Exit(1)


def _body(found: "Diagnosis") -> dict[str, object]:
    from dataclasses import asdict

    targets = {
        ability.target: {
            "library": ability.library,
            "compile": {"ok": not ability.why_not_compile, "reason": ability.why_not_compile},
            "run": {"ok": not ability.why_not_run, "reason": ability.why_not_run},
        }
        for ability in found.abilities
    }
    return {"passed": found.passed, "targets": targets, "checks": [asdict(finding) for finding in found.findings]}


def _show(found: "Diagnosis") -> None:
    rows = [
        [
            ability.target,
            "no" if ability.why_not_compile else "when loaded" if ability.library == "native" else "yes",
            "no" if ability.why_not_run else "yes",
        ]
        for ability in found.abilities
    ]
    _output.table(["target", "compile", "run"], rows)
    _output.data("")
    for what in ("compile for", "run on"):
        reasons: dict[str, list[str]] = {}
        for ability in found.abilities:
            reason = ability.why_not_compile if what == "compile for" else ability.why_not_run
            reasons.setdefault(reason, []).append(ability.target)
        for reason, targets in reasons.items():
            if reason:
                _output.data(f"can't {what} {', '.join(targets)}: {reason}")
    _output.data("")
    width = max(20, *(len(finding.name) + 1 for finding in found.findings))
    for finding in found.findings:
        mark = finding.status.upper() if finding.status == "failed" else finding.status
        fix = f": {finding.fix}" if finding.fix else ""
        _output.data(f"{mark:<9}{finding.name:<{width}}{finding.text}{fix}")
