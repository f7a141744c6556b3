"""Programs for a device come from the compile cache as those for the CPU do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuronbert import Artifact, Cache, ExportSpec, StaticShape, export
from neuronbert.backends.neuronx import NeuronxCompiler


def test_the_files_of_every_shape_are_copied(host, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = NeuronxCompiler.compile

    def counted(self: NeuronxCompiler, head: Any, examples: Any, spec: ExportSpec, folder: Path) -> Any:
        compiled.append(spec.target)
        return compile_(self, head, examples, spec, folder)

    monkeypatch.setattr(NeuronxCompiler, "compile", counted)
    host("inf2")
    cache = Cache(tmp_path / "cache", 1 << 30)

    def make(output: str, target: str = "inf2", **options: Any) -> Artifact:
        shapes = (StaticShape(1, 16), StaticShape(2, 16))
        spec = ExportSpec(str(tiny("fill-mask")), shapes, "fill-mask", target=target, **options)
        return export(spec, tmp_path / output, cache=cache)

    made, copied = make("made"), make("copied")
    assert compiled == ["inf2"]
    assert len(made.manifest.program_files) == 2
    assert copied.manifest.compiler == made.manifest.compiler
    for name in made.manifest.program_files:
        assert Artifact.open(copied.path).manifest.files[name] == made.manifest.files[name]
    make("flagged", compiler_args=("--enable-saturate-infinity",))
    make("files", compiler_workdir=str(tmp_path / "work"))
    monkeypatch.setenv("NEURON_CC_FLAGS", "--verbose=35")
    make("told")
    assert compiled == ["inf2"] * 4
