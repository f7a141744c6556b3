"""Opening, verifying and amending; what is written, and how, is in test_staging.py."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronbert.artifact import MANIFEST, REPORT, Artifact
from neuronbert.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactVersionError,
    MissingFileError,
    NotAnArtifactError,
)
from neuronbert.report import to_json
from tests.unit.builders import FILES, make_check, make_measure, make_report, names, reseal, write_artifact

ALL = sorted([*FILES, MANIFEST])


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("intact") / "artifact")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "artifact")


def test_what_was_written_is_what_is_opened(intact: Path) -> None:
    opened = Artifact.open(intact)
    assert set(opened.manifest.files) == set(FILES)
    assert (opened.path / "model.neuron").read_bytes() == FILES["model.neuron"]
    assert opened.config() == json.loads(FILES["config.json"])
    assert opened.report() is None


@given(st.sampled_from(ALL), st.data())
@settings(max_examples=200)
def test_any_byte_of_any_file_changed_refuses_the_artifact(intact: Path, name: str, data: st.DataObject) -> None:
    path = intact / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(changed)
        with pytest.raises(ArtifactError):
            Artifact.open(intact)
    finally:
        path.write_bytes(content)
    Artifact.open(intact)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "bytes in place of"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes in place of"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "was altered"),
    ],
    ids=["missing", "longer", "shorter", "altered"],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    artifact: Path, name: str, damage: Callable[[Path], object], said: str
) -> None:
    damage(artifact / name)
    with pytest.raises(ArtifactCorruptError, match=said) as caught:
        Artifact.open(artifact)
    assert str(artifact / name) in str(caught.value)


def test_a_folder_in_place_of_a_file_is_refused(artifact: Path) -> None:
    (artifact / "model.neuron").unlink()
    (artifact / "model.neuron").mkdir()
    with pytest.raises(ArtifactCorruptError, match="is missing"):
        Artifact.open(artifact)


def test_opening_without_verifying_reads_the_manifest_only(artifact: Path) -> None:
    (artifact / "model.neuron").unlink()
    assert Artifact.open(artifact, verify=False).manifest.task == "fill-mask"


def test_what_is_no_artifact_is_told_apart(tmp_path: Path, artifact: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        Artifact.open(tmp_path / "nowhere")
    with pytest.raises(MissingFileError):
        Artifact.open(artifact / "model.neuron")
    (artifact / MANIFEST).unlink()
    with pytest.raises(NotAnArtifactError, match=r"neuronbert export --model"):
        Artifact.open(artifact)


def test_an_artifact_of_another_format_says_which(artifact: Path) -> None:
    content = (artifact / MANIFEST).read_bytes()
    (artifact / MANIFEST).write_bytes(reseal(content, format_version=7))
    with pytest.raises(ArtifactVersionError, match=r"format 7, .* reads format 1"):
        Artifact.open(artifact)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]", b"null", b"[" * 100_000, b"{}" + b" " * (17 << 20)])
def test_a_manifest_that_is_none_is_a_broken_artifact(artifact: Path, content: bytes) -> None:
    (artifact / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError):
        Artifact.open(artifact)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"{" * 100_000], ids=["empty", "list", "bytes", "deep"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write_artifact(tmp_path / "artifact", files={**FILES, "config.json": content})
    with pytest.raises(ArtifactCorruptError, match=r"config\.json"):
        Artifact.open(path).config()


def test_recording_adds_and_replaces_files_and_keeps_the_rest(artifact: Path) -> None:
    recorded = Artifact.open(artifact).record({"README.md": "ein Gruß", "config.json": "{}"})
    opened = Artifact.open(artifact)
    assert recorded.manifest == opened.manifest
    assert (artifact / "README.md").read_text(encoding="utf-8") == "ein Gruß"
    assert opened.config() == {}
    assert (artifact / "sub/vocab.txt").read_bytes() == FILES["sub/vocab.txt"]
    assert names(artifact.parent) == ["artifact"]


def test_recording_twice_holds_the_later_text(artifact: Path) -> None:
    Artifact.open(artifact).record({"README.md": "first"}).record({"README.md": "second, longer"})
    assert (Artifact.open(artifact).path / "README.md").read_text() == "second, longer"


def test_recording_does_not_reach_into_a_hard_linked_copy(artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy, copy_function=os.link)
    Artifact.open(artifact).record({"config.json": "{}"})
    assert Artifact.open(copy).config() == json.loads(FILES["config.json"])


def test_recording_does_not_make_an_altered_file_good(artifact: Path) -> None:
    opened = Artifact.open(artifact)
    (artifact / "model.neuron").write_bytes(FILES["model.neuron"][::-1])
    opened.record({"README.md": "all is well"})
    with pytest.raises(ArtifactCorruptError, match="altered"):
        Artifact.open(artifact)


def test_recording_keeps_files_of_the_users_own(artifact: Path) -> None:
    (artifact / "notes.txt").write_text("mine")
    Artifact.open(artifact).record({"README.md": "card"})
    assert (artifact / "notes.txt").read_text() == "mine"
    assert "notes.txt" not in Artifact.open(artifact).manifest.files


def test_recording_works_from_inside_the_folder(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(artifact)
    recorded = Artifact.open(".").record({"README.md": "card"})
    assert recorded.manifest == Artifact.open(artifact).manifest
    assert (artifact / "README.md").read_text() == "card"


def test_a_recorded_report_is_read_back(artifact: Path) -> None:
    opened = Artifact.open(artifact)
    programs = opened.manifest.files["model.neuron"].sha256
    report = make_report(make_check(make_measure()), program_sha256=programs)
    assert opened.record({REPORT: to_json(report)}).report() == report
    assert Artifact.open(artifact).report() == report


def test_a_report_on_other_programs_does_not_count(artifact: Path) -> None:
    report = make_report(make_check(make_measure()), program_sha256="f" * 64)
    assert Artifact.open(artifact).record({REPORT: to_json(report)}).report() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"passed": true}', "\x00"], ids=repr)
def test_what_is_recorded_but_no_report_is_refused(artifact: Path, content: str) -> None:
    recorded = Artifact.open(artifact).record({REPORT: content})
    with pytest.raises(ArtifactCorruptError, match=r"validation\.json is not a validation report"):
        recorded.report()


def test_a_report_that_is_too_deep_is_refused(artifact: Path) -> None:
    recorded = Artifact.open(artifact).record({REPORT: '{"checks": ' + "[" * 100_000})
    with pytest.raises(ArtifactCorruptError):
        recorded.report()


@pytest.mark.parametrize("name", ["model.neuron", "config.json"])
def test_a_program_or_config_without_a_digest_is_refused(artifact: Path, name: str) -> None:
    content = (artifact / MANIFEST).read_bytes()
    files = {other: info for other, info in json.loads(content)["files"].items() if other != name}
    (artifact / MANIFEST).write_bytes(reseal(content, files=files))
    for verify in (True, False):
        with pytest.raises(ArtifactCorruptError, match=f"has no digest of {name}"):
            Artifact.open(artifact, verify=verify)


def test_a_name_too_long_for_any_folder_is_a_missing_one() -> None:
    with pytest.raises(MissingFileError):
        Artifact.open("a" * 5000)


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "chat_template.jinja"])
def test_a_file_that_a_reader_would_take_up_must_be_in_the_manifest(tmp_path: Path, name: str) -> None:
    folder = write_artifact(tmp_path / "artifact")
    (folder / name).write_text("planted")
    with pytest.raises(ArtifactCorruptError, match="not part of the artifact"):
        Artifact.open(folder)
