"""docs/artifact-format.md names every key of the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronbert.manifest import CompilerInfo, FileInfo, InputSpec, Manifest, OutputSpec, ProgramSpec, Source

PAGE = (Path(__file__).parent.parent.parent / "docs" / "artifact-format.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", [Manifest, InputSpec, OutputSpec, ProgramSpec, CompilerInfo, Source, FileInfo])
def test_every_key_is_described(part: type) -> None:
    for name in part.model_fields:
        assert f"`{name}`" in PAGE, name
