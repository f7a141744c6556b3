"""Programs for a device that come without a manifest: optimum-neuron's, and what other tools traced by its rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronbert import Artifact, ExportSpec, NeuronAutoModel, StaticShape, export
from neuronbert.errors import BackendUnavailableError

IDS = torch.randint(1, 1000, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def theirs(host, tiny, tmp_path: Path):
    """Makes this an Inf2 machine, and a folder on it with a program and what its config.json says of it."""

    def make(**options: Any) -> tuple[Path, torch.Tensor]:
        host("inf2")
        out = tmp_path / "theirs"
        spec = ExportSpec(str(tiny("text-classification")), (StaticShape(2, 16),), target="inf2", **options)
        export(spec, out)
        expected = NeuronAutoModel.from_pretrained(out)(input_ids=IDS).logits
        (out / "neuronbert.json").unlink()
        return out, expected

    return make


@pytest.mark.parametrize("inline", [True, False])
def test_it_runs_on_the_device_it_was_compiled_for(theirs, inline: bool) -> None:
    folder, expected = theirs(inline_weights=inline)
    calls = sys.modules["torch_neuronx"].calls
    calls.clear()
    model = NeuronAutoModel.from_pretrained(folder)
    assert (model.session.manifest.backend, model.session.manifest.target) == ("neuronx", "inf2")
    # "weights do not" load by themselves where they aren't inlined (api-torch-neuronx-trace)
    assert [name for name, _ in calls if name == "move_trace_to_device"] == ([] if inline else ["move_trace_to_device"])
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=0, atol=0)


def test_a_dynamic_batch_takes_any_number_of_rows(theirs) -> None:
    folder, expected = theirs(dynamic_batch=True)
    model = NeuronAutoModel.from_pretrained(folder)
    logits = model(input_ids=torch.cat([IDS, IDS, IDS[:1]])).logits
    torch.testing.assert_close(logits, torch.cat([expected, expected, expected[:1]]), rtol=0, atol=1e-5)


def test_without_a_device_it_can_still_be_looked_at(theirs, host) -> None:
    folder, _ = theirs()
    host.set_machine(device=None)
    artifact = Artifact.open(folder)
    assert artifact.foreign
    assert artifact.manifest.compiler.versions["neuronx-cc"]
    with pytest.raises(BackendUnavailableError, match="inf2"):
        NeuronAutoModel.from_pretrained(folder)
