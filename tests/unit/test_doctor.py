"""The doctor on machines of every kind. Sources are paths in the SDK's documentation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from neuronbert import hub
from neuronbert.doctor import diagnosis, findings
from neuronbert.doctor.diagnosis import Diagnosis, diagnose
from neuronbert.doctor.findings import Finding
from neuronbert.doctor.machine import Machine, find_machine
from neuronbert.errors import InvalidOptionError
from neuronbert.sdk import ADDRESS, Compiler, Device, Host, Library, choose_kind, why_not_compile, why_not_run
from neuronbert.targets import TARGETS
from tests.support.distributions import lay_out_compiler, lay_out_library, lay_out_machine, lay_out_stubs
from tests.support.hub_server import HubServer

TRACE = Library("trace", "2.9.0.2.15.32035+ab12")
NATIVE = Library("native", "2.13.3.0")
CC = Compiler("2.26.6360.0", stub=False, path=Path("/opt/venv/bin/neuronx-cc"))

SOUND = Machine(
    host=Host(TRACE, CC, Device("inf2", 1), "2.9.1+cpu"),
    instance="inf2.xlarge",
    numbers=(0,),
    locked=(),
    driver="2.29.0.0",
    packages={"aws-neuronx-dkms": "2.29.0.0", "aws-neuronx-runtime-lib": "2.33.10.0-1a2b"},
    python="3.12.3",
    system="Linux x86_64",
    glibc="2.39",
)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch):
    """Diagnoses a machine that is given; its executables are on the PATH."""

    def look(machine: Machine, target: str | None = None, **environ: str) -> Diagnosis:
        monkeypatch.setattr(diagnosis, "find_machine", lambda _root: machine)
        return diagnose(target, environ=environ)

    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: f"/opt/venv/bin/{name}")
    return look


def altered(library: Library | None = TRACE, compiler: Compiler | None = CC, torch="2.9.1", **changes) -> Machine:
    return replace(SOUND, host=Host(library, compiler, SOUND.host.device, torch), **changes)


def only(found: Diagnosis, status: str) -> Finding:
    """The one finding of a status; disk and memory are those of the real machine."""
    there = [f for f in found.findings if f.status == status and not f.name.startswith(("disk", "memory"))]
    assert len(there) == 1, there
    return there[0]


def bad(found: Diagnosis) -> list[Finding]:
    return [f for f in found.findings if f.status != "ok" and not f.name.startswith(("disk", "memory"))]


class TestPackages:
    def test_a_sound_machine(self, look) -> None:
        found = look(SOUND)
        assert bad(found) == []
        assert found.passed
        able = {a.target: (not a.why_not_compile, not a.why_not_run) for a in found.abilities}
        assert able == {
            "cpu": (True, True),
            "inf2": (True, True),
            "trn1": (True, False),
            "trn1n": (True, False),
            "trn2": (True, False),
            "trn3": (False, False),
        }

    @pytest.mark.parametrize("library", [None, TRACE, NATIVE])
    @pytest.mark.parametrize("compiler", [None, CC])
    def test_it_says_what_the_backends_say(self, look, library: Library | None, compiler: Compiler | None) -> None:
        machine = altered(library, compiler, torch="2.13.0")
        for ability in look(machine).abilities[1:]:
            kind = choose_kind(ability.target, library, "2.13.0")
            assert ability.why_not_compile == why_not_compile(ability.target, kind, machine.host)
            assert ability.why_not_run == why_not_run(ability.target, kind, machine.host)

    def test_what_the_environment_sets_for_another_target_can_not_be_compiled_for(self, look) -> None:
        found = look(SOUND, NEURON_PLATFORM_TARGET_OVERRIDE="trn1")
        why = {ability.target: ability.why_not_compile for ability in found.abilities}
        assert why["trn1"] == why["cpu"] == ""
        assert "set to trn1 by NEURON_PLATFORM_TARGET_OVERRIDE; unset it, or set" in why["inf2"]

    def test_the_placeholders_of_pypi(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Source: the packages torch-neuronx 1.0 and neuronx-cc 1.0.post1 on PyPI, unpacked."""
        lay_out_stubs(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        found = diagnose("inf2", root=tmp_path, environ={})
        failed = {f.name: f for f in found.findings if f.status == "failed"}
        assert {"torch-neuronx", "neuronx-cc"} <= failed.keys()
        for name in ("torch-neuronx", "neuronx-cc"):
            assert "PyPI's placeholder" in failed[name].text
            assert failed[name].fix.endswith(ADDRESS)
        assert not found.passed

    def test_installed_packages_are_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lay_out_library(tmp_path / "site", "2.9.0.2.15.32035")
        lay_out_compiler(tmp_path / "site", "2.26.6360.0")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        monkeypatch.setenv("PATH", str(tmp_path / "site/bin"))
        found = diagnose("inf2", root=lay_out_machine(tmp_path / "root"), environ={})
        assert found.abilities[0].why_not_compile == found.abilities[0].why_not_run == ""
        assert next(f for f in found.findings if f.name == "neuronx-cc").text == "2.26.6360.0, of SDK 2.31.1"
        assert only(found, "failed").fix == 'pip install "torch==2.9.*"'  # the torch of the tests is another

    @pytest.mark.parametrize(
        ("library", "torch", "fix"),
        [
            (TRACE, "2.9.1+cpu", None),
            (TRACE, "2.13.0", 'pip install "torch==2.9.*"'),
            (NATIVE, "2.13.0+cpu", None),
            (NATIVE, "2.14.0", 'pip install "torch==2.13.*"'),
        ],
    )
    def test_torch_must_be_that_of_the_library(self, look, library: Library, torch: str, fix: str | None) -> None:
        """Source: release-notes/components/torchneuron; archive/appnotes/torch-neuronx/introducing-pytorch-2-9."""
        found = next(f for f in look(altered(library, None, torch)).findings if f.name == "torch")
        assert (found.fix or None) == fix
        assert (found.status == "failed") is (fix is not None)

    def test_a_pair_of_no_release(self, look) -> None:
        """Source: src/helperscripts/n2-manifest.json: 2.29.0 has neuronx-cc 2.24.5133.0 and another library."""
        found = only(look(altered(compiler=replace(CC, version="2.24.5133.0+58f8"))), "warning")
        assert "of SDK 2.29.0" in found.text
        assert found.fix == f"pip install neuronx-cc==2.28.7631.0 --extra-index-url {ADDRESS}"

    @pytest.mark.parametrize("version", ["2.26.6360.0", "2.27.5334.0", "2.28.7631.0", "2.99.1.0"])
    def test_pairs_that_are_listed_or_not_known(self, look, version: str) -> None:
        """Source: setup/pytorch/manual: 2.32's compiler goes with 2.31's library. What isn't listed isn't judged."""
        assert bad(look(altered(compiler=replace(CC, version=version)))) == []

    def test_a_compiler_that_is_not_on_the_path(self, look, monkeypatch: pytest.MonkeyPatch) -> None:
        """Source: compiler/neuronx-cc/how-to-generate-neff: "command not found"."""
        monkeypatch.setattr(diagnosis.shutil, "which", lambda _name: None)
        assert only(look(SOUND), "warning").fix == "export PATH=/opt/venv/bin:$PATH"

    def test_a_compiler_without_an_executable(self, look) -> None:
        found = only(look(altered(compiler=replace(CC, path=None))), "failed")
        assert found.name == "neuronx-cc"

    def test_without_torch_nothing_works(self, look) -> None:
        found = look(replace(SOUND, host=Host(None, None, None, None), numbers=(), instance=None), "cpu")
        assert found.abilities[0].why_not_compile == "torch is not installed: pip install torch"
        assert not found.passed


class TestSystem:
    @pytest.mark.parametrize(
        ("library", "python", "ok"),
        [
            (TRACE, "3.11.7", True),
            (TRACE, "3.13.0", True),
            (TRACE, "3.14.0", False),
            (TRACE, "3.10.2", False),
            (Library("trace", "2.9.0.2.13.24727"), "3.13.0", False),
            (NATIVE, "3.14.1", True),
            (NATIVE, "3.11.7", False),
        ],
    )
    def test_the_pythons_that_the_packages_are_built_for(self, look, library: Library, python: str, ok: bool) -> None:
        """Source: setup/pytorch/manual (3.11 to 3.13); release-notes/components/torchneuron (3.12 to 3.14).

        2.29 and before, 3.10 to 3.12: src/helperscripts/n2-manifest.json.
        """
        found = look(altered(library, None, library.version[:4].rstrip("."), python=python))
        there = next(f for f in found.findings if f.name == "python")
        assert (there.status == "ok") is ok
        assert ok or "-m venv" in there.fix

    def test_what_can_not_be_installed_is_said_before_it_is_tried(self, look) -> None:
        nothing = altered(None, None, python="3.14.0", glibc="2.34")
        found = look(nothing, "inf2")
        assert {(f.name, f.status) for f in bad(found)} == {("python", "warning"), ("glibc", "warning")}
        assert found.passed, "what isn't installed isn't broken"
        assert bad(look(nothing, "trn3")) == []
        assert bad(look(nothing)) == []

    @pytest.mark.parametrize(("glibc", "ok"), [("2.34", False), ("2.35", True), ("2.39", True), (None, True)])
    def test_the_c_library(self, look, glibc: str | None, ok: bool) -> None:
        """Source: archive/appnotes/torch-neuronx/introducing-pytorch-2-9: GLIBC 2.35; deploy/environments/dlami."""
        found = bad(look(replace(SOUND, glibc=glibc)))
        assert (found == []) is ok
        assert ok or found[0].fix == "use Ubuntu 24.04"

    @pytest.mark.parametrize("system", ["Linux aarch64", "Darwin arm64"])
    def test_other_processors(self, look, system: str) -> None:
        """Source: release-notes/components/torchneuron: Linux x86_64."""
        assert only(look(replace(SOUND, system=system)), "failed").name == "system"


class TestDevices:
    def test_an_instance_whose_devices_are_missing(self, look) -> None:
        """Source: setup/pytorch/dlc: a container sees only the devices that are passed to it."""
        found = only(look(altered(numbers=(), driver=None)), "failed")
        assert found.text == "this is an instance of type inf2.xlarge, but it has no /dev/neuron0"
        assert "--device=/dev/neuron0" in found.fix

    def test_devices_with_a_gap(self, look) -> None:
        """Source: deploy/troubleshooting, "Contiguous Device ID's"."""
        found = only(look(altered(numbers=(2, 3, 5))), "failed")
        assert found.fix == "docker run --device=/dev/neuron2 --device=/dev/neuron3 --device=/dev/neuron4"
        assert bad(look(altered(numbers=(2, 3, 4)))) == []

    def test_devices_that_may_not_be_opened(self, look) -> None:
        """Source: setup/troubleshooting: they must be accessible by the user."""
        assert "can't open 0" in only(look(altered(locked=(0,))), "failed").text

    def test_an_update_of_the_driver_that_was_not_loaded(self, look) -> None:
        """Source: neuron-runtime/nrt-troubleshoot: rmmod, then modprobe."""
        packages = {"aws-neuronx-dkms": "2.30.2.0", "aws-neuronx-runtime-lib": "2.34.10.0-9f"}
        found = only(look(altered(packages=packages)), "warning")
        assert found == Finding(
            "driver",
            "warning",
            "2.29.0.0 is loaded, 2.30.2.0 is installed",
            "sudo rmmod neuron && sudo modprobe neuron",
        )

    @pytest.mark.parametrize(
        ("driver", "runtime", "ok"),
        [
            ("2.26.10.0", "2.31.24.0", True),
            ("2.26.10.0", "2.32.31.0", False),
            ("2.27.4.0", "2.32.31.0-ab12", True),
            ("2.29.0.0", "2.32.31.0", False),
            ("2.29.0.0-5e6f", "2.33.10.0", True),
            ("2.31.7.0", "2.35.30.0", True),
        ],
    )
    def test_drivers_and_runtimes_that_do_not_go_together(self, look, driver: str, runtime: str, ok: bool) -> None:
        """Source: release-notes/components/runtime.

        Known issue of 2.30.0: runtime 2.32 needs more than driver 2.26. Of 2.31.0: driver 2.29 needs runtime 2.33.
        """
        found = bad(look(altered(driver=driver, packages={"aws-neuronx-runtime-lib": runtime})))
        assert [f.name for f in found] == ([] if ok else ["runtime"])

    def test_a_driver_without_a_version(self, look) -> None:
        assert only(look(altered(driver=None, packages={})), "warning").name == "driver"

    def test_a_machine_is_read_from_its_files(self, tmp_path: Path) -> None:
        status = tmp_path / "var/lib/dpkg/status"
        status.parent.mkdir(parents=True)
        status.write_text(
            "Package: bash\nStatus: install ok installed\nVersion: 5.2\n\n"
            "Package: aws-neuronx-runtime-lib\nStatus: install ok installed\nDescription: a: b\n more\n"
            "Version: 2.35.30.0-1a\n\n"
            "Package: aws-neuronx-tools\nStatus: deinstall ok config-files\nVersion: 2.33.38.0\n"
        )
        found = find_machine(lay_out_machine(tmp_path, "trn1.32xlarge", devices=16))
        assert found.packages == {"aws-neuronx-runtime-lib": "2.35.30.0-1a"}
        assert found.numbers == tuple(range(16))
        assert (found.instance, found.driver, found.locked) == ("trn1.32xlarge", "2.31.7.0", ())
        assert found.host.device == Device("trn1", 16)

    def test_the_real_machine(self) -> None:
        found = find_machine()
        assert found.system == f"{os.uname().sysname} {os.uname().machine}"
        assert found.python == ".".join(map(str, sys.version_info[:3]))


class TestEnvironment:
    def test_a_conflict_is_a_finding(self, look) -> None:
        found = only(look(SOUND, None, NEURON_RT_VISIBLE_CORES="0,2"), "failed")
        assert (found.name, found.fix) == ("NEURON_RT_VISIBLE_CORES", "export NEURON_RT_VISIBLE_CORES=0-2")
        assert only(look(SOUND, None, XLA_USE_BF16="1"), "warning").name == "XLA_USE_BF16"

    def test_it_does_not_concern_the_cpu(self, look) -> None:
        found = look(replace(SOUND, locked=(0,)), "cpu", NEURON_RT_VISIBLE_CORES="0,2")
        assert bad(found) == []
        assert [ability.target for ability in found.abilities] == ["cpu"]

    def test_there_is_no_such_target(self) -> None:
        with pytest.raises(InvalidOptionError, match="inf1"):
            diagnose("inf1")


class TestHub:
    @pytest.fixture(autouse=True)
    def online(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
        monkeypatch.delenv("HF_TOKEN", raising=False)

    @pytest.fixture
    def at(self, monkeypatch: pytest.MonkeyPatch):
        from huggingface_hub import constants

        return lambda address: monkeypatch.setattr(constants, "ENDPOINT", address)

    @pytest.mark.parametrize("token", [None, "hf_abc"])
    def test_it_answers(self, at, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with HubServer() as server:
            at(server.endpoint)
            assert hub.reach(5) == hub.Reach(server.endpoint, token=token is not None)
            found = findings._check_hub(hub.reach(5))
            assert {method for method, _ in server.requests} == {"HEAD"}
        assert found.status == "ok"
        assert ("a token is known" in found.text) is (token is not None)

    def test_nobody_listens(self, at) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            at(f"http://127.0.0.1:{taken.getsockname()[1]}")
            found = findings._check_hub(hub.reach(5))
        assert found.status == "warning"
        assert found.fix.endswith("export HF_HUB_OFFLINE=1")

    def test_it_never_answers(self, at) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            at(f"http://127.0.0.1:{silent.getsockname()[1]}")
            assert hub.reach(0.2).problem

    def test_a_look_up_that_hangs_is_not_waited_for(self, at, monkeypatch: pytest.MonkeyPatch) -> None:
        done = Event()
        late = hub.Reach("it was waited for")
        monkeypatch.setattr(hub, "_asked", lambda *_: [] if done.wait(5) else [late])
        at("http://name.invalid")
        assert hub.reach(0.1) == hub.Reach("http://name.invalid", "no answer within 0.1 s")
        done.set()

    def test_offline_means_that_nothing_is_asked(self, at, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with HubServer() as server:
            at(server.endpoint)
            assert hub.reach(5) == hub.Reach(server.endpoint, offline=True)
            assert server.requests == []

    @pytest.mark.parametrize(("status", "ok"), [(200, True), (404, True), (503, False)])
    def test_the_token_stays_here(self, at, monkeypatch: pytest.MonkeyPatch, status: int, ok: bool) -> None:
        sent = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                sent.append(dict(self.headers))
                self.send_response_only(status)
                self.end_headers()

        monkeypatch.setenv("HF_TOKEN", "hf_abc")
        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            Thread(target=server.handle_request, daemon=True).start()
            at(f"http://127.0.0.1:{server.server_port}")
            found = hub.reach(5)
        assert found.token is True
        assert (found.problem == "") is ok
        assert len(sent) == 1
        assert "hf_abc" not in str(sent)


class TestRoom:
    @pytest.mark.parametrize(("free", "status"), [(3 << 30, "warning"), (5 << 30, "ok")])
    def test_disk_and_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {free >> 10} kB\n")
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _path: usage)
        found = {f.name: f.status for f in diagnose("cpu", root=tmp_path).findings}
        assert {found["disk of outputs"], found["disk of work files"], found["memory"]} == {status}

    def test_each_disk_has_an_advice_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1}))
        found = {f.name: f.fix for f in diagnose("cpu", root=tmp_path).findings}
        assert found["disk of outputs"] == "cd /another/disk"
        assert found["disk of work files"] == "export TMPDIR=/another/disk"

    def test_a_disk_that_takes_no_file_is_a_finding(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a full one: Python looks for a place for temporary files by writing to each."""
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        found = {f.name: f for f in diagnose("cpu", root=tmp_path).findings if f.name.startswith("disk")}
        assert {f.status for f in found.values()} == {"failed"}
        assert "No usable temporary directory" in found["disk of work files"].text
        assert "No such file" in found["disk of outputs"].text

    def test_memory_that_can_not_be_told_is_left_out(self, tmp_path: Path) -> None:
        assert "memory" not in {f.name for f in diagnose("cpu", root=tmp_path).findings}


def test_every_line_that_is_not_ok_says_what_to_type(look) -> None:
    worst = replace(
        SOUND,
        host=Host(Library("stub", "1.0"), Compiler("1.0.post1", True, None), Device("trn2", 2), None),
        numbers=(0, 2),
        python="3.9.0",
        glibc="2.26",
        driver="2.25.4.0",
        system="Linux aarch64",
    )
    environ = {"NEURON_RT_VISIBLE_CORES": "x", "NEURON_LOGICAL_NC_CONFIG": "3", "NEURON_CC_FLAGS": "-O1"}
    for target in (None, *TARGETS):
        for finding in look(worst, target, **environ).findings:
            assert (finding.fix == "") is (finding.status == "ok")
            assert (finding.text + finding.fix).isprintable()


def test_nothing_heavy_is_imported() -> None:
    """Two seconds are for everything; torch alone takes one."""
    script = "import sys; from neuronbert.doctor.diagnosis import diagnose; diagnose(); "
    script += "assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
