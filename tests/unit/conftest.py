"""What the unit tests share: Hypothesis without timing, and the real tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A deadline would be a timed assert, and a database would be a file in the working directory. Derandomized: a test that
# fails here fails everywhere.
settings.register_profile(
    "unit",
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def tokenizer(minilm: Path) -> Any:
    from neuronbert import tokenization

    return tokenization.require(minilm)
