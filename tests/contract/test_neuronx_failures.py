"""What happens to an export whose compiler doesn't finish, and where the compiler works.

Each test names the page of the Neuron SDK's documentation that it holds the backend to. `trace`, `core-placement`,
`async-lazy-load` and `replace-weights` stand for
frameworks/torch/torch-neuronx/api-reference-guide/inference/api-torch-neuronx-*.
"""

from __future__ import annotations

import importlib
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli._errors import exit_code
from neuronbert import Artifact, StaticShape, errors
from neuronbert.backends import workdir
from neuronbert.runtime import Session
from tests.contract.small import IDS, SHAPE, called
from tests.unit.builders import names

Host = Callable[..., None]


# When the compiler doesn't finish.

SAID = "ERROR: [NCC_EVRF001] an operator is not supported"


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("exit", "neuronx-cc failed with 70"),
        ("killed", "neuronx-cc failed with -9 (SIGKILL, as where memory runs out; use a larger instance)"),
        ("odd", "an operator"),
        ("leaves", "70"),
    ],
)
def test_a_compiler_that_fails_is_one_line_with_its_log(
    host: Host, exporting: Any, temporary: Path, tmp_path: Path, fail: str, reason: str
) -> None:
    """compiler/neuronx-cc/api-reference-guide: exit status "<>0: an error occurred"; --logfile log-neuron-cc.txt."""
    host("inf2", fail=fail)
    with pytest.raises(errors.CompilationFailedError) as caught:
        exporting()
    said = str(caught.value)
    assert said.startswith(f"The compiler didn't finish 1x8: {reason}. Its log ")
    assert said.endswith(f"ends with: INFO: compiling | {SAID} | INFO: see the log.")
    assert exit_code(caught.value) == 1
    (log,) = temporary.rglob(workdir.LOG)
    assert str(log) in said
    assert SAID in log.read_text()
    assert names(tmp_path / "exports") == []


def test_a_compiler_that_gives_nothing_is_an_error(host: Host, exporting: Any, temporary: Path, tmp_path: Path) -> None:
    host("inf2", fail="none")
    with pytest.raises(
        errors.CompilationFailedError, match=r"gave nothing back; keep its files with --compiler-workdir"
    ) as caught:
        exporting()
    assert exit_code(caught.value) == 1
    assert names(tmp_path / "exports") == names(temporary) == []  # without a log there is nothing in it to read


@pytest.mark.parametrize("fail", ["full", "full-log"], ids=["raised", "in the compiler's log"])
def test_a_full_disk_is_said_to_be_one(host: Host, exporting: Any, temporary: Path, tmp_path: Path, fail: str) -> None:
    host("inf2", fail=fail)
    with pytest.raises(errors.StorageError, match=r"temporary/.* can't be written: No space left on device") as caught:
        exporting()
    assert exit_code(caught.value) == 3
    assert names(tmp_path / "exports") == names(temporary) == []


def test_an_interrupted_compilation_leaves_nothing(host: Host, exporting: Any, temporary: Path, tmp_path: Path) -> None:
    host("inf2", fail="interrupted")
    with pytest.raises(KeyboardInterrupt):
        exporting()
    assert names(tmp_path / "exports") == names(temporary) == []


def test_a_second_shape_that_fails_leaves_no_first_one(
    host: Host, exporting: Any, tmp_path: Path, edit: Any, temporary: Path
) -> None:
    host("inf2")
    edit(lambda code: code.replace('"compiler_args": compiler_args', '"shape": fail_at_16(example_inputs)'))
    edit(
        lambda code: (
            code
            + "\ndef fail_at_16(inputs):\n    if inputs[0].shape[1] == 16:\n        raise RuntimeError('too long')\n"
        ),
    )
    with pytest.raises(errors.CompilationFailedError, match="didn't finish 1x16: too long"):
        exporting("inf2", StaticShape(1, 8), StaticShape(1, 16))
    assert names(tmp_path / "exports") == []


def test_a_success_leaves_no_temporary_folder(host: Host, exporting: Any, temporary: Path, tmp_path: Path) -> None:
    host("inf2")
    exporting()
    assert names(temporary) == []
    assert names(tmp_path / "exports") == ["out"]


# The compiler's folder.


def test_a_folder_for_the_compilers_files_is_kept_for_each_shape(host: Host, compiled: Any, tmp_path: Path) -> None:
    """trace: compiler_workdir, "useful for debugging and/or inspecting intermediary outputs"."""
    host("inf2")
    work = tmp_path / "made" / "work"
    compiled(StaticShape(1, 4), SHAPE, compiler_workdir=str(work))
    assert names(work) == ["1x4", "2x4"]
    assert names(work / "2x4") == ["graph.neff", workdir.LOG]
    assert [given["workdir"] for _, given in called("trace")] == [str(work / "1x4"), str(work / "2x4")]


@pytest.mark.parametrize("fail", ["exit", "interrupted", "full"])
def test_it_is_kept_whatever_happens(host: Host, compiled: Any, tmp_path: Path, fail: str) -> None:
    host("inf2", fail=fail)
    with pytest.raises((errors.NeuronBertError, KeyboardInterrupt)):
        compiled(compiler_workdir=str(tmp_path / "work"))
    assert names(tmp_path / "work") == ["2x4"]


def test_the_log_of_another_day_is_not_taken_for_todays(host: Host, compiled: Any, tmp_path: Path) -> None:
    old = tmp_path / "work" / "2x4" / workdir.LOG
    old.parent.mkdir(parents=True)
    old.write_text("No space left on device\n")
    host("inf2", fail="none")
    with pytest.raises(errors.CompilationFailedError, match=r"Its files are in .*2x4\.$"):
        compiled(compiler_workdir=str(tmp_path / "work"))


def test_no_place_for_temporary_files_is_one_line(
    host: Host, exporting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: Python looks for one that takes a file, and says that there is none."""
    host("inf2")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with pytest.raises(errors.StorageError, match="temporary files can't be written: No usable temporary") as caught:
        exporting()
    assert exit_code(caught.value) == 3


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_can_not_be_made_is_one_line(host: Host, compiled: Any, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("here")
    host("inf2")
    with pytest.raises(errors.StorageError, match="file"):
        compiled(compiler_workdir=str(tmp_path / where))


def test_two_exports_do_not_share_a_folder_at_once(tmp_path: Path) -> None:
    """The compiler's files have the same names each time, so that one would take the other's."""
    with workdir.workdir(str(tmp_path), "1x8"):
        with (
            pytest.raises(errors.StorageError, match="another export compiles in it"),
            workdir.workdir(str(tmp_path), "1x8"),
        ):
            pytest.fail("it was given twice")
        with workdir.workdir(str(tmp_path), "2x8"):
            pass
    with workdir.workdir(str(tmp_path), "1x8") as work:
        assert work == tmp_path / "1x8"


def _export(make: Callable[..., Artifact], overwrite: bool, ready: Any, results: Any) -> None:
    ready.wait()
    try:
        make(overwrite=overwrite)
    except errors.NeuronBertError as error:
        results.put(type(error).__name__)
    else:
        results.put("done")


@pytest.mark.parametrize(("overwrite", "expected"), [(False, ["OutputExistsError", "done"]), (True, ["done", "done"])])
def test_two_processes_that_export_to_one_place_leave_one_whole_artifact(
    host: Host, exporting: Any, tmp_path: Path, overwrite: bool, expected: list[str]
) -> None:
    host("inf2")
    importlib.import_module("torch_neuronx")
    processes = multiprocessing.get_context("fork")
    ready, results = processes.Barrier(2), processes.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a fork of a process with threads: nobody waits for one here
        both = [processes.Process(target=_export, args=(exporting, overwrite, ready, results)) for _ in range(2)]
        for process in both:
            process.start()
    found = sorted(results.get(timeout=120) for _ in both)
    for process in both:
        process.join(120)
    assert found == expected
    assert names(tmp_path / "exports") == ["out"]
    assert Session.open(tmp_path / "exports" / "out").run({"input_ids": IDS[:1]})["logits"].shape == (1, 2)
