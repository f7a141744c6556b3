"""docs/neuron.md: its blocks run, against the doubles of the vendor's libraries, and what it states is so."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cli.app import app
from neuronbert import Artifact, ExportSpec, NeuronAutoModel, Placement, StaticShape, errors, export, sdk
from neuronbert.backends import flags, torchneuron
from neuronbert.backends.registry import TARGETS
from neuronbert.releases import RELEASES
from neuronbert.runtime import Session
from tests.contract.conftest import host  # noqa: F401  the fixture
from tests.support import neuron

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "neuron.md").read_text(encoding="utf-8")
ROWS = torch.tensor([[101, 7592, 102, 0], [101, 2023, 2003, 102]])
COMPILERS = ("2.26.6360.0", "2.27.5334.0")
"""The last without the flags for integers, and the first that has them."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def table(head: str) -> list[list[str]]:
    """The rows under a line that begins like this."""
    _, _, rest = PAGE.partition(f"\n| {head}")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture
def library(host: Callable[..., Any]) -> Callable[..., Any]:  # noqa: F811
    """Makes this process a machine, as `host` does, and returns the imported double."""

    def make(device: str | None = None, **settings: Any) -> Any:
        from importlib import import_module

        host(device, **settings)
        return import_module("torch_neuronx")

    return make


@pytest.fixture
def made(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Artifact]:
    def make(target: str = "inf2", **options: Any) -> Artifact:
        spec = ExportSpec(str(tiny("text-classification")), (StaticShape(2, 8),), target=target, **options)
        return export(spec, tmp_path / "artifact", overwrite=True)

    return make


@pytest.fixture
def workplace(tmp_path: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, settings in {"my-bert": {}, "my-bert-trained-further": {"initializer_range": 0.3}}.items():
        (tmp_path / name).symlink_to(tiny("text-classification", max_position_embeddings=128, **settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> Any:
    """A command of the page."""
    program, *arguments = shlex.split(line)
    assert program == "neuronbert"
    return CliRunner().invoke(app, arguments)


class TestBlocks:
    def test_the_commands_run_without_a_device(self, host, workplace: Path) -> None:  # noqa: F811
        host()
        for line in (line for block in blocks("bash") for line in block.splitlines()):
            done = run(line)
            # With the library for torch 2.9 beside another torch, doctor has something to say.
            doctor = line.startswith("neuronbert doctor") and not torch.__version__.startswith("2.9.")
            assert done.exit_code == (1 if doctor else 0), f"{line}\n{done.output}"
        done = run("neuronbert predict my-bert-inf2 Hello.")
        assert done.exit_code == 3
        assert done.stderr == blocks("text")[0]
        assert Artifact.open(workplace / "my-bert-trn3").manifest.backend == "torchneuron"

    def test_the_python_examples_run(self, library: Callable[..., Any], workplace: Path) -> None:
        library("inf2", cores=2)
        spec = ExportSpec("my-bert", (StaticShape(1, 128),), target="inf2")
        export(spec, "my-bert-inf2")
        for block in blocks("python"):
            exec(compile(block, "neuron.md", "exec"), {})

    def test_what_is_installed_is_what_the_errors_say(self) -> None:
        lines = [line for block in blocks("sh") for line in block.splitlines() if "torch-neuronx" in line]
        assert lines == [sdk.install("trace"), sdk.install("native")]


class TestTables:
    def test_the_releases(self) -> None:
        rows = [
            [
                release.sdk,
                ", ".join(release.libraries),
                release.compiler,
                release.runtime,
                release.driver,
                release.tools,
                " to ".join(release.python),
            ]
            for release in RELEASES
        ]
        assert table("SDK | torch-neuronx") == rows

    def test_the_targets_of_the_libraries(self) -> None:
        rows = {name: cells for name, *cells in table("| torch-neuronx 2.9")}
        for column, backend in enumerate(cell.strip("`") for cell in rows["backend in the manifest"]):
            named = re.findall(r"`(\w+)`", rows["targets"][column])
            assert named == [target for target, backends in TARGETS.items() if backend in backends]

    @pytest.mark.parametrize("target", [target for target in TARGETS if target != "cpu"])
    def test_every_flag_is_explained(self, target: str) -> None:
        spec = ExportSpec("somewhere", (StaticShape(1, 8),), target=target)
        explained = " ".join(row[0] for row in table("flag | value"))
        for flag in flags.command_line(spec, COMPILERS[-1]):
            if flag.startswith("--"):
                assert flag in explained

    def test_the_exit_codes(self) -> None:
        from cli._errors import exit_code

        for _, names, codes in table("what | error"):
            found = [getattr(errors, name) for name in re.findall(r"`(\w+)`", names)]
            # An exception's class decides; its message needn't be made for that.
            assert [str(exit_code(kind.__new__(kind))) for kind in found] == codes.split(", ")


class TestStatements:
    def test_without_a_device_the_compiler_is_told_the_target(self, host, made) -> None:  # noqa: F811
        host()
        artifact = made()
        import torch_neuronx

        assert torch_neuronx.PLATFORM == "inf2", "the override was set before the import"
        (called,) = [given for name, given in torch_neuronx.calls if name == "trace"]
        assert called["cpu_backend"] is True
        assert called["compiler_args"] == list(artifact.manifest.compiler.flags)
        with pytest.raises(errors.BackendUnavailableError, match="a process of its own"):
            made("trn1")

    def test_with_a_device_nothing_is_overridden(self, library, made) -> None:
        double = library("inf2")
        made()
        assert double.calls[0][1]["cpu_backend"] is False
        assert "NEURON_PLATFORM_TARGET_OVERRIDE" not in os.environ

    def test_an_override_for_another_target_is_refused(self, host, made, monkeypatch) -> None:  # noqa: F811
        host()
        monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
        with pytest.raises(errors.BackendUnavailableError, match="unset it, or set NEURON_PLATFORM_TARGET_OVERRIDE"):
            made()

    def test_how_to_load_is_said_before_the_program_is_saved(self, library, made, monkeypatch) -> None:
        from neuronbert.backends import torchscript

        double = library("inf2")
        save = torchscript.save
        monkeypatch.setattr(torchscript, "save", lambda *given: (double.calls.append(("save", {})), save(*given))[1])
        made(lazy_load=True, async_load=True, dynamic_batch=True)
        assert [name for name, _ in double.calls] == ["trace", "dynamic_batch", "lazy_load", "async_load", "save"]

    def test_separate_weights_are_sent_to_the_core_of_their_program(self, library, made) -> None:
        double = library("inf2", cores=4)
        artifact = made(inline_weights=False)
        for placement, core in ((Placement(), 0), (Placement(first_core=3), 3)):
            double.calls.clear()
            session = Session.open(artifact.path, placement=placement)
            assert double.calls[-1] == ("move_trace_to_device", {"device_id": core})
            assert session.run({"input_ids": ROWS})["logits"].shape == (2, 2)

    def test_weights_inside_stay_where_the_library_puts_them(self, library, made) -> None:
        double = library("inf2")
        artifact = made()
        double.calls.clear()
        Session.open(artifact.path)
        assert double.calls == []

    def test_a_placement_is_the_first_core_and_their_number(self, library, made) -> None:
        double = library("inf2", cores=4)
        artifact = made()
        double.calls.clear()
        Session.open(artifact.path, placement=Placement(first_core=1, cores=2))
        assert double.calls == [("set_neuron_cores", {"start_nc": 1, "nc_count": 2})]

    @pytest.mark.parametrize("placement", [Placement(first_core=2), Placement(cores=3), Placement(1, 2)])
    def test_a_core_that_is_not_there_is_refused(self, library, made, placement: Placement) -> None:
        library("inf2", cores=2)
        with pytest.raises(errors.DeviceLoadError, match="neuronbert doctor"):
            Session.open(made().path, placement=placement)

    @pytest.mark.parametrize("target", ["inf2", "trn1", "trn1n", "trn2", "trn3"])
    def test_flags_that_a_compiler_lacks_are_left_out(self, target: str) -> None:
        spec = ExportSpec("somewhere", (StaticShape(1, 8),), target=target)
        for version in (None, COMPILERS[0]):
            line = flags.command_line(spec, version)
            assert "--implicit-integer-downcast" not in line
            assert "--native-int64" not in line
        line = flags.command_line(spec, COMPILERS[1])
        assert line[line.index("--implicit-integer-downcast") + 1] == "all"
        assert ("--native-int64" in line) == (target in ("trn2", "trn3"))

    @pytest.mark.parametrize("target", ["inf2", "trn1", "trn1n", "trn2", "trn3"])
    def test_logical_cores_of_two_are_for_trn2_and_later(self, target: str) -> None:
        spec = ExportSpec("somewhere", (StaticShape(1, 8),), target=target, lnc=2)
        if target in ("trn2", "trn3"):
            line = flags.command_line(spec, None)
            assert line[line.index("--lnc") + 1] == "2"
            return
        with pytest.raises(errors.InvalidOptionError, match="no larger logical cores"):
            flags.command_line(spec, None)

    @pytest.mark.parametrize("own", ["--auto-cast=none", "-O1", "--lnc", "--target"])
    def test_a_flag_that_has_an_option_is_refused(self, own: str) -> None:
        spec = ExportSpec("somewhere", (StaticShape(1, 8),), target="trn2", compiler_args=(own,))
        with pytest.raises(errors.InvalidOptionError, match="there is --"):
            flags.command_line(spec, None)

    def test_programs_for_other_logical_cores_are_refused(self, library, made, monkeypatch) -> None:
        library("trn2")
        path = made("trn2", lnc=1).path
        with pytest.raises(errors.LogicalCoresError, match="NEURON_LOGICAL_NC_CONFIG=1"):
            Session.open(path)
        monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "1")
        Session.open(path)

    @pytest.mark.parametrize(
        ("fail", "said"),
        [("exit", "failed with 70"), ("killed", "failed with -9"), ("nothing", "left no file")],
    )
    def test_a_compiler_that_fails_is_an_error_with_its_log(self, host, made, tmp_path, fail, said) -> None:  # noqa: F811
        host("inf2", fail=fail)
        with pytest.raises(errors.CompilationFailedError, match=said) as raised:
            made()
        log = re.search(r"Its log (\S+) ends with: .*NCC_EVRF001", str(raised.value))
        assert log is not None
        assert Path(log[1]).is_file()
        assert not (tmp_path / "artifact").exists()

    def test_a_full_disk_is_no_failure_of_the_compiler(self, host, made) -> None:  # noqa: F811
        host("inf2", fail="full")
        with pytest.raises(errors.StorageError, match="No space left"):
            made()

    @pytest.mark.parametrize("machine", [{"busy": True}, {"neff": [1, 0]}], ids=["taken", "newer"])
    def test_what_the_device_does_not_load(self, host, made, machine: dict[str, Any]) -> None:  # noqa: F811
        host("inf2")
        path = made().path
        host.set_machine(device="inf2", **machine)
        with pytest.raises(errors.DeviceLoadError):
            Session.open(path)


class TestTorchNeuron:
    @pytest.fixture(autouse=True)
    def device(self, host, monkeypatch, tmp_path: Path) -> None:  # noqa: F811
        host("trn3", version=neuron.NATIVE, source="torch_native")
        monkeypatch.setattr(torchneuron, "DEVICE", "cpu")  # the double has no device of its own
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("TORCH_NEURONX_NEFF_CACHE_DIR", "")  # the backend sets it, and pytest takes it back

    def test_torchneuron_compiles_once(self, made, tmp_path: Path) -> None:
        path = made("trn3").path
        assert not (tmp_path / "cache").exists(), "exporting compiles nothing"
        Session.open(path)
        import torch_neuronx

        assert len(torch_neuronx.compiled) == 1
        assert len(list((tmp_path / "cache" / "neuronbert" / "neff").rglob("*.neff"))) == 1
        torch._dynamo.reset()
        Session.open(path)
        assert len(torch_neuronx.compiled) == 1

    def test_torchneuron_says_at_load_that_it_can_not_compile(self, host, made) -> None:  # noqa: F811
        path = made("trn3").path
        host.set_machine(device="trn3", fail="exit")
        with pytest.raises(errors.CompilationFailedError, match="failed with 70"):
            Session.open(path)

    def test_a_placement_is_refused(self, made) -> None:
        path = made("trn3").path
        with pytest.raises(errors.InvalidOptionError, match="NEURON_RT_VISIBLE_CORES"):
            NeuronAutoModel.from_pretrained(path, placement=Placement(first_core=0))
