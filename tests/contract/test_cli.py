"""The options of a Neuron target on the command line, through the doubles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuronbert import Artifact, reference
from neuronbert.backends import torchneuron
from neuronbert.recipes import load
from tests.conftest import Done
from tests.contract.small import called, library
from tests.support import neuron
from tests.unit.builders import names


@pytest.fixture
def common(tiny: Callable[..., Path]) -> list[Any]:
    return ["export", "--model", tiny("text-classification"), "--sequence-length", "8"]


def test_every_option_reaches_the_compiler_and_the_manifest(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    host("trn2")
    line = "--target trn2 --optlevel 3 --lnc 1 --auto_cast all --no-inline-weights --lazy-load --async_load"
    flags = "--enable-fast-context-switch --verbose=error"
    work = tmp_path / "work"
    done = run(
        *common,
        *line.split(),
        "--compiler-args",
        flags,
        "--compiler-workdir",
        work,
        "--json",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    compiler = json.loads(done.out)["compiler"]
    assert (compiler["optlevel"], compiler["lnc"], compiler["inline_weights"]) == ("3", 1, False)
    (_, given), *settings = called("trace", "lazy_load", "async_load")
    assert compiler["flags"] == given["compiler_args"]
    assert " ".join(given["compiler_args"]) == (
        "--target trn2 --model-type transformer --optlevel 3 --auto-cast all --auto-cast-type bf16 "
        f"--enable-mixed-precision-accumulation --logical-nc-config 1 {flags}"
    )
    assert [name for name, _ in settings] == ["lazy_load", "async_load"]
    assert given["workdir"] == str(work / "1x8")
    assert names(work / "1x8") == ["graph.neff", "log-neuron-cc.txt"]


def test_a_dynamic_batch_reaches_the_library_and_the_manifest(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    """A test of its own: it doesn't go with --no-inline-weights."""
    host("inf2")
    done = run(*common, "--dynamic_batch", "--json", tmp_path / "out")
    assert done.code == 0, done.err
    assert json.loads(done.out)["dynamic_batch"] is True
    assert len(called("dynamic_batch")) == 1


@pytest.mark.parametrize("option", [["-O1"], ["-O", "1"], ["--optlevel", "1"], ["--optlevel=1"]], ids=" ".join)
def test_the_level_is_given_as_to_the_compiler(run: Any, host: Any, common: Any, tmp_path: Path, option: Any) -> None:
    host("inf2")
    done = run(*common, "--instance_type", "inf2", *option, tmp_path / "out")
    assert done.code == 0, done.err
    assert Artifact.open(tmp_path / "out").manifest.compiler.optlevel == "1"


def test_auto_is_the_device_that_was_found(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    host("inf2")
    done = run(*common, tmp_path / "out")
    assert done.out == f"{tmp_path / 'out'}: BertForSequenceClassification for inf2, 1x8\n"


def test_what_the_compiler_prints_is_not_among_the_data(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    """compiler/neuronx-cc/api-reference-guide: --verbose info is "written to stdout"."""
    host("inf2")
    done = run(*common, "--compiler-args", "--verbose info", "--json", tmp_path / "out")
    assert json.loads(done.out)["target"] == "inf2"
    assert "INFO: compiling" in done.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["-O3"], "optlevel is '3'"),
        (["--lnc", "1"], "--lnc is 1"),
        (["--compiler-args", "--verbose info"], "--compiler-args is '--verbose info'"),
        (["--no-inline-weights"], "inline_weights is False"),
        (["--lazy-load"], "--lazy-load is True"),
        (["--async-load"], "--async-load is True"),
        (["--compiler-workdir", "work"], "--compiler-workdir is 'work'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_cpu_target_has_no_such_settings(
    run: Any, common: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str], said: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = run(*common, "--target", "cpu", *option, "out")
    assert done == Done(2, "", f"Error: {said}; it must be left out: the cpu target has no such setting.\n")
    assert names(tmp_path / "here") == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--optlevel", "4"], "optlevel is '4'; it must be one of '1', '2', '3'."),
        (["--lnc", "3"], "lnc is 3; it must be 1 or 2."),
        (["--lnc", "2"], "lnc is 2; it must be 1 for inf2, which has no larger logical cores."),
        (["--compiler-args", "--target trn1"], "--compiler-args is '--target'; it must be left out: there is --target"),
        (["--compiler-args", "--verbose 'info"], "a command line whose quotes are closed"),
        (["--compiler-args", "'--verbose info'"], "a tuple of words"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_of_a_device_is_one_line(
    run: Any, host: Any, common: Any, tmp_path: Path, option: list[str], said: str
) -> None:
    host("inf2")
    done = run(*common, "--target", "inf2", *option, tmp_path / "exports")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "exports").exists()


def test_a_compiler_that_fails_exits_1_with_its_log(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    host("inf2", fail="exit")
    done = run(*common, "--target", "inf2", "--compiler-workdir", tmp_path / "work", tmp_path / "out")
    assert done.code == 1
    assert done.err.startswith("Error: The compiler didn't finish 1x8: neuronx-cc failed with 70. Its log ")
    assert "NCC_EVRF001" in done.err
    assert done.err.count("\n") == 1
    assert (tmp_path / "work" / "1x8" / "log-neuron-cc.txt").exists()
    assert not (tmp_path / "out").exists()


def test_predicting_without_a_device_exits_3(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    host()
    assert run(*common, "--target", "inf2", tmp_path / "out").code == 0
    for command in (["predict", tmp_path / "out", "text"], ["validate", tmp_path / "out"]):
        done = run(*command)
        assert (done.code, done.out) == (3, "")
        assert "no Inferentia2 or Trainium device" in done.err
        assert done.err.count("\n") == 1


def test_predicting_on_a_device(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    host("inf2")
    assert run(*common, "--target", "inf2", tmp_path / "out").code == 0
    done = run("predict", "--json", tmp_path / "out", "a text")
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_a_recipe_has_the_options_of_a_device(run: Any, host: Any, common: Any, tmp_path: Path) -> None:
    host("trn2")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'target = "trn2"\noptlevel = "3"\nlnc = 1\ncompiler_args = ["--verbose", "error"]\ninline_weights = false\n'
        f'dynamic_batch = true\nlazy_load = true\nasync_load = true\ncompiler_workdir = "{tmp_path / "work"}"\n'
    )
    assert len(load(recipe)) == 9
    done = run(*common, "--recipe", recipe, "-O1", "--inline-weights", tmp_path / "out")
    assert done.code == 0, done.err
    manifest = Artifact.open(tmp_path / "out").manifest
    compiler = manifest.compiler
    assert (compiler.optlevel, compiler.lnc, compiler.inline_weights) == ("1", 1, True)  # given ones win
    assert compiler.flags[-2:] == ("--verbose", "error")
    assert manifest.dynamic_batch
    assert {name for name, _ in library().calls} == {"trace", "dynamic_batch", "lazy_load", "async_load"}
    assert (tmp_path / "work" / "1x8").is_dir()


@pytest.mark.parametrize(
    "line",
    ["optlevel = 3", "optlevel = '4'", "lnc = 3", "lnc = '1'", "compiler_args = '--verbose info'", "lazy_load = 'yes'"],
)
def test_a_recipe_with_another_value_is_refused_by_field(run: Any, common: Any, tmp_path: Path, line: str) -> None:
    (tmp_path / "recipe.toml").write_text(line)
    done = run(*common, "--recipe", tmp_path / "recipe.toml", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert line.partition(" ")[0] in done.err
    assert done.err.count("\n") == 1


def test_a_target_that_compiles_where_it_runs(
    run: Any, host: Any, common: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host("trn3", version=neuron.NATIVE, source="torch_native")
    monkeypatch.setattr(torchneuron, "DEVICE", "cpu")
    monkeypatch.setenv(reference.NEFF_CACHE, str(tmp_path / "neff"))
    assert run(*common, "--target", "trn3", "--lazy-load", tmp_path / "out").code == 2
    assert run(*common, "--target", "trn3", "-O3", tmp_path / "out").code == 0
    done = run("predict", "--json", tmp_path / "out", "a text")
    assert done.code == 0, done.err
