"""I-BERT on every target: the integers of its reference, or a refusal that says why."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from neuronbert_cli.app import app
from typer.testing import CliRunner

from neuronbert import (
    Artifact,
    ExportSpec,
    QuantizationPlan,
    StaticShape,
    check,
    export,
    inputs,
    modeling,
    quantize,
    validate,
)
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import InvalidOptionError, UnsupportedFeatureError
from neuronbert.integers.dequantized import FORCE_DEQUANT
from neuronbert.onnx_export import export_onnx
from neuronbert.passages import sample
from neuronbert.runtime import Session
from tests.contract.conftest import ONE_OF_A_KIND

TEXTS = list(itertools.islice(sample(), 500, 516))
SHAPE = StaticShape(2, 16)


@pytest.fixture(scope="module")
def quantized(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Checkpoints that are quantized for integers, by task."""
    made: dict[str, Path] = {}

    def make(task: str = "text-classification", **settings: Any) -> Path:
        key = f"{task}-{settings}"
        if key not in made:
            plan = QuantizationPlan(quantization="ibert", rows=16, sequence_length=16)
            made[key] = tmp_path_factory.mktemp("integers") / "checkpoint"
            quantize(str(tiny(task, **settings)), made[key], TEXTS, plan)
        return made[key]

    return make


def changed(folder: Path, to: Path, **settings: Any) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **settings}))
    return to


@pytest.mark.parametrize("cast", ["none", "matmul"])
def test_the_program_has_the_integers_of_the_reference(
    target: str, quantized: Callable[..., Path], tmp_path: Path, cast: Any
) -> None:
    folder = quantized("feature-extraction")
    spec = ExportSpec(str(folder), (SHAPE,), "feature-extraction", target=target, auto_cast=cast)
    artifact = export(spec, tmp_path / "artifact")
    assert artifact.manifest.quantization == "ibert"
    loaded = modeling.load(Checkpoint.open(folder), "feature-extraction", quantization="ibert")
    given = inputs.example(loaded.inputs, SHAPE)
    given[0][:] = torch.randint(1000, 9000, given[0].shape)
    called = dict(zip([spec.name for spec in loaded.inputs], given, strict=True))
    with torch.no_grad():
        expected = loaded.head(*given)[0]
    found = Session.open(artifact.path).run(called)["last_hidden_state"]
    assert torch.equal(torch.as_tensor(found), expected)


@pytest.mark.parametrize("kind", FORCE_DEQUANT)
@pytest.mark.parametrize("target", ONE_OF_A_KIND, indirect=True)
def test_every_force_dequant_is_valid_on_every_target(
    target: str, quantized: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    folder = changed(quantized(), tmp_path / "checkpoint", force_dequant=kind)
    spec = ExportSpec(str(folder), (SHAPE,), target=target)
    report = validate(export(spec, tmp_path / "artifact").path)
    assert report.passed, report.failures
    assert {check.against for check in report.checks} == {"reference", "quantized"} | {"float"} & {
        check.against for check in report.checks
    }


@pytest.mark.parametrize("target", ["inf2 double", "trn3 double"], indirect=True)
def test_casts_that_integers_do_not_survive_are_refused(
    target: str, quantized: Callable[..., Path], tmp_path: Path
) -> None:
    common = {"model": str(quantized()), "shapes": (SHAPE,), "target": target}
    with pytest.raises(InvalidOptionError, match="'matmul' or 'none'"):
        export(ExportSpec(**common, auto_cast="all"), tmp_path / "artifact")
    with pytest.raises(InvalidOptionError, match="holds the integers of 8 bits"):
        export(ExportSpec(**common, auto_cast_type="fp8_e4m3"), tmp_path / "artifact")
    arguments = ["export", "--model", str(quantized()), "--target", target, "--auto-cast", "all", "--bucket", "1x8"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "artifact")])
    assert done.exit_code == 2
    assert "'matmul' or 'none'" in " ".join(done.stderr.split())
    assert list(tmp_path.glob("artifact*")) == []


def test_on_the_cpu_only_auto_cast_all_is_refused(quantized: Callable[..., Path], tmp_path: Path) -> None:
    spec = ExportSpec(str(quantized()), (SHAPE,), target="cpu", auto_cast="all")
    with pytest.raises(InvalidOptionError, match="products of this program are of integers"):
        export(spec, tmp_path / "artifact")


@pytest.mark.parametrize("target", ["inf2 double"], indirect=True)
def test_rows_too_long_for_exact_sums_are_refused(target: str, quantized: Callable[..., Path], tmp_path: Path) -> None:
    folder = quantized("text-classification", max_position_embeddings=600)
    with pytest.raises(UnsupportedFeatureError, match="at most 512 tokens"):
        export(ExportSpec(str(folder), (StaticShape(1, 513),), target=target), tmp_path / "artifact")
    export(ExportSpec(str(folder), (StaticShape(1, 513),), target="cpu"), tmp_path / "artifact")


@pytest.mark.parametrize("target", ["cpu", "inf2 double"], indirect=True)
def test_tokens_may_be_dropped(target: str, quantized: Callable[..., Path], tmp_path: Path) -> None:
    spec = ExportSpec(str(quantized()), (SHAPE,), target=target, length_config=(12, 8))
    report = validate(export(spec, tmp_path / "artifact").path)
    assert report.passed, report.failures


def test_an_onnx_file_of_integers_is_refused_however_it_is_asked_for(
    quantized: Callable[..., Path], tmp_path: Path
) -> None:
    for quantization in ("auto", "ibert"):
        spec = ExportSpec(str(quantized()), (SHAPE,), quantization=quantization)  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="ONNX has no operators"):
            export_onnx(spec, tmp_path / "onnx")
    arguments = ["export", "--model", str(quantized()), "--format", "onnx", str(tmp_path / "onnx")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["inf2 double"], indirect=True)
def test_a_pre_flight_looks_at_what_is_compiled(target: str, quantized: Callable[..., Path]) -> None:
    report = check(ExportSpec(str(quantized()), (SHAPE,), target=target))
    assert report.findings == ()


@pytest.mark.parametrize("target", ["inf2 double"], indirect=True)
def test_programs_of_both_kinds_are_kept_apart(target: str, quantized: Callable[..., Path], tmp_path: Path) -> None:
    spec = ExportSpec(str(quantized()), (SHAPE,), target=target, quantization="none")
    artifact: Artifact = export(spec, tmp_path / "artifact")
    assert artifact.manifest.quantization == "none"
    assert validate(artifact.path).passed
