"""TorchNeuron, as far as its documentation goes.

Each test names the page of the Neuron SDK's documentation that it holds the backend to. `reference`, `about` and
`env-vars` stand for torch/compile/reference-torch-compile, torch/compile/about-torch-compile and
torch/reference/env-vars.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cli._errors import exit_code
from neuronbert import Artifact, ExportSpec, NeuronAutoModel, StaticShape, errors, export, reference
from neuronbert.artifact import seal
from neuronbert.backends import pt2, registry, torchneuron
from neuronbert.backends.base import ANYWHERE, Placement
from neuronbert.runtime import Session
from tests.contract.conftest import forget
from tests.contract.small import IDS, MASK, Small, library
from tests.support import neuron

TWO = (StaticShape(1, 8), StaticShape(2, 16))


@pytest.fixture
def native(host: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Makes this process a machine with TorchNeuron; the double computes on the CPU."""

    def make(device: str | None = "trn3", **settings: Any) -> None:
        host(device, **{"version": neuron.NATIVE, "source": "torch_native", **settings})
        monkeypatch.setattr(torchneuron, "DEVICE", "cpu")

    monkeypatch.delenv("NEURONBERT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(reference.NEFF_CACHE, raising=False)
    make.set_machine = host.set_machine  # type: ignore[attr-defined]
    return make


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def exporting(
    tiny: Callable[..., Path], kept: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Artifact]:
    """Exports a checkpoint of one layer, each way only once: nothing of the vendor's has a part in it."""

    def make(target: str, *shapes: StaticShape, **options: Any) -> Artifact:
        shapes = shapes or (StaticShape(1, 8),)
        checkpoint = tiny("text-classification", num_hidden_layers=1)
        spec = ExportSpec(str(checkpoint), shapes, "text-classification", target=target, **options)
        key = f"{spec.fingerprint()}-{registry.resolve_target(target)}"
        if key not in kept:
            kept[key] = export(spec, tmp_path_factory.mktemp("native") / "artifact").path
        return Artifact.open(shutil.copytree(kept[key], tmp_path / "artifact"))

    return make


def logits(session: Session, rows: int = 2) -> torch.Tensor:
    return session.run({"input_ids": IDS[:rows], "attention_mask": MASK[:rows]})["logits"]


# Exporting.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("inline_weights", False),
        ("lazy_load", True),
        ("async_load", True),
        ("compiler_workdir", "/tmp/work"),
    ],
)
def test_settings_that_it_lacks_are_refused(native: Any, exporting: Any, option: str, value: object) -> None:
    """torch/compile: there is no trace, so nothing of its API; the compiler works where it is loaded."""
    native()
    with pytest.raises(errors.InvalidOptionError, match=rf"{option} is .*the trn3 target has no such setting"):
        exporting("trn3", **{option: value})


def test_exporting_runs_nothing_of_the_vendors(native: Any, exporting: Any) -> None:
    native(None)
    compiler = exporting("trn3", lnc=1, optlevel="3", compiler_args=("--verbose", "error")).manifest.compiler
    assert "torch_neuronx" not in sys.modules
    assert (compiler.name, compiler.lnc, compiler.optlevel, compiler.inline_weights) == ("torch.export", 1, "3", False)
    assert compiler.flags[-4:] == ("--logical-nc-config", "1", "--verbose", "error")
    assert set(compiler.versions) == {"torch"}


def test_a_flag_that_loading_would_not_take_is_refused(native: Any, exporting: Any) -> None:
    native()
    with pytest.raises(errors.InvalidOptionError, match=r"'--internal'.*not in the compiler's reference"):
        exporting("trn3", compiler_args=("--internal",))


def test_a_model_that_can_not_be_exported_is_one_line(native: Any, tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (ids if ids.sum() > 0 else -ids,)

    native()
    shape = StaticShape(1, 4)
    spec = ExportSpec("m", (shape,), "fill-mask", target="trn3")
    with pytest.raises(errors.CompilationFailedError, match=r"1x4: torch\.export failed") as caught:
        torchneuron.compiler().compile(Branches(), {shape: (IDS[:1],)}, spec, tmp_path)
    assert exit_code(caught.value) == 1


def test_the_program_names_no_device_that_it_was_made_on(native: Any, exporting: Any) -> None:
    """torch/about-pytorch-neuron: tensors are on the device "neuron". It isn't here: "meta" is another one."""
    native()
    artifact = exporting("trn3")
    module = pt2.module_on(pt2.load(artifact.path / artifact.manifest.program_files[0]), "meta")
    ids = torch.ones(1, 8, dtype=torch.int64, device="meta")
    (found,) = module(ids, ids, ids)
    assert (found.device.type, found.shape) == ("meta", (1, 2))


# Loading.


def test_it_compiles_once_for_each_shape_and_not_for_calls(native: Any, exporting: Any) -> None:
    """about: "compilation happens on the first call with a given input signature"."""
    native()
    session = Session.open(exporting("trn3", *TWO).path)
    assert len(library().compiled) == 2
    for rows in (1, 2, 1):
        logits(session, rows)
    assert len(library().compiled) == 2


def test_it_is_asked_for_one_graph_without_dynamic_shapes(
    native: Any, exporting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reference: fullgraph=True "is recommended", dynamic=True "is rejected", only the default mode has an effect."""
    native()
    asked = []
    compile_module = torch.compile

    def remember(module: nn.Module, **given: Any) -> Any:
        asked.append({name: value for name, value in given.items() if name != "backend"})
        return compile_module(module, **given)

    monkeypatch.setattr(torch, "compile", remember)
    Session.open(exporting("trn3").path)
    assert asked == [{"fullgraph": True, "dynamic": False}]


def test_a_second_load_takes_the_neffs_from_the_cache(native: Any, exporting: Any, tmp_path: Path) -> None:
    """env-vars: TORCH_NEURONX_NEFF_CACHE_DIR, read when the library is imported."""
    native()
    artifact = exporting("trn3", *TWO)
    before = logits(Session.open(artifact.path))
    cache = tmp_path / "cache" / "neuronbert" / "neff"
    assert cache == library().CACHE
    assert len(list(cache.rglob("*.neff"))) == len(library().compiled) == 2
    forget()
    os.environ.pop(reference.NEFF_CACHE)
    again = logits(Session.open(artifact.path))
    assert library().compiled == []
    torch.testing.assert_close(again, before, rtol=0, atol=0)


def test_the_users_own_cache_is_respected(
    native: Any, exporting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native()
    monkeypatch.setenv(reference.NEFF_CACHE, str(tmp_path / "own"))
    Session.open(exporting("trn3").path)
    assert len(list((tmp_path / "own").rglob("*.neff"))) == 1
    assert not (tmp_path / "cache").exists()


def test_neffs_are_kept_in_the_folder_of_our_own_cache(
    native: Any, exporting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever that is, and as an absolute path, as the library reads the variable whenever it likes."""
    native()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", "ours")
    Session.open(exporting("trn3").path)
    assert tmp_path / "ours" / "neff" == library().CACHE
    assert len(list((tmp_path / "ours").rglob("*.neff"))) == 1


def test_a_cache_that_can_not_be_made_is_one_line(
    native: Any, exporting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native()
    artifact = exporting("trn3")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(errors.StorageError, match="neuronbert/neff can't be written") as caught:
        Session.open(artifact.path)
    assert exit_code(caught.value) == 3
    assert reference.NEFF_CACHE not in os.environ


def test_a_compiler_that_fails_is_one_line_with_its_reason(native: Any, exporting: Any) -> None:
    """env-vars: TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION, by default a failure to compile "raises the error"."""
    native(fail="exit")
    artifact = exporting("trn3")
    with pytest.raises(errors.CompilationFailedError) as caught:
        Session.open(artifact.path)
    assert str(caught.value) == "The compiler didn't finish 1x8: neuronx-cc failed with 70."
    assert exit_code(caught.value) == 1


@pytest.mark.parametrize(
    ("text", "refused"), [("0", True), ("False", True), ("off", True), ("1", False), ("TRUE", False)]
)
def test_what_can_not_be_compiled_is_never_run_uncompiled(
    native: Any, exporting: Any, monkeypatch: pytest.MonkeyPatch, text: str, refused: bool
) -> None:
    """env-vars: TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION; without it there would be no error at all."""
    native()
    artifact = exporting("trn3")
    monkeypatch.setenv(reference.NO_FALLBACK, text)
    if not refused:
        Session.open(artifact.path)
        return
    with pytest.raises(errors.BackendUnavailableError, match=f"unset {reference.NO_FALLBACK}") as caught:
        Session.open(artifact.path)
    assert exit_code(caught.value) == 3
    assert "torch_neuronx" not in sys.modules


@pytest.mark.parametrize("own", ["", "--verbose error"])
def test_the_flags_are_in_the_environment_while_it_compiles_and_no_longer(
    native: Any, exporting: Any, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """compiler/neuronx-cc/api-reference-guide: NEURON_CC_FLAGS forwards options; the right-most wins."""
    native()
    if own:
        monkeypatch.setenv("NEURON_CC_FLAGS", own)
    artifact = exporting("trn3", auto_cast="all", optlevel="3")
    Session.open(artifact.path)
    assert library().flags == [f"{own} {' '.join(artifact.manifest.compiler.flags)}".strip()]
    assert os.environ.get("NEURON_CC_FLAGS", "") == own
    native.set_machine(device="trn3", fail="exit")
    torch._dynamo.reset()
    with pytest.raises(errors.CompilationFailedError):
        Session.open(artifact.path)
    assert os.environ.get("NEURON_CC_FLAGS", "") == own


def test_calls_in_another_mode_are_compiled_with_the_same_flags(native: Any, exporting: Any) -> None:
    """about: a guard that fails compiles again, and by then the flags of the load are gone."""
    native()
    session = Session.open(exporting("trn3", StaticShape(2, 4)).path)
    expected = logits(session)
    with torch.inference_mode():
        torch.testing.assert_close(logits(session), expected)
    with torch.autocast("cpu", enabled=False):
        torch.testing.assert_close(logits(session), expected)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        torch.testing.assert_close(logits(session), expected)
    finally:
        torch.set_num_threads(threads)
    assert len(set(library().flags)) == 1
    assert len(library().compiled) == 1  # the others are in the cache, as graph and flags are the same


def test_programs_that_load_at_once_get_their_own_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEURON_CC_FLAGS", raising=False)
    inside, seen = threading.Event(), []

    def other() -> None:
        inside.wait(10)
        with torchneuron._compiler_flags(("--target", "trn2")):
            seen.append(os.environ["NEURON_CC_FLAGS"])

    thread = threading.Thread(target=other)
    thread.start()
    with torchneuron._compiler_flags(("--target", "trn3")):
        inside.set()
        thread.join(0.2)
        assert os.environ["NEURON_CC_FLAGS"] == "--target trn3"
    thread.join(10)
    assert seen == ["--target trn2"]
    assert "NEURON_CC_FLAGS" not in os.environ


def test_more_shapes_than_dynamo_compiles_of_one_function(native: Any, tmp_path: Path) -> None:
    """docs.pytorch.org, torch.compile: of one code object 8 versions are compiled, then it runs uncompiled."""
    native()
    torchneuron._import("trn3")
    for rows in range(1, 12):
        ids = torch.ones(rows, 4, dtype=torch.int64)
        module = torch.export.export(Small().eval(), (ids, ids), strict=False).module(check_guards=False)
        torchneuron.TorchNeuronProgram(module, ("--target", "trn3")).warm(str(rows), (ids, ids))
    assert len(library().compiled) == 11


def test_several_shapes_share_one_copy_of_the_weights(native: Any, exporting: Any) -> None:
    native()
    artifact = exporting("trn3", *TWO)
    programs = list(torchneuron.runtime().load(artifact.path, artifact.manifest, ANYWHERE).values())
    first, second = (
        {name: value.data_ptr() for name, value in program._module.state_dict().items()}  # type: ignore[attr-defined]
        for program in programs
    )
    assert first == second


def test_a_dynamic_batch_is_split_by_the_loader(native: Any, exporting: Any) -> None:
    """reference: "native dynamic shapes ... is not yet available", each new shape compiles again."""
    native()
    session = Session.open(exporting("trn3", StaticShape(2, 8), dynamic_batch=True, auto_cast="none").path)
    ids = IDS.repeat(3, 1)[:5]
    found = session.run({"input_ids": ids, "attention_mask": (ids > 0).long()})["logits"]
    torch.testing.assert_close(found[:2], logits(session))
    assert len(library().compiled) == 1


def test_replaced_weights_that_do_not_fit_are_refused(native: Any, exporting: Any, tmp_path: Path) -> None:
    native()
    model = NeuronAutoModel.from_pretrained(exporting("trn3").path)
    with pytest.raises(errors.WeightsRefusedError, match="all of them"):
        model.replace_weights({"classifier.weight": torch.zeros(2, 32)})
    with pytest.raises(errors.ReplacedWeightsError):
        model.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("placement", [Placement(first_core=0), Placement(cores=2)])
def test_a_placement_is_refused_with_what_decides_it(native: Any, exporting: Any, placement: Placement) -> None:
    native()
    artifact = exporting("trn3")
    with pytest.raises(errors.InvalidOptionError, match="NEURON_RT_VISIBLE_CORES"):
        Session.open(artifact.path, placement=placement)


def test_logical_cores_of_another_size_are_refused(
    native: Any, exporting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """neuron-features/logical-neuroncore-config: applies to Trn3 as well; its default is 2."""
    native()
    artifact = exporting("trn3", lnc=1)
    with pytest.raises(errors.LogicalCoresError, match="NEURON_LOGICAL_NC_CONFIG=1"):
        Session.open(artifact.path)
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "1")
    Session.open(artifact.path)


# Which library, which device.


def test_without_a_device_it_is_exported_and_not_loaded(native: Any, exporting: Any) -> None:
    """frameworks/torch/pytorch-native-overview: compiling takes the hardware."""
    native(None)
    artifact = exporting("trn3")
    with pytest.raises(errors.BackendUnavailableError, match="no Inferentia2 or Trainium device") as caught:
        Session.open(artifact.path)
    assert exit_code(caught.value) == 3


def test_a_device_of_another_kind_is_refused(native: Any, exporting: Any) -> None:
    """torch/about-pytorch-neuron: Trn2 and Trn3."""
    native("trn2")
    artifact = exporting("trn3")
    with pytest.raises(errors.BackendUnavailableError, match="is of type trn2; export with --target trn2"):
        Session.open(artifact.path)


@pytest.mark.parametrize(
    ("target", "version", "source", "said"),
    [
        ("trn3", neuron.TRACE, "torch_neuronx", r"torch-neuronx is 2\.9\.0\.2\.15\.32035, this needs TorchNeuron"),
        ("inf2", neuron.NATIVE, "torch_native", r"torch-neuronx is 2\.13\.3\.0, this needs the XLA library, 2\.9"),
    ],
)
def test_the_other_library_of_the_name_is_told_apart(
    native: Any, exporting: Any, target: str, version: str, source: str, said: str
) -> None:
    """frameworks/torch/about: "the same Python package name", "an entirely new native PyTorch backend"."""
    native(target, version=version, source=source)
    with pytest.raises(errors.BackendUnavailableError, match=said):
        Session.open(exporting(target).path)


@pytest.mark.parametrize(
    ("version", "source", "backend"),
    [(neuron.TRACE, "torch_neuronx", "neuronx"), (neuron.NATIVE, "torch_native", "torchneuron")],
)
def test_trn2_takes_the_library_that_is_installed(
    native: Any, exporting: Any, version: str, source: str, backend: str
) -> None:
    native("trn2", version=version, source=source)
    artifact = exporting("trn2", StaticShape(2, 4))
    assert registry.resolve_target("auto") == ("trn2", backend)
    assert artifact.manifest.backend == backend
    assert logits(Session.open(artifact.path)).shape == (2, 2)


def test_a_library_that_adds_no_backend_is_refused(native: Any, exporting: Any, edit: Any) -> None:
    native()
    edit(lambda code: code.replace('register_backend(neuron, name="neuron")\n', ""))
    artifact = exporting("trn3")
    with pytest.raises(errors.BackendUnavailableError, match=r"adds no backend 'neuron' to torch\.compile; pip"):
        Session.open(artifact.path)


def test_a_broken_installation_is_one_line(native: Any, exporting: Any, edit: Any) -> None:
    native()
    edit(lambda _: 'import os\nraise OSError("libnrt.so.1: cannot open")\n')
    artifact = exporting("trn3")
    with pytest.raises(errors.BackendUnavailableError, match=r"can't be imported \(libnrt\.so\.1"):
        Session.open(artifact.path)


def test_a_device_that_does_not_take_the_weights_is_one_line(
    native: Any, exporting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    native()
    artifact = exporting("trn3")
    monkeypatch.setattr(torchneuron, "DEVICE", "privateuseone")  # registered by nobody
    with pytest.raises(errors.DeviceLoadError, match=r"didn't load program_1x8\.pt2") as caught:
        Session.open(artifact.path)
    assert exit_code(caught.value) == 3


# What comes from elsewhere.


@pytest.mark.parametrize("word", ["--logfile=/tmp/elsewhere", "--output", "$(touch x)", "--dump-everything", "compile"])
def test_an_artifact_gives_the_compiler_no_other_flags(native: Any, exporting: Any, word: str) -> None:
    native()
    artifact = exporting("trn3")
    compiler = artifact.manifest.compiler
    changed = compiler.model_copy(update={"flags": (*compiler.flags, word)})
    seal(artifact.path, artifact.manifest.model_copy(update={"compiler": changed}))
    with pytest.raises(errors.ArtifactCorruptError, match="not in its reference"):
        Session.open(artifact.path)
    assert "torch_neuronx" not in sys.modules


def test_an_artifact_is_compiled_for_what_its_manifest_says(native: Any, exporting: Any) -> None:
    """neuron-features/logical-neuroncore-config: what is checked against the runtime is what is compiled with."""
    native()
    artifact = exporting("trn3")
    compiler = artifact.manifest.compiler
    changed = compiler.model_copy(update={"flags": (*compiler.flags, "-lnc=1")})
    seal(artifact.path, artifact.manifest.model_copy(update={"compiler": changed}))
    with pytest.raises(errors.ArtifactCorruptError, match=r"another thing than its flags: '--logical-nc-config 1'"):
        Session.open(artifact.path)
    assert "torch_neuronx" not in sys.modules


def test_programs_over_different_weights_are_refused(native: Any, exporting: Any) -> None:
    native()
    artifact: Artifact = exporting("trn3", *TWO)
    ids = torch.ones(2, 16, dtype=torch.int64)
    pt2.save(torch.export.export(Small().eval(), (ids, ids), strict=False), artifact.path / "program_2x16.pt2")
    seal(artifact.path, artifact.manifest)
    with pytest.raises(errors.ArtifactCorruptError, match="other weights than the other programs"):
        Session.open(artifact.path)


def test_a_program_that_takes_something_else_is_one_line(native: Any, exporting: Any) -> None:
    native()
    artifact: Artifact = exporting("trn3")
    ids = torch.ones(1, 8, dtype=torch.int64)
    pt2.save(torch.export.export(Small().eval(), (ids, ids), strict=False), artifact.path / "program_1x8.pt2")
    seal(artifact.path, artifact.manifest)
    with pytest.raises(errors.CompilationFailedError, match="didn't finish 1x8"):
        Session.open(artifact.path)
