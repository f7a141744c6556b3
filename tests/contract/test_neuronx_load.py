"""What loading and calling traced programs asks of torch_neuronx.

Each test names the page of the Neuron SDK's documentation that it holds the backend to. `trace`, `core-placement`,
`async-lazy-load` and `replace-weights` stand for
frameworks/torch/torch-neuronx/api-reference-guide/inference/api-torch-neuronx-*.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cli._errors import exit_code
from neuronbert import NeuronAutoModel, StaticShape, errors
from neuronbert.backends import neuronx
from neuronbert.backends.base import ANYWHERE, Placement
from neuronbert.runtime import Session
from tests.contract.small import IDS, MASK, SHAPE, Small, called, load
from tests.unit.builders import names

Host = Callable[..., None]


# Loading.


def test_exporting_needs_no_device_and_loading_says_that_there_is_none(host: Host, exporting: Any) -> None:
    """trace: "tracing can be performed on any EC2 machine", "inference can only be executed on a Neuron instance"."""
    host()
    artifact = exporting()
    assert artifact.manifest.target == "inf2"
    with pytest.raises(
        errors.BackendUnavailableError, match=r"no Inferentia2 or Trainium device.*of type inf2"
    ) as caught:
        Session.open(artifact.path)
    assert exit_code(caught.value) == 3


def test_export_and_load_in_one_refuses_before_it_compiles(host: Host, tiny: Any, temporary: Path) -> None:
    host()
    checkpoint = tiny("text-classification")
    with pytest.raises(errors.BackendUnavailableError, match="no Inferentia2 or Trainium device"):
        NeuronAutoModel.from_pretrained(checkpoint, export=True, target="inf2", sequence_length=8)
    assert "torch_neuronx" not in sys.modules
    assert names(temporary) == []


def test_a_program_for_another_device_is_refused(host: Host, exporting: Any) -> None:
    """trace, Device Compatibility; release-notes/components/runtime, 2.32: NEFFs are checked against the device."""
    host("inf2")
    artifact = exporting()
    host.set_machine(device="trn2")  # type: ignore[attr-defined]
    with pytest.raises(errors.BackendUnavailableError, match="is of type trn2; export with --target trn2"):
        Session.open(artifact.path)


def test_the_chips_own_refusal_is_one_line(host: Host, compiled: Any) -> None:
    host("inf2")
    folder, manifest = compiled()
    host.set_machine(device="trn2")  # type: ignore[attr-defined]
    with pytest.raises(errors.DeviceLoadError, match=r"didn't load model\.neuron: Could not load the model"):
        load(folder, manifest)


@pytest.mark.parametrize(("compiled_for", "set_to"), [(1, None), (1, "2"), (2, "1")])
def test_logical_cores_of_another_size_are_refused_with_what_to_set(
    host: Host, compiled: Any, compiled_for: Any, set_to: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """neuron-features/logical-neuroncore-config: the runtime's setting must be the compiler's; its default is 2."""
    host("trn2")
    folder, manifest = compiled(target="trn2", lnc=compiled_for)
    if set_to is not None:
        monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", set_to)
    with pytest.raises(errors.LogicalCoresError, match=f"Set NEURON_LOGICAL_NC_CONFIG={compiled_for}"):
        load(folder, manifest)
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", str(compiled_for))
    assert load(folder, manifest)[0](IDS, MASK)[0].shape == (2, 4, 3)


def test_a_program_for_other_logical_cores_that_says_otherwise_is_refused_by_the_device(
    host: Host, compiled: Any
) -> None:
    host("trn2")
    folder, manifest = compiled(target="trn2", lnc=1)
    lying = manifest.model_copy(update={"compiler": manifest.compiler.model_copy(update={"lnc": 2})})
    with pytest.raises(errors.DeviceLoadError, match="status=2"):
        load(folder, lying)


def test_a_neff_that_is_newer_than_the_runtime_is_refused(host: Host, compiled: Any) -> None:
    """neuron-runtime/nrt-troubleshoot: Unsupported NEFF Version."""
    host("inf2", neff=[1, 1])
    folder, manifest = compiled()
    with pytest.raises(errors.DeviceLoadError, match=r"Unsupported NEFF Version.*neuronbert doctor") as caught:
        load(folder, manifest)
    assert exit_code(caught.value) == 3


def test_cores_that_another_process_holds_are_one_line(host: Host, compiled: Any) -> None:
    """neuron-runtime/nrt-troubleshoot: NeuronCore(s) not available; core-placement: RuntimeError."""
    host("inf2")
    folder, manifest = compiled()
    (program,) = load(folder, manifest)
    host.set_machine(device="inf2", busy=True)  # type: ignore[attr-defined]
    with pytest.raises(errors.DeviceLoadError, match="Runtime could not be initialized") as caught:
        load(folder, manifest)
    assert exit_code(caught.value) == 3
    with pytest.raises(errors.DeviceRunError):
        program(IDS, MASK)


# Placement.


@pytest.mark.parametrize(
    ("placement", "given"),
    [
        (ANYWHERE, []),
        (Placement(first_core=1), [{"start_nc": 1, "nc_count": 1}]),
        (Placement(cores=2), [{"start_nc": -1, "nc_count": 2}]),
        (Placement(first_core=1, cores=3), [{"start_nc": 1, "nc_count": 3}]),
    ],
)
def test_programs_go_where_they_are_put(
    host: Host, compiled: Any, placement: Placement, given: list[dict[str, int]]
) -> None:
    """core-placement: set_neuron_cores(trace, start_nc=-1, nc_count=-1), after the load; -1 is the least used core."""
    host("inf2", cores=4)
    folder, manifest = compiled(StaticShape(1, 4), SHAPE)
    assert len(load(folder, manifest, placement)) == 2
    assert [arguments for _, arguments in called("set_neuron_cores")] == given * 2


@pytest.mark.parametrize("placement", [Placement(first_core=2), Placement(cores=3), Placement(first_core=1, cores=2)])
def test_more_cores_than_there_are_is_an_error_of_ours(host: Host, compiled: Any, placement: Placement) -> None:
    """core-placement: ValueError "if the nc_count is an invalid number of NeuronCores"."""
    host("inf2", cores=2)
    folder, manifest = compiled()
    with pytest.raises(errors.DeviceLoadError, match="invalid number of NeuronCores") as caught:
        load(folder, manifest, placement)
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize("values", [{"first_core": -1}, {"cores": 0}, {"cores": -1}], ids=str)
def test_a_placement_that_is_none_is_refused_before_anything_is_loaded(values: dict[str, int]) -> None:
    """core-placement: -1 has a meaning of its own there, and nobody asked for it."""
    with pytest.raises(errors.InvalidOptionError, match=next(iter(values))):
        Placement(**values)


def test_the_place_where_older_versions_have_placement_is_known(host: Host, compiled: Any, edit: Any) -> None:
    """release-notes/prev/2.25.0/nx-pytorch: torch_neuronx.experimental.set_neuron_cores became stable in 2.25."""
    host("inf2", version="2.7.0.2.8.6734")
    moved = "\nclass experimental:\n    set_neuron_cores = staticmethod(set_neuron_cores)\ndel set_neuron_cores\n"
    edit(lambda code: code + moved)
    folder, manifest = compiled()
    load(folder, manifest, Placement(first_core=1))
    assert called("set_neuron_cores") == [("set_neuron_cores", {"start_nc": 1, "nc_count": 1})]


# Weights beside the program.


@pytest.mark.parametrize(("placement", "core"), [(ANYWHERE, 0), (Placement(first_core=1), 1)])
def test_separate_weights_follow_their_program_to_its_core(
    host: Host, compiled: Any, placement: Placement, core: int
) -> None:
    """trace: with inline_weights_to_neff=False "the weights are not moved automatically"; move_trace_to_device."""
    host("inf2")
    folder, manifest = compiled(inline_weights=False, auto_cast="none")
    (program,) = load(folder, manifest, placement)
    assert called("set_neuron_cores", "move_trace_to_device") == [
        ("set_neuron_cores", {"start_nc": core, "nc_count": 1}),
        ("move_trace_to_device", {"device_id": core}),
    ]
    torch.testing.assert_close(program(IDS, MASK)[0], Small()(IDS, MASK)[0])


def test_inlined_weights_are_not_moved(host: Host, compiled: Any) -> None:
    host("inf2")
    load(*compiled())
    assert not called("move_trace_to_device")


def test_separate_weights_on_several_cores_are_refused(host: Host, compiled: Any) -> None:
    """trace: move_trace_to_device takes one device_id, and would take the program with it."""
    host("inf2")
    folder, manifest = compiled(inline_weights=False)
    with pytest.raises(errors.InvalidOptionError, match=r"placement\.cores is 2; it must be 1"):
        load(folder, manifest, Placement(cores=2))


def test_other_weights_are_sent_to_every_program(host: Host, compiled: Any) -> None:
    """replace-weights: replace_weights(neuron_model, weights: Module or state_dict), in place."""
    host("inf2")
    folder, manifest = compiled(StaticShape(1, 4), SHAPE, inline_weights=False, auto_cast="none")
    runtime = neuronx.runtime()
    programs = runtime.load(folder, manifest, ANYWHERE)
    other = Small(scale=3.0)
    runtime.replace_weights(programs, other.state_dict())
    assert len(called("replace_weights")) == 2
    torch.testing.assert_close(programs[SHAPE](IDS, MASK)[0], other(IDS, MASK)[0])
    torch.testing.assert_close(programs[StaticShape(1, 4)](IDS[:1], MASK[:1])[0], other(IDS[:1], MASK[:1])[0])


@pytest.mark.parametrize(
    "wrong", [{}, {"words.weight": torch.zeros(10, 4)}, {"dense.weight": 1}], ids=["none", "some", "no tensor"]
)
def test_weights_that_are_not_the_programs_are_refused(host: Host, compiled: Any, wrong: dict[str, Any]) -> None:
    host("inf2")
    folder, manifest = compiled(inline_weights=False)
    runtime = neuronx.runtime()
    with pytest.raises(errors.WeightsRefusedError, match="all of them"):
        runtime.replace_weights(runtime.load(folder, manifest, ANYWHERE), wrong)


def test_inlined_weights_can_not_be_replaced(host: Host, compiled: Any) -> None:
    """replace-weights: only a warning there, "if the model has no separated weights"; here it is refused."""
    host("inf2")
    folder, manifest = compiled()
    runtime = neuronx.runtime()
    with pytest.raises(errors.FixedWeightsError, match="--no-inline-weights"):
        runtime.replace_weights(runtime.load(folder, manifest, ANYWHERE), Small().state_dict())
    assert not called("replace_weights")


def test_a_model_whose_weights_were_replaced_in_part_is_not_saved(host: Host, exporting: Any, tmp_path: Path) -> None:
    host("inf2")
    model = NeuronAutoModel.from_pretrained(exporting("inf2", inline_weights=False).path)
    with pytest.raises(errors.WeightsRefusedError):
        model.replace_weights({"classifier.weight": torch.zeros(2, 32)})
    with pytest.raises(errors.ReplacedWeightsError):
        model.save_pretrained(tmp_path / "saved")
