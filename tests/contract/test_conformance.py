"""What every backend does: one suite for the CPU, for the doubles of the vendor's libraries, and for a real device.

`make test-neuron` runs it on the Neuron device of a machine; elsewhere those cases are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronbert import Artifact, ExportSpec, NeuronAutoModel, StaticShape, errors, export, validate
from neuronbert.architectures import TASKS
from neuronbert.artifact import seal
from neuronbert.backends import registry
from neuronbert.neff import find_neffs
from neuronbert.runtime import Session
from tests.contract.conftest import ONE_OF_A_KIND

ROWS = torch.tensor([[101, 2023, 2003, 102], [101, 7592, 102, 0], [101, 3000, 2054, 102]])
MASK = (ROWS > 0).long()


@pytest.fixture
def made(target: str, tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Artifact]:
    def make(task: str = "fill-mask", *shapes: StaticShape, **options: Any) -> Artifact:
        choices = 3 if task == "multiple-choice" else None
        shapes = shapes or (StaticShape(2, 8, choices),)
        spec = ExportSpec(str(tiny(task)), shapes, task, target=target, **options)
        return export(spec, tmp_path / "artifact", overwrite=True)

    return make


@pytest.mark.parametrize("target", ONE_OF_A_KIND, indirect=True)
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_head_answers_like_its_reference(made: Callable[..., Artifact], task: str) -> None:
    artifact = made(task)
    report = validate(artifact.path)
    assert report.passed, report.failures


@pytest.mark.parametrize("target", ONE_OF_A_KIND, indirect=True)
@pytest.mark.parametrize("cast", [("none", "bf16"), ("matmul", "fp16"), ("all", "bf16")], ids="-".join)
def test_every_auto_cast_is_within_its_limit(made: Callable[..., Artifact], cast: tuple[Any, Any]) -> None:
    artifact = made("text-classification", auto_cast=cast[0], auto_cast_type=cast[1])
    report = validate(artifact.path)
    assert report.passed, report.failures
    assert (artifact.manifest.compiler.auto_cast, artifact.manifest.compiler.auto_cast_type) == cast


def test_each_shape_has_a_program_and_the_smallest_that_fits_runs(made: Callable[..., Artifact]) -> None:
    shapes = (StaticShape(1, 8), StaticShape(2, 16))
    artifact = made("fill-mask", *shapes)
    session = Session.open(artifact.path)
    assert artifact.manifest.shapes == shapes
    for dims in ((1, 8), (1, 5), (2, 3), (1, 16), (2, 16)):
        given = {"input_ids": torch.ones(dims, dtype=torch.int64)}
        assert session.run(given)["logits"].shape == (*dims, 30522)
    assert session.served == {StaticShape(1, 8): 2, StaticShape(2, 16): 3}
    with pytest.raises(errors.SequenceTooLongError):
        session.run({"input_ids": torch.ones(1, 17, dtype=torch.int64)})


def test_each_program_of_a_trace_is_a_neff_that_inspect_finds(made: Callable[..., Artifact]) -> None:
    """How a NEFF lies in an archive isn't documented: on a device this shows that it is found all the same."""
    artifact = made("fill-mask", StaticShape(1, 8), StaticShape(2, 16))
    found = [find_neffs(artifact.path / name) for name in artifact.manifest.program_files]
    if artifact.manifest.backend != "neuronx":
        assert not any(found)
        return
    assert all(found)
    sizes = {2} if artifact.manifest.target == "trn2" else {0, 1}  # 0 before there was a choice
    assert {neff.header.lnc_size for neffs in found for neff in neffs} <= sizes


def test_a_row_does_not_depend_on_its_companions(made: Callable[..., Artifact]) -> None:
    session = Session.open(made("text-classification", StaticShape(3, 8)).path)
    together = session.run({"input_ids": ROWS, "attention_mask": MASK})["logits"]
    for index in range(3):
        alone = session.run({"input_ids": ROWS[index : index + 1], "attention_mask": MASK[index : index + 1]})["logits"]
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-5)


def test_a_dynamic_batch_takes_any_number_of_rows(made: Callable[..., Artifact]) -> None:
    session = Session.open(made("text-classification", dynamic_batch=True).path)
    assert session.manifest.dynamic_batch
    for rows in (1, 2, 3, 7):
        given = {"input_ids": ROWS.repeat(3, 1)[:rows], "attention_mask": MASK.repeat(3, 1)[:rows]}
        logits = session.run(given)["logits"]
        assert logits.shape == (rows, 2)
        for index in range(rows):
            torch.testing.assert_close(logits[index], logits[index % 3], rtol=0, atol=1e-5)
    with pytest.raises(errors.SequenceTooLongError):
        session.run({"input_ids": torch.ones(1, 9, dtype=torch.int64)})


def test_outputs_are_fp32_on_the_cpu_and_free_of_gradients(made: Callable[..., Artifact]) -> None:
    model = NeuronAutoModel.from_pretrained(made("question-answering").path)
    outputs = model(input_ids=ROWS[:2], attention_mask=MASK[:2])
    for value in (outputs.start_logits, outputs.end_logits):
        assert (value.dtype, value.device.type, value.requires_grad) == (torch.float32, "cpu", False)


def test_the_manifest_says_how_the_programs_were_made(made: Callable[..., Artifact], target: str) -> None:
    manifest = Artifact.open(made().path).manifest
    assert (manifest.target, manifest.backend) == registry.resolve_target(target)
    assert manifest.compiler.versions["torch"] == torch.__version__
    assert set(manifest.program_files) < set(manifest.files)
    if target != "cpu":
        line = manifest.compiler.flags
        assert ["--target", target] == list(line[:2])
        assert line[line.index("--auto-cast") + 1] == "matmult"  # the compiler's spelling, and no longer its default


def test_a_program_file_that_was_altered_is_refused_before_it_is_loaded(made: Callable[..., Artifact]) -> None:
    artifact = made()
    path = artifact.path / artifact.manifest.program_files[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.ArtifactCorruptError, match="altered"):
        Session.open(artifact.path)


def test_a_file_that_is_no_program_is_refused(made: Callable[..., Artifact]) -> None:
    artifact = made()
    for content in (b"", b"PK\x03\x04", b"NEFF" * 4000):
        (artifact.path / artifact.manifest.program_files[0]).write_bytes(content)
        seal(artifact.path, artifact.manifest)
        with pytest.raises(errors.ArtifactCorruptError):
            Session.open(artifact.path)


def test_weights_are_replaced_or_the_reason_is_given(
    made: Callable[..., Artifact], target: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    import transformers

    other = transformers.BertForSequenceClassification.from_pretrained(
        tiny("text-classification", initializer_range=0.3)
    ).eval()
    options = {"inline_weights": False} if registry.resolve_target(target)[1] == "neuronx" else {}
    model = NeuronAutoModel.from_pretrained(made("text-classification", auto_cast="none", **options).path)
    if target == "cpu":
        with pytest.raises(errors.FixedWeightsError):
            model.replace_weights(other)
        return
    before = model(input_ids=ROWS[:2], attention_mask=MASK[:2]).logits
    model.replace_weights(other)
    after = model(input_ids=ROWS[:2], attention_mask=MASK[:2]).logits
    with torch.no_grad():
        expected = other(input_ids=ROWS[:2], attention_mask=MASK[:2]).logits
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-2)
    with pytest.raises(errors.ReplacedWeightsError):
        model.save_pretrained(tmp_path / "saved")
    with pytest.raises(errors.WeightsRefusedError):
        model.replace_weights({"classifier.weight": torch.zeros(2, 32)})


def test_saving_and_loading_again_changes_nothing(made: Callable[..., Artifact], tmp_path: Path) -> None:
    model = NeuronAutoModel.from_pretrained(made().path)
    model.save_pretrained(tmp_path / "saved")
    again = NeuronAutoModel.from_pretrained(tmp_path / "saved")
    given = {"input_ids": ROWS[:2], "attention_mask": MASK[:2]}
    torch.testing.assert_close(model(**given).logits, again(**given).logits, rtol=0, atol=0)
    assert json.loads((tmp_path / "saved" / "config.json").read_bytes())["neuron"]["static_batch_size"] == 2
