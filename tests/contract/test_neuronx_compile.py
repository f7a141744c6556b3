"""What compiling with torch_neuronx.trace asks of it, and what the double of it takes.

Each test names the page of the Neuron SDK's documentation that it holds the backend to. `trace`, `core-placement`,
`async-lazy-load` and `replace-weights` stand for
frameworks/torch/torch-neuronx/api-reference-guide/inference/api-torch-neuronx-*.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cli._errors import exit_code
from neuronbert import StaticShape, errors, reference
from neuronbert.backends import neuronx
from neuronbert.runtime import Session
from tests.contract.small import IDS, MASK, Small, called, library, load
from tests.unit.builders import names

Host = Callable[..., None]


# The double itself: it takes what is documented and nothing else.


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"options": "--target inf2"}, TypeError, "options"),
        ({"dynamic_batch_size": True}, TypeError, "dynamic_batch_size"),
        ({"compiler_args": ["--fast"]}, RuntimeError, "unrecognized arguments: --fast"),
        ({"compiler_args": ["--auto-cast all"]}, RuntimeError, "unrecognized arguments"),
        ({"compiler_args": "--target inf2 --auto-cast matmul"}, RuntimeError, "invalid choice: 'matmul'"),
        ({"compiler_args": "--target trn3"}, RuntimeError, "invalid choice: 'trn3'"),
        ({"compiler_args": "--target inf2 --lnc 2"}, RuntimeError, "NCC_EARG001"),
        ({"compiler_args": "--target inf2 --native-int64 enabled"}, RuntimeError, "unrecognized arguments"),
        ({"compiler_args": "--target trn1"}, RuntimeError, "the platform is inf2"),
    ],
)
def test_the_double_refuses_what_is_not_documented(
    host: Host, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    """trace (its signature has no `options`), compiler/neuronx-cc/api-reference-guide, compiler/error-codes/EARG001."""
    host("inf2")
    double = importlib.import_module("torch_neuronx")
    with pytest.raises(error, match=said):
        double.trace(Small(), (IDS, MASK), compiler_workdir=str(tmp_path), **arguments)


def test_the_double_wants_tensors_in_a_tuple_and_a_target_for_the_cpu_backend(host: Host, tmp_path: Path) -> None:
    """trace: example_inputs; cpu_backend "needs to be used with the compiler_args option to set the --target flag"."""
    host()
    double = importlib.import_module("torch_neuronx")
    with pytest.raises(RuntimeError, match="a tensor or a tuple of tensors"):
        double.trace(Small(), {"ids": IDS})
    with pytest.raises(RuntimeError, match="please supply compiler argument target"):
        double.trace(Small(), (IDS, MASK), cpu_backend=True)
    with pytest.raises(RuntimeError, match="num_devices > 0"):
        double.trace(Small(), (IDS, MASK), compiler_args="--target inf2")
    with pytest.warns(UserWarning, match="by position"), pytest.raises(RuntimeError, match="num_devices"):
        double.trace(Small(), (IDS, MASK), {})


# Compiling.


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "beside"])
def test_trace_is_called_as_documented(host: Host, compiled: Any, inline: bool) -> None:
    """trace: func, example_inputs (a tuple), compiler_workdir, compiler_args (a list), inline_weights_to_neff."""
    host("inf2")
    _, manifest = compiled(inline_weights=inline)
    ((_, given),) = called("trace")
    assert given["compiler_args"] == list(manifest.compiler.flags)
    assert given["cpu_backend"] is False
    assert manifest.compiler.inline_weights is inline
    assert manifest.compiler.flags[:2] == ("--target", "inf2")
    assert manifest.compiler.versions["neuronx-cc"] == "2.26.6360.0"
    assert manifest.compiler.versions["torch-neuronx"] == library().__version__


def test_the_compiler_found_here_decides_which_flags_there_are(host: Host, compiled: Any) -> None:
    """release-notes/components/compiler, 2.32: --native-int64, --implicit-integer-downcast are of neuronx-cc 2.27."""
    host("trn2", compiler="2.27.5334.0")
    _, manifest = compiled(target="trn2")
    assert manifest.compiler.flags[-4:] == ("--implicit-integer-downcast", "all", "--native-int64", "disabled")
    assert manifest.compiler.versions["neuronx-cc"] == "2.27.5334.0"


def test_the_users_own_flags_reach_the_compiler_last(host: Host, compiled: Any) -> None:
    """compiler/neuronx-cc/api-reference-guide: of competing options the right-most wins."""
    host("inf2")
    own = ("--model-type", "unet-inference", "--enable-fast-loading-neuron-binaries")
    _, manifest = compiled(compiler_args=own)
    ((_, given),) = called("trace")
    assert tuple(given["compiler_args"][-3:]) == own == manifest.compiler.flags[-3:]
    assert library().parse(given["compiler_args"])["--model-type"] == "unet-inference"


@pytest.mark.parametrize("device", [None, "trn1", "inf1"])
def test_without_a_device_of_this_kind_the_cpu_traces(host: Host, compiled: Any, device: str | None) -> None:
    """trace: cpu_backend. vllm-neuron/docs/design/compilation/cpu_compilation: the override is to be set beforehand."""
    host(device)
    compiled(target="inf2")
    ((_, given),) = called("trace")
    assert given["cpu_backend"] is True
    assert library().PLATFORM == "inf2"  # as it was when the library was imported


def test_an_override_that_is_set_already_stays(host: Host, compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host()
    monkeypatch.setenv(reference.PLATFORM, "inf2")
    compiled(target="inf2")
    assert os.environ[reference.PLATFORM] == "inf2"


@pytest.mark.parametrize("device", [None, "inf2"])
def test_an_override_for_another_target_is_refused(
    host: Host, compiled: Any, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(device)
    monkeypatch.setenv(reference.PLATFORM, "trn1")
    with pytest.raises(errors.BackendUnavailableError, match=f"unset it, or set {reference.PLATFORM}=inf2") as caught:
        compiled(target="inf2")
    assert exit_code(caught.value) == 3
    assert "torch_neuronx" not in sys.modules
    assert os.environ[reference.PLATFORM] == "trn1"


def test_one_process_compiles_for_one_target_where_there_is_no_device(host: Host, compiled: Any) -> None:
    host()
    compiled(target="inf2")
    compiled(target="inf2")
    with pytest.raises(errors.BackendUnavailableError, match="in a process of its own"):
        compiled(target="trn1")
    assert os.environ[reference.PLATFORM] == "inf2"


@pytest.mark.parametrize("device", [None, "trn1"])
def test_a_library_that_was_imported_before_it_was_told_is_refused(
    host: Host, compiled: Any, device: str | None
) -> None:
    """cpu_compilation: the override is read when the library is imported, so that it comes too late."""
    host(device)
    importlib.import_module("torch_neuronx")
    with pytest.raises(errors.BackendUnavailableError, match="imported before it could be told"):
        compiled(target="inf2")
    assert reference.PLATFORM not in os.environ
    assert not called("trace")


def test_a_library_that_can_not_trace_without_a_device_is_refused(host: Host, compiled: Any, edit: Any) -> None:
    """trace: cpu_backend is a keyword of the newest versions; an older one has none."""
    host(version="2.8.0.2.10.16998")
    edit(lambda code: code.replace("    cpu_backend=False,\n", "") + "\ncpu_backend = False\n")
    with pytest.raises(errors.BackendUnavailableError, match=r"2\.8\.0\.2\.10\.16998 can't compile without a device"):
        compiled()


def test_a_library_without_cpu_backend_compiles_on_its_device(host: Host, compiled: Any, edit: Any) -> None:
    host("inf2", version="2.8.0.2.10.16998")
    edit(lambda code: code.replace("    cpu_backend=False,\n", "") + "\ncpu_backend = False\n")
    _, manifest = compiled()
    assert manifest.compiler.versions["torch-neuronx"] == "2.8.0.2.10.16998"


def test_a_library_that_lacks_what_nobody_asked_for_compiles(host: Host, compiled: Any, edit: Any) -> None:
    host("inf2")
    edit(lambda code: code + "\ndel lazy_load, async_load, dynamic_batch\n")
    compiled()
    with pytest.raises(errors.CompilationFailedError, match="lazy_load"):
        compiled(lazy_load=True)


def test_a_library_without_trace_is_refused(host: Host, compiled: Any, edit: Any) -> None:
    """frameworks/torch/about: two libraries share the name torch_neuronx; only the one up to 2.9 traces."""
    host("inf2")
    edit(lambda code: code + "\ndel trace\n")
    with pytest.raises(errors.BackendUnavailableError, match=r"has no trace; pip install .*torch-neuronx==2\.9"):
        compiled()


@pytest.mark.parametrize("device", [None, "inf2"])
def test_a_broken_installation_is_one_line(
    host: Host, exporting: Any, tmp_path: Path, edit: Any, device: str | None
) -> None:
    host(device)
    edit(lambda _: 'import os\nraise OSError("libneuronpjrt.so: cannot open\\nshared object file")\n')
    with pytest.raises(errors.BackendUnavailableError, match=r"can't be imported \(libneuronpjrt") as caught:
        exporting()
    assert exit_code(caught.value) == 3
    assert names(tmp_path / "exports") == []


def test_the_placeholder_on_pypi_is_known_without_running_it(host: Host, exporting: Any, edit: Any) -> None:
    """setup/pytorch/manual: the packages are in AWS's own repository; PyPI's of these names raise when imported."""
    host(version="1.0.post1")
    edit(lambda _: 'raise RuntimeError("This is a placeholder")\n')
    with pytest.raises(errors.BackendUnavailableError, match=r"PyPI's placeholder.*pip\.repos\.neuron\.amazonaws"):
        exporting()


# One file for each shape.


def test_every_shape_has_a_file_and_the_largest_is_where_others_look(host: Host, compiled: Any) -> None:
    host("inf2")
    folder, manifest = compiled(StaticShape(1, 4), StaticShape(4, 8), StaticShape(2, 8))
    assert [program.file for program in manifest.programs] == ["program_1x4.pt", "model.neuron", "program_2x8.pt"]
    assert names(folder) == sorted(program.file for program in manifest.programs)
    for program, shape in zip(load(folder, manifest), manifest.shapes, strict=True):
        given = torch.ones(shape.dims, dtype=torch.int64)
        assert program(given, given)[0].shape == (*shape.dims, 3)


def test_the_config_describes_the_program_where_others_look(host: Host, exporting: Any) -> None:
    host("inf2")
    artifact = exporting("inf2", StaticShape(1, 8), StaticShape(2, 16))
    section = artifact.config()["neuron"]
    assert (section["static_batch_size"], section["static_sequence_length"]) == (2, 16)


def test_room_is_asked_for_the_program_and_not_only_for_weights(
    host: Host, compiled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trace: the NEFF is "embedded" in the ScriptModule, where no state_dict shows it."""
    host("inf2")
    asked = []
    allocate = os.posix_fallocate

    def remember(handle: int, offset: int, size: int) -> None:
        asked.append(size)
        allocate(handle, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", remember)
    monkeypatch.setattr(neuronx, "neff_bytes", lambda _: 5 << 20)
    folder, _ = compiled()
    assert asked[0] >= (5 << 20) + (4 << 20)
    assert (folder / "model.neuron").stat().st_size < 1 << 20


# What is kept in the file.


@pytest.mark.parametrize(
    "options", [{}, {"lazy_load": True}, {"async_load": True}, {"lazy_load": True, "async_load": True}]
)
def test_how_it_loads_is_set_before_it_is_saved(host: Host, compiled: Any, options: dict[str, Any]) -> None:
    """async-lazy-load: "immediately after trace returns, before saving"; both may be set."""
    host("inf2")
    folder, _ = compiled(**options)
    assert [name for name, _ in called("lazy_load", "async_load")] == list(options)
    double = library()
    settings = double._load_script(str(folder / "model.neuron")).settings.tolist()
    assert (settings[double.LAZY], settings[double.ASYNC]) == tuple(
        int(name in options) for name in ("lazy_load", "async_load")
    )


@pytest.mark.parametrize("option", ["lazy_load", "async_load"])
def test_what_is_wrong_with_a_late_load_shows_at_the_first_call(host: Host, compiled: Any, option: str) -> None:
    """async-lazy-load: jit.load doesn't wait for the core, forward does."""
    host("inf2")
    folder, manifest = compiled(**{option: True})
    host.set_machine(device="inf2", busy=True)  # type: ignore[attr-defined]
    (program,) = load(folder, manifest)
    with pytest.raises(errors.DeviceRunError, match="could not be initialized"):
        program(IDS, MASK)
    host.set_machine(device="inf2")  # type: ignore[attr-defined]
    assert program(IDS, MASK)[0].shape == (2, 4, 3)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_dynamic_batch_is_in_the_file(host: Host, compiled: Any, rows: int) -> None:
    """trace, Dynamic Batching: set in place, before the file is saved; split and padded along the first dimension."""
    host("inf2")
    folder, manifest = compiled(dynamic_batch=True, auto_cast="none")
    assert [name for name, _ in called("dynamic_batch")] == ["dynamic_batch"]
    (program,) = load(folder, manifest)
    ids = IDS.repeat(3, 1)[:rows]
    (found,) = program(ids, (ids > 0).long())
    torch.testing.assert_close(found, Small()(ids, (ids > 0).long())[0])


def test_a_dynamic_batch_with_separate_weights_is_refused(host: Host, exporting: Any) -> None:
    """optimum-neuron, export_neuronx: it forces the weights inside, and `foreign` reads its artifacts so."""
    host("inf2")
    with pytest.raises(errors.InvalidOptionError, match=r"dynamic_batch is True.* weights inside") as caught:
        exporting("inf2", dynamic_batch=True, inline_weights=False)
    assert exit_code(caught.value) == 2
    assert "torch_neuronx" not in sys.modules


def test_without_it_another_batch_is_an_error_of_ours(host: Host, compiled: Any) -> None:
    """trace: Fixed Input Shapes, "this will result in an error"."""
    host("inf2")
    folder, manifest = compiled()
    (program,) = load(folder, manifest)
    assert not called("dynamic_batch")
    with pytest.raises(errors.DeviceRunError, match="in place of") as caught:
        program(IDS[:1], MASK[:1])
    assert exit_code(caught.value) == 3


@pytest.mark.parametrize(
    "inputs", [(IDS[:, :3], MASK[:, :3]), (IDS, MASK[:1]), (IDS.int(), MASK)], ids=["length", "rows differ", "type"]
)
def test_the_librarys_value_error_is_an_error_of_ours(host: Host, compiled: Any, inputs: tuple[Tensor, ...]) -> None:
    """trace, Dynamic Batching: another dimension, or rows that differ between inputs, "will raise a ValueError"."""
    host("inf2")
    folder, manifest = compiled(dynamic_batch=True)
    (program,) = load(folder, manifest)
    with pytest.raises(errors.DeviceRunError) as caught:
        program(*inputs)
    assert not isinstance(caught.value, ValueError)


def test_a_caller_never_gets_there_with_such_a_call(host: Host, exporting: Any) -> None:
    host("inf2")
    session = Session.open(exporting("inf2", dynamic_batch=True).path)
    with pytest.raises(errors.SequenceTooLongError):
        session.run({"input_ids": torch.ones(3, 9, dtype=torch.int64)})
    with pytest.raises(errors.InputShapeError):
        session.run({"input_ids": IDS, "attention_mask": MASK[:1]})
