"""Every head of every family: exported, loaded, padded, sliced, validated, saved; equal to transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from neuronbert import ExportSpec, NeuronAutoModel, StaticShape, export, validate
from neuronbert.architectures import ARCHITECTURES, find_form
from tests.support import families
from tests.support.families import inputs_for

CELLS = [(name, task) for name, row in ARCHITECTURES.items() for task in row.heads]
# Both sides are fp32; only the order of additions differs, and the values are of the order of one.
EQUAL = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize(("model_type", "task"), CELLS)
def test_each_head_answers_like_transformers_and_is_saved_and_validated(
    tmp_path: Path, model_type: str, task: str
) -> None:
    row = ARCHITECTURES[model_type]
    checkpoint = families.save(model_type, task, tmp_path / "checkpoint")
    shape = StaticShape(2, 16, 3 if task == "multiple-choice" else None)
    spec = ExportSpec(str(checkpoint), (shape,), task, auto_cast="none")
    artifact = export(spec, tmp_path / "artifact")
    assert artifact.manifest.source.random_weights == ()
    model = NeuronAutoModel.from_pretrained(artifact.path)
    model.save_pretrained(tmp_path / "saved")
    again = NeuronAutoModel.from_pretrained(tmp_path / "saved")
    reference = getattr(transformers, row.heads[task]).from_pretrained(checkpoint, attn_implementation="eager").eval()
    taken = [spec.name for spec in artifact.manifest.inputs]
    names = [output.name for output in find_form(row, task).outputs]
    for rows, length in ((2, 16), (2, 9), (1, 5)):
        given = inputs_for(taken, task, rows, length)
        with torch.no_grad():
            expected = reference(**given)
        outputs = model(**given)
        assert list(outputs) == names
        assert names == [name for name, value in expected.items() if isinstance(value, torch.Tensor)]
        for name in names:
            # What stands where the caller's own mask is 0 means nothing: attention over nothing is over any padding.
            real = given["attention_mask"].bool() if outputs[name].shape[:2] == (rows, length) else slice(None)
            torch.testing.assert_close(outputs[name][real], expected[name][real], **EQUAL)
            assert torch.equal(again(**given)[name], outputs[name])
    assert type(outputs).__name__ == find_form(row, task).output_class
    assert validate(artifact.path, record=False).failures == ()
