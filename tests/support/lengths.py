"""What a search for length configurations was asked for, with nothing behind it."""

from __future__ import annotations

from typing import Any

from neuronbert.adaptive.search import Plan


def plan(**changes: Any) -> Plan:
    """The plan of a search over a small model; fields that matter to a test are given."""
    fields: dict[str, Any] = {
        "model": "m",
        "weights_sha256": "0" * 64,
        "data_sha256": "1" * 64,
        "task": "text-classification",
        "metric": "accuracy",
        "cost": "macs",
        "rows": 8,
        "sequence_length": 96,
        "layers": 4,
        "hidden": 32,
        "intermediate": 64,
        "drop": 0.5,
        "population": 8,
        "mutations": 6,
        "crossovers": 6,
        "probability": 0.5,
        "seed": 3,
    }
    return Plan(**(fields | changes))
