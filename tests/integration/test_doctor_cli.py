"""`neuronbert doctor`: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.distributions import lay_out_compiler, lay_out_library, lay_out_stubs

ROOT = Path(__file__).parents[2]


def run(*arguments: str, site: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with a folder before its import path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NEURON", "XLA"))}
    path = os.pathsep.join(str(part) for part in (site, ROOT) if part)
    command = [sys.executable, "-m", "cli", "doctor", *arguments]
    environ = {**kept, "PYTHONPATH": path, **environ}
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


def test_what_is_printed() -> None:
    done = run()
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("target  compile")
    assert "\ncpu     yes          yes\n" in done.stdout
    assert "can't compile for inf2, trn1, trn1n: torch-neuronx is not installed: pip install" in done.stdout


def test_a_target_that_can_not_be_compiled_for_is_exit_code_3() -> None:
    done = run("--target", "inf2", "--json")
    assert done.returncode == 3
    body = json.loads(done.stdout)
    assert body["passed"] is True
    assert list(body["targets"]) == ["inf2"]
    assert body["targets"]["inf2"]["compile"]["ok"] is False
    assert body["targets"]["inf2"]["compile"]["reason"] in done.stderr
    assert {"name", "status", "text", "fix"} == set(body["checks"][0])


@pytest.mark.parametrize("target", ["cpu", "trn2", "trn3"])
def test_a_target_that_can_be_compiled_for_is_exit_code_0(target: str) -> None:
    done = run("--target", target, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"][target]["compile"] == {"ok": True, "reason": ""}


def test_a_long_name_keeps_its_distance(tmp_path: Path) -> None:
    done = run("--target", "inf2", NEURON_PLATFORM_TARGET_OVERRIDE="trn1")
    assert "FAILED   NEURON_PLATFORM_TARGET_OVERRIDE is trn1, but inf2 is meant: unset" in done.stdout


def test_a_closed_stdout_is_one_line() -> None:
    command = ["sh", "-c", f"{sys.executable} -m cli doctor >&-"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (3, "Error: stdout is closed. Let it go somewhere, as in > /dev/null.\n")


def test_something_broken_is_exit_code_1(tmp_path: Path) -> None:
    lay_out_stubs(tmp_path)
    done = run(site=tmp_path)
    assert done.returncode == 1
    assert "FAILED   torch-neuronx" in done.stdout
    assert "https://pip.repos.neuron.amazonaws.com" in done.stdout
    assert run("--target", "cpu", site=tmp_path).returncode == 0
    assert run("--target", "inf2", site=tmp_path).returncode == 3


def test_a_compiler_that_is_here_is_found_without_a_device(tmp_path: Path) -> None:
    lay_out_library(tmp_path, "2.9.0.2.15.32035")
    folder = lay_out_compiler(tmp_path, "2.26.6360.0")
    done = run("--target", "inf2", "--json", site=tmp_path, PATH=f"{folder}:{os.environ['PATH']}")
    body = json.loads(done.stdout)
    assert body["targets"]["inf2"] == {
        "library": "trace",
        "compile": {"ok": True, "reason": ""},
        "run": {
            "ok": False,
            "reason": "this machine has no Inferentia2 or Trainium device; use an instance of type inf2",
        },
    }
    assert done.returncode == 1, "the torch of the tests is another than torch-neuronx needs"
    assert [check["name"] for check in body["checks"] if check["status"] == "failed"] == ["torch"]


def test_variables_of_the_environment_count() -> None:
    done = run(NEURON_RT_VISIBLE_CORES="3,5")
    assert done.returncode == 1
    assert "FAILED   NEURON_RT_VISIBLE_CORES" in done.stdout
    assert "export NEURON_RT_VISIBLE_CORES=3-5" in done.stdout
    assert run("--target", "cpu", NEURON_RT_VISIBLE_CORES="3,5").returncode == 0


def test_there_is_no_such_target() -> None:
    done = run("--target", "inf1")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: --target is 'inf1'; it must be one of cpu, inf2")
    assert done.stdout == ""


def test_the_help_has_the_exit_codes() -> None:
    done = run("--help")
    for said in ("neuronbert doctor --target inf2", "--json", "Exit code"):
        assert said in done.stdout
