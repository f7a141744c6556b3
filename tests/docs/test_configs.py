"""Every recipe in configs/ loads and makes a spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronbert import ExportSpec, recipes
from neuronbert.architectures import TASKS
from neuronbert.spec import shapes_of

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_a_recipe_makes_a_spec(path: Path) -> None:
    options = recipes.load(path)
    sizes = {name: options.pop(name) for name in ("batch_sizes", "sequence_lengths", "num_choices") if name in options}
    spec = ExportSpec(**{"model": "somewhere", **options}, shapes=shapes_of(**sizes))
    assert spec.task in TASKS


def test_there_are_recipes() -> None:
    assert list(CONFIGS.glob("*.toml"))
