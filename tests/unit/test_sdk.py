"""What of the SDK is here, and what it allows. Sources are paths in the SDK's documentation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import sdk
from neuronbert.sdk import Compiler, Device, Host, Library
from neuronbert.targets import TARGETS
from tests.support.distributions import (
    REFUSES,
    lay_out,
    lay_out_compiler,
    lay_out_library,
    lay_out_machine,
    lay_out_stubs,
)

TRACE = Library("trace", "2.9.0.2.15.32035+ab12")
NATIVE = Library("native", "2.13.3.0")
STUB = Library("stub", "1.0")
REAL = Compiler("2.28.7631.0+cd34", stub=False, path=Path("/opt/bin/neuronx-cc"))
PAIRS = [(target, kind) for target, facts in TARGETS.items() for kind in facts.kinds]


def host(library=None, compiler=None, device=None, torch: str | None = "2.13.0+cpu") -> Host:
    return Host(library, compiler, Device(device, 1) if device else None, torch)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on the import path, with no executable to be found but those put there."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PATH", str(tmp_path / "site/bin"))
    return tmp_path / "site"


class TestLibrary:
    @pytest.mark.parametrize(
        ("version", "kind"),
        [
            ("1.13.1.1.17.0", "trace"),
            ("2.9.0.2.15.32035", "trace"),
            ("2.9.0.2.13.26312+8e870898", "trace"),
            ("2.10.0.1", "native"),
            ("2.13.3.0", "native"),
            ("2.14.3.0+f00", "native"),
        ],
    )
    def test_the_version_tells_the_two_libraries_of_one_name_apart(self, site: Path, version: str, kind: str) -> None:
        """Source: frameworks/torch/about/index, release-notes/components/torchneuron.

        TorchNeuron keeps the package's name and is another library; the last one on PyTorch/XLA is for torch 2.9.
        """
        lay_out_library(site, version)
        assert sdk.find_library() == Library(kind, version)

    def test_the_placeholders_of_pypi_are_recognised(self, site: Path) -> None:
        """Source: the packages torch-neuronx 1.0 and neuronx-cc 1.0.post1 on PyPI, unpacked."""
        lay_out_stubs(site)
        assert sdk.find_library() == Library("stub", "1.0")
        assert sdk.find_compiler() == Compiler("1.0.post1", stub=True, path=None)

    def test_a_placeholder_of_a_later_version_is_told_by_what_lies_in_it(self, site: Path) -> None:
        lay_out(site, "torch-neuronx", "2.9.9", {"torch_neuronx/__init__.py": f'"""Why."""\n{REFUSES}'})
        assert sdk.find_library() == Library("stub", "2.9.9")

    def test_a_placeholder_without_a_list_of_files_is_told_by_its_version(self, site: Path) -> None:
        lay_out_stubs(site)
        for record in site.glob("*/RECORD"):
            record.unlink()
        assert sdk.find_library() == Library("stub", "1.0")
        assert sdk.find_compiler() == Compiler("1.0.post1", stub=True, path=None)

    @pytest.mark.parametrize("content", ["def broken(:\n", "import torch\nraise ImportError\n", "", "# " + "x" * 5000])
    def test_one_module_that_does_not_begin_by_raising_is_no_placeholder(self, site: Path, content: str) -> None:
        lay_out(site, "torch-neuronx", "2.9.0", {"torch_neuronx/__init__.py": content})
        assert sdk.find_library() == Library("trace", "2.9.0")

    def test_nothing_of_a_package_is_run(self, site: Path) -> None:
        lay_out_library(site, "2.9.0.2.15.32035")
        script = "import sys; from neuronbert import sdk; assert sdk.find_library(); sdk.find_host(); "
        script += "assert not {'torch', 'torch_neuronx', 'neuronxcc'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": f"{site}:{Path.cwd()}"})

    def test_nothing_is_installed(self) -> None:
        assert sdk.find_library() is None
        assert sdk.find_compiler() is None


class TestCompiler:
    def test_the_executable_is_found_on_the_path(self, site: Path) -> None:
        folder = lay_out_compiler(site, "2.26.6360.0+12ab")
        assert sdk.find_compiler() == Compiler("2.26.6360.0+12ab", stub=False, path=folder / "neuronx-cc")

    def test_the_executable_is_found_beside_the_interpreter(self, site: Path, monkeypatch) -> None:
        folder = lay_out_compiler(site, "2.26.6360.0")
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        assert sdk.find_compiler() == Compiler("2.26.6360.0", stub=False, path=folder / "neuronx-cc")

    def test_a_package_without_its_executable_compiles_nothing(self, site: Path) -> None:
        """Source: compiler/neuronx-cc/how-to-generate-neff: `neuronx-cc` is a command."""
        lay_out_compiler(site, "2.26.6360.0", executable=False)
        found = sdk.find_compiler()
        assert found == Compiler("2.26.6360.0", stub=False, path=None)
        assert "has no executable" in sdk.why_not_compile("inf2", "trace", host(TRACE, found))


class TestDevice:
    @pytest.mark.parametrize(
        ("instance", "target"),
        [
            ("inf2.xlarge", "inf2"),
            ("inf2.48xlarge", "inf2"),
            ("trn1.2xlarge", "trn1"),
            ("trn1n.32xlarge", "trn1n"),
            ("trn2.48xlarge", "trn2"),
            ("trn2n.48xlarge", "trn2"),  # tools/neuron-sys-tools/neuron-ls
            ("trn2u.48xlarge", "trn2"),
            ("trn3.48xlarge", "trn3"),
            ("m7i.large", None),
        ],
    )
    def test_the_type_of_the_instance_is_the_target(self, tmp_path: Path, instance: str, target: str | None) -> None:
        lay_out_machine(tmp_path, instance, devices=12)
        assert sdk.find_device(tmp_path) == Device(target, 12)

    def test_the_driver_says_what_the_firmware_does_not(self, tmp_path: Path) -> None:
        """Source: tools/neuron-sys-tools/neuron-sysfs-user-guide: info/architecture/instance_type, as in "Inf2"."""
        lay_out_machine(tmp_path, "KVM")
        told = tmp_path / "sys/devices/virtual/neuron_device/neuron0/info/architecture/instance_type"
        told.parent.mkdir(parents=True)
        told.write_text("Trn1\n")
        assert sdk.find_device(tmp_path) == Device("trn1", 1)

    def test_without_a_device_file_there_is_no_device(self, tmp_path: Path) -> None:
        """Source: neuron-runtime/api/ndl: devices are /dev/neuron and a number."""
        lay_out_machine(tmp_path, "trn1.2xlarge", devices=0)
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev/neuron_other").touch()
        (tmp_path / "dev/neuronlink0").touch()
        assert sdk.find_device(tmp_path) is None
        assert sdk.find_instance(tmp_path) == "trn1.2xlarge"

    def test_inferentia1_is_no_device_for_any_library_here(self, tmp_path: Path) -> None:
        """Source: frameworks/torch/guide-torch-neuron-vs-torch-neuronx-inference: torch-neuronx is not for Inf1."""
        assert sdk.find_device(lay_out_machine(tmp_path, "inf1.xlarge")) is None

    def test_the_numbers_are_in_order(self, tmp_path: Path) -> None:
        lay_out_machine(tmp_path, devices=12)
        assert sdk.find_numbers(tmp_path) == tuple(range(12))

    def test_the_loaded_driver_tells_its_version(self, tmp_path: Path) -> None:
        """Source: neuron-runtime/nrt-troubleshoot: modinfo may show a newer one than the one that is loaded."""
        assert sdk.find_driver(lay_out_machine(tmp_path / "one", driver="2.30.2.0")) == "2.30.2.0"
        assert sdk.find_driver(lay_out_machine(tmp_path / "other", driver="")) is None

    def test_an_empty_machine_has_nothing(self, tmp_path: Path) -> None:
        assert sdk.find_device(tmp_path) is None
        assert sdk.find_instance(tmp_path) is None


class TestRules:
    def test_which_library_serves_which_target(self) -> None:
        """Source: frameworks/torch/guide-torch-neuron-vs-torch-neuronx-inference; torch/about-pytorch-neuron.

        torch-neuronx is for Inf2 and Trn1, TorchNeuron for Trn2 and Trn3. The compiler's `--target` takes inf2, trn1,
        trn1n and trn2 (compiler/neuronx-cc/api-reference-guide/index).
        """
        assert {target for target, facts in TARGETS.items() if "trace" in facts.kinds} == {
            "inf2",
            "trn1",
            "trn1n",
            "trn2",
        }
        assert {target for target, facts in TARGETS.items() if "native" in facts.kinds} == {"trn2", "trn3"}

    @pytest.mark.parametrize("target", ["inf2", "trn1", "trn1n", "trn2"])
    def test_tracing_needs_the_library_and_the_compiler_but_no_device(self, target: str) -> None:
        """Source: frameworks/torch/torch-neuronx/api-reference-guide/inference/api-torch-neuronx-trace."""
        assert sdk.why_not_compile(target, "trace", host(TRACE, REAL)) == ""
        for library, compiler in product((None, STUB, NATIVE, TRACE), (None, Compiler("1.0.post1", True, None), REAL)):
            if (library, compiler) != (TRACE, REAL):
                reason = sdk.why_not_compile(target, "trace", host(library, compiler))
                assert f'"torch-neuronx==2.9.*" "neuronx-cc==2.*" --extra-index-url {sdk.ADDRESS}' in reason

    @pytest.mark.parametrize("target", ["trn2", "trn3"])
    @pytest.mark.parametrize(
        ("torch", "ok"), [("2.13.0+cpu", True), ("2.14.0", True), ("2.12.1", False), (None, False)]
    )
    def test_exporting_for_torchneuron_needs_only_its_torch(self, target: str, torch: str | None, ok: bool) -> None:
        """Source: frameworks/torch/pytorch-native-overview: it compiles on Trn2 and Trn3 only."""
        reason = sdk.why_not_compile(target, "native", host(torch=torch))
        assert (reason == "") is ok
        assert ok or reason.endswith('pip install "torch>=2.13"')

    def test_the_placeholders_are_named_with_where_the_real_ones_are(self) -> None:
        reason = sdk.why_not_compile("inf2", "trace", host(STUB))
        assert reason.startswith("torch-neuronx 1.0 is PyPI's placeholder")
        assert reason.endswith("https://pip.repos.neuron.amazonaws.com")
        reason = sdk.why_not_compile("inf2", "trace", host(TRACE, Compiler("1.0.post1", stub=True, path=None)))
        assert reason.startswith("neuronx-cc 1.0.post1 is PyPI's placeholder")

    @pytest.mark.parametrize(("target", "kind"), PAIRS)
    def test_running_needs_a_device_of_the_target(self, target: str, kind: str) -> None:
        library = TRACE if kind == "trace" else NATIVE
        assert sdk.why_not_run(target, kind, host(library, REAL, target)) == ""
        assert "no Inferentia2 or Trainium device" in sdk.why_not_run(target, kind, host(library, REAL))

    @pytest.mark.parametrize("found", list(TARGETS))
    @pytest.mark.parametrize(("target", "kind"), PAIRS)
    def test_a_program_runs_on_its_own_chip_only(self, target: str, kind: str, found: str) -> None:
        """Source: neuron-runtime/guides/configuration-guide (NEURON_RT_ALLOW_LEGACY_NEFF); trn1-arch.

        A program for another architecture needs a switch and may stall. Trn1 and Trn1n have one chip. That Inf2 runs
        what was compiled for Trn1 is said nowhere.
        """
        reason = sdk.why_not_run(target, kind, host(TRACE if kind == "trace" else NATIVE, REAL, found))
        assert (reason == "") is (found == target or {found, target} == {"trn1", "trn1n"})
        assert not reason or reason.endswith(f"export with --target {found}")

    def test_a_device_of_an_unknown_kind_is_left_to_the_runtime(self) -> None:
        """Source: release-notes/components/runtime (2.32): the runtime checks a program against its device."""
        unknown = Host(TRACE, REAL, Device(None, 1), "2.9.0")
        assert sdk.why_not_run("trn1", "trace", unknown) == ""

    def test_running_what_was_traced_needs_no_compiler_but_torchneuron_does(self) -> None:
        """Source: torch/about-pytorch-neuron: TorchNeuron compiles through neuronx-cc when a graph is first run."""
        assert sdk.why_not_run("inf2", "trace", host(TRACE, None, "inf2")) == ""
        assert "neuronx-cc is not installed" in sdk.why_not_run("trn3", "native", host(NATIVE, None, "trn3"))

    @pytest.mark.parametrize(
        ("torch", "line"), [("2.14.1+cpu", "2.14"), ("2.13.0", "2.13"), ("2.9.0", "2.13"), (None, "2.13")]
    )
    def test_torchneuron_is_installed_in_the_family_of_the_torch_that_is_here(
        self, torch: str | None, line: str
    ) -> None:
        """Source: release-notes/components/torchneuron: the package's family must match PyTorch's version."""
        assert f'"torch-neuronx=={line}.*" "neuronx-cc==2.*" nki ' in sdk.install("native", torch)

    @pytest.mark.parametrize(("target", "kind"), [("trn3", "trace"), ("inf2", "native"), ("trn1", "native")])
    def test_a_library_that_does_not_serve_a_target_is_refused(self, target: str, kind: str) -> None:
        everything = host(TRACE if kind == "trace" else NATIVE, REAL, target)
        assert f"not {target}" in sdk.why_not_compile(target, kind, everything)
        assert f"not {target}" in sdk.why_not_run(target, kind, everything)

    def test_the_installed_library_is_chosen(self) -> None:
        for torch in (None, "2.9.1", "2.13.0+cpu"):
            assert sdk.choose_kind("trn2", NATIVE, torch) == "native"
            assert sdk.choose_kind("trn2", TRACE, torch) == "trace"
            assert sdk.choose_kind("inf2", NATIVE, torch) == "trace"

    @pytest.mark.parametrize("library", [STUB, None])
    @pytest.mark.parametrize(
        ("torch", "kind"), [("2.13.0+cpu", "native"), ("2.14.1", "native"), ("2.12.0", "trace"), (None, "trace")]
    )
    def test_without_a_library_the_one_that_can_be_exported_for_is_chosen(self, library, torch, kind: str) -> None:
        assert sdk.choose_kind("trn2", library, torch) == kind
        assert sdk.choose_kind("inf2", library, torch) == "trace"
        assert sdk.choose_kind("trn3", library, torch) == "native"
        assert kind == "trace" or sdk.why_not_compile("trn2", kind, host(library, None, None, torch)) == ""

    @pytest.mark.parametrize(("torch", "needed"), [("2.13.0+cpu", '"torch==2.9.*" '), ("2.9.1+cpu", ""), (None, "")])
    def test_the_line_for_the_older_library_brings_its_torch(self, torch: str | None, needed: str) -> None:
        line = sdk.install("trace", torch)
        assert line.startswith(f'pip install {needed}"torch-neuronx==2.9.*" "neuronx-cc==2.*" --extra')

    @pytest.mark.parametrize(("platform", "ok"), [(None, True), ("inf2", True), ("trn1", False), ("moon", False)])
    def test_the_environment_may_not_mean_another_target(self, platform: str | None, ok: bool) -> None:
        """Source: vllm-neuron/docs/design/compilation/cpu_compilation: it names the family that is compiled for."""
        reason = sdk.why_not_compile("inf2", "trace", Host(TRACE, REAL, None, "2.9.1", platform))
        assert (reason == "") is ok
        assert ok or reason.endswith("unset it, or set NEURON_PLATFORM_TARGET_OVERRIDE=inf2")
        assert sdk.why_not_compile("trn3", "native", Host(NATIVE, REAL, None, "2.13.0", platform)) == ""

    @given(
        st.sampled_from(PAIRS),
        st.sampled_from([None, TRACE, NATIVE, STUB]),
        st.sampled_from([None, REAL, Compiler("1.0.post1", stub=True, path=None), Compiler("2.24", False, None)]),
        st.sampled_from([None, *TARGETS]),
        st.sampled_from([None, "2.9.0", "2.13.0"]),
    )
    def test_every_reason_is_one_printable_line_that_says_what_to_do(
        self, pair, library, compiler, device, torch
    ) -> None:
        machine = host(library, compiler, device, torch)
        for reason in (sdk.why_not_compile(*pair, machine), sdk.why_not_run(*pair, machine)):
            assert reason.isprintable()
            assert reason == "" or any(word in reason for word in ("pip install ", "use an instance", "export with "))


def test_the_real_machine_can_be_asked() -> None:
    found = sdk.find_host()
    assert found.torch is not None
    assert (found.device is None) is (not sdk.find_numbers())
    assert (found.compiler is None) or (found.compiler.path is None) or shutil.which(found.compiler.path)
