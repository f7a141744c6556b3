"""What is read off a folder of optimum-neuron's, and the section that it reads of ours. No program is loaded."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import foreign, sdk
from neuronbert.artifact import Artifact
from neuronbert.errors import (
    ArtifactError,
    CheckpointCorruptError,
    ForeignArtifactError,
    NeuronBertError,
    NotAnArtifactError,
    UnsupportedModelError,
)
from neuronbert.manifest import CompilerInfo, Manifest, ManifestError, OutputSpec, ProgramSpec, dump, parse
from neuronbert.shapes import StaticShape
from tests.support.optimum_neuron import CONFIG, CPU_CODE, DEVICE_CODE, FORMS, archive, config, write
from tests.unit.builders import make_manifest

HEADS = (
    "feature-extraction",
    "fill-mask",
    "question-answering",
    "text-classification",
    "token-classification",
    "multiple-choice",
)
WRITTEN = set(config("0.4.5", "fill-mask")["neuron"])
"""The keys that optimum-neuron 0.4.5 itself writes."""


def read(folder: Path) -> Manifest:
    manifest = foreign.read(folder)
    assert manifest is not None
    return manifest


def opened(
    tmp_path: Path, form: str = "0.4.5", task: str = "fill-mask", code: bytes = CPU_CODE, **changes: Any
) -> Path:
    return write(tmp_path / "theirs", config(form, task, **changes), archive(code))


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> list[sdk.Device]:
    """The Neuron devices of this machine, to be filled in."""
    found: list[sdk.Device] = []
    monkeypatch.setattr(sdk, "find_device", lambda: found[0] if found else None)
    return found


# -- read


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("form", FORMS)
def test_every_historic_form_says_what_the_program_is(tmp_path: Path, form: str, task: str) -> None:
    manifest = read(opened(tmp_path, form, task))
    assert manifest.task == task
    assert manifest.shapes == (StaticShape(2, 16, 3 if task == "multiple-choice" else None),)
    assert [spec.name for spec in manifest.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [spec.maximum for spec in manifest.inputs] == [99, 1, 1]
    assert manifest.inputs[0].padding == 7
    assert (manifest.backend, manifest.target) == ("cpu", "cpu")
    assert manifest.programs[0].file == "model.neuron"
    assert manifest.compiler.auto_cast == ("none" if form.startswith("the least") else "matmul")


def test_the_outputs_have_the_models_sizes(tmp_path: Path) -> None:
    labels = {"id2label": {"0": "a", "1": "b", "2": "c"}}
    folder = write(tmp_path / "x", config("0.4.5", "token-classification", {**CONFIG, **labels}), archive())
    assert [(spec.name, spec.size) for spec in read(folder).outputs] == [("logits", 3)]
    folder = opened(tmp_path, task="feature-extraction")
    assert [(spec.name, spec.size) for spec in read(folder).outputs] == [
        ("last_hidden_state", 16),
        ("pooler_output", 16),
    ]
    folder = opened(tmp_path, task="feature-extraction", output_names=["last_hidden_state"])
    assert [spec.name for spec in read(folder).outputs] == ["last_hidden_state"]


def test_what_nobody_recorded_stays_open(tmp_path: Path) -> None:
    manifest = read(opened(tmp_path))
    assert manifest.source.weights_sha256 is None
    assert (manifest.source.model, manifest.source.path, manifest.source.revision) == (foreign.UNKNOWN, None, None)
    assert (manifest.created, manifest.neuronbert_version) == ("", "")
    assert manifest.compiler.versions == {"neuronx-cc": "2.21.33363.0+82129205"}
    named = write(tmp_path / "named", config("0.4.5", "fill-mask", {**CONFIG, "_name_or_path": "org/m"}), archive())
    assert read(named).source.model == "org/m"


def test_a_manifest_without_the_digest_of_the_weights_is_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no digest of the weights"):
        parse(dump(read(opened(tmp_path))))


def test_the_program_may_have_any_name_but_must_be_the_only_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs", config("0.4.5", "fill-mask"), archive(), "bert-base.v2.neuron")
    assert read(folder).program_files == ("bert-base.v2.neuron",)
    write(folder, config("0.4.5", "fill-mask"), archive(), "other.neuron")
    with pytest.raises(ForeignArtifactError, match=r"2 programs \(bert-base.v2.neuron, other.neuron\)"):
        read(folder)


def test_a_folder_of_something_else_is_no_artifact(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", CONFIG)
    program = write(tmp_path / "program", CONFIG, archive())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model.neuron").write_bytes(archive())
    for folder in (checkpoint, program, bare):
        assert foreign.read(folder) is None
        with pytest.raises(NotAnArtifactError):
            Artifact.open(folder)


@pytest.mark.parametrize("code", [DEVICE_CODE, b"torch.classes.neuron.Model", b"ops.neuron.forward_1"])
@pytest.mark.parametrize(
    ("said", "here", "target"),
    [
        ("inf2", None, "inf2"),
        ("trn2", "inf2", "trn2"),
        ("trn1", None, "trn1"),
        ("trn1", "inf2", "inf2"),  # from Python, optimum-neuron 0.4 records trn1 for inf2
        (None, "trn1n", "trn1n"),  # up to 0.3 it recorded nothing
        (None, "trn2", "inf2"),
        (None, None, "inf2"),
    ],
)
def test_what_is_in_the_program_decides_what_runs_it(
    tmp_path: Path, device: list[sdk.Device], code: bytes, said: str | None, here: str | None, target: str
) -> None:
    if here:
        device.append(sdk.Device(here, 1))
    manifest = read(opened(tmp_path, code=code, instance_type=said))
    assert (manifest.backend, manifest.target) == ("neuronx", target)


def test_a_dynamic_batch_has_its_weights_inside(tmp_path: Path) -> None:
    manifest = read(opened(tmp_path, dynamic_batch_size=True, inline_weights_to_neff=False))
    assert manifest.dynamic_batch
    assert manifest.compiler.inline_weights
    assert not read(opened(tmp_path, inline_weights_to_neff=False)).compiler.inline_weights


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"static_batch_size": None}, "static_batch_size"),
        ({"static_batch_size": 0}, "static_batch_size"),
        ({"static_batch_size": True}, "static_batch_size"),
        ({"static_sequence_length": "16"}, "static_sequence_length"),
        ({"static_sequence_length": 16.0}, "static_sequence_length"),
        ({"static_num_choices": 3}, "goes with multiple-choice"),
        ({"static_height": 64}, "static_height is not a shape of a text encoder"),
        ({"task": "image-classification"}, "image-classification"),
        ({"task": ["fill-mask"]}, "task"),
        ({"model_type": "transformer"}, "'transformer'"),
        ({"auto_cast": "matmult"}, "auto_cast"),
        ({"auto_cast_type": "int8"}, "auto_cast_type"),
        ({"compiler_type": "neuron-cc"}, "compiler_type"),
        ({"instance_type": "inf1"}, "instance_type"),
        ({"dynamic_batch_size": 1}, "dynamic_batch_size"),
        ({"inline_weights_to_neff": "no"}, "inline_weights_to_neff"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"output_attentions": True}, "output_attentions"),
        ({"int_dtype": "int32"}, "int_dtype"),
        ({"float_dtype": "fp64"}, "float_dtype"),
        ({"input_names": ["input_ids", "pixel_values"]}, "takes input_ids, pixel_values in place of"),
        ({"input_names": ["input_ids", "input_ids", "token_type_ids"]}, "in place of"),
        ({"output_names": ["logits", "scores"]}, "gives logits, scores in place of logits"),
        ({"output_names": ["logits", "logits"]}, "names and shapes must differ"),
    ],
)
def test_a_section_that_cant_be_met_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    body = config("0.4.5", "fill-mask")
    body["neuron"] |= change
    with pytest.raises(ForeignArtifactError) as caught:
        Artifact.open(write(tmp_path / "theirs", body, archive()))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "neuronbert export --model" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"neuron": []}, ForeignArtifactError),
        ({"neuron": None}, ForeignArtifactError),
        ({"model_type": "distilbert", "neuron": {}}, ArtifactError),
        ({"model_type": 5}, CheckpointCorruptError),
        ({"vocab_size": None}, CheckpointCorruptError),
        ({"vocab_size": 2**40}, ForeignArtifactError),
        ({"hidden_size": -1}, CheckpointCorruptError),
        ({"type_vocab_size": True}, CheckpointCorruptError),
    ],
)
def test_a_config_that_cant_be_met_is_refused(tmp_path: Path, change: dict[str, Any], kind: type[Exception]) -> None:
    body = {**config("0.4.5", "feature-extraction"), **change}
    with pytest.raises(kind):
        Artifact.open(write(tmp_path / "theirs", body, archive()))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    body = config("0.4.5", "fill-mask", {**CONFIG, "model_type": "phi"}, model_type="phi")
    with pytest.raises(UnsupportedModelError, match="'phi'"):
        Artifact.open(write(tmp_path / "theirs", body, archive()))


def test_without_a_task_or_a_class_nothing_is_guessed(tmp_path: Path) -> None:
    body = {**config("0.0.8", "fill-mask"), "architectures": None}
    with pytest.raises(ForeignArtifactError, match="neither a task nor a class"):
        Artifact.open(write(tmp_path / "theirs", body, archive()))


def test_the_task_is_what_was_exported_and_not_what_was_saved(tmp_path: Path) -> None:
    for form in ("0.0.12", "0.4.5"):  # beside the section, and in it
        body = {**config(form, "fill-mask"), "architectures": ["BertModel"]}
        assert read(write(tmp_path / "theirs", body, archive())).task == "fill-mask"


def test_a_name_that_no_manifest_could_hold_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs", config("0.4.5", "fill-mask"), archive(), "my model.neuron")
    with pytest.raises(ForeignArtifactError, match=r"my model.neuron"):
        read(folder)


def test_what_is_no_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archive(CPU_CODE * 100)
    for content in (b"", b"\x80\x02pickle", whole[:-30], whole.replace(whole[120:140], b"\0" * 20)):
        folder = write(tmp_path / "theirs", config("0.4.5", "fill-mask"), content)
        with pytest.raises(ForeignArtifactError, match="not a TorchScript archive"):
            read(folder)
    monkeypatch.setattr(foreign, "_MAX_CODE_BYTES", 1000)
    with pytest.raises(ForeignArtifactError, match="more than 1000 bytes of code"):
        read(opened(tmp_path, code=b" " * 1001))


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_cannot_be_unpacked_is_refused(tmp_path: Path, how: int) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as file:
        file.writestr("model/code/model.py", CPU_CODE * 50)
    garbled = bytearray(content.getvalue())
    start = (
        garbled.index(b"model.py") + len("model.py") + (9 if how == zipfile.ZIP_LZMA else 0)
    )  # after LZMA's own header
    garbled[start : start + 12] = b"\xff" * 12
    with pytest.raises(ForeignArtifactError, match="not a TorchScript archive"):
        read(write(tmp_path / "theirs", config("0.4.5", "fill-mask"), bytes(garbled)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(values=st.dictionaries(st.sampled_from([*WRITTEN, "input_names", "output_names", "static_x"]), JSON))
def test_no_value_of_the_section_is_more_than_one_error(tmp_path: Path, values: dict[str, Any]) -> None:
    body = config("0.4.5", "fill-mask")
    body["neuron"] |= values
    try:
        manifest = read(write(tmp_path / "theirs", body, archive()))
    except NeuronBertError:
        return
    assert manifest.task == "fill-mask"


# -- digests


def test_the_files_are_digested_as_they_are_found(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    (folder / "vocab.txt").write_text("[PAD]\n", encoding="utf-8")
    (folder / "README.md").write_text("# A card\n", encoding="utf-8")
    artifact = Artifact.open(folder)
    assert artifact.foreign
    assert set(artifact.manifest.files) == {"model.neuron", "config.json", "vocab.txt"}
    assert artifact.manifest.files["model.neuron"].size == (folder / "model.neuron").stat().st_size
    assert artifact.report() is None
    assert not Artifact.open(folder, verify=False).manifest.files


# -- section


def for_device(**changes: Any) -> Manifest:
    compiler = CompilerInfo(
        name="neuronx-cc",
        auto_cast="matmul",
        auto_cast_type="bf16",
        optlevel="3",
        inline_weights=False,
        versions={"neuronx-cc": "2.24.8799.0", "torch": "2.9"},
    )
    return make_manifest(**{"target": "inf2", "backend": "neuronx", "compiler": compiler, **changes})


def test_a_section_for_a_device_has_the_keys_that_optimum_neuron_writes() -> None:
    section = foreign.section(for_device())
    assert set(section) == WRITTEN
    assert section["compiler_type"] == "neuronx-cc"
    assert section["compiler_version"] == "2.24.8799.0"
    assert section["instance_type"] == "inf2"
    assert section["optlevel"] == "3"
    assert section["inline_weights_to_neff"] is False
    assert section["dynamic_batch_size"] is False
    assert foreign.section(for_device(dynamic_batch=True))["dynamic_batch_size"] is True


def test_a_section_for_the_cpu_names_no_compiler() -> None:
    # Its reader asks for the installed version of whatever compiler is named, and refuses if there is none.
    section = foreign.section(make_manifest(dynamic_batch=True))
    assert set(section) == WRITTEN - {"compiler_type", "compiler_version"}
    assert section["instance_type"] is None
    assert section["optlevel"] == "2"
    assert section["dynamic_batch_size"] is False  # the loader splits the call, not the program


def test_no_key_but_the_shapes_begins_like_one() -> None:
    # Its reader passes every key that begins with static_ to a constructor that knows only shapes.
    shapes = {key for key in foreign.section(for_device()) if key.startswith("static_")}
    assert shapes == {"static_batch_size", "static_sequence_length"}


def test_without_auto_cast_the_type_is_left_out() -> None:
    compiler = CompilerInfo(name="torch.jit.trace", auto_cast="none", auto_cast_type="bf16", versions={})
    section = foreign.section(make_manifest(compiler=compiler))
    assert (section["auto_cast"], section["auto_cast_type"]) == (None, None)


def test_of_several_programs_the_one_that_other_readers_run_is_described() -> None:
    def program(batch: int, length: int, file: str, method: str) -> ProgramSpec:
        return ProgramSpec(batch_size=batch, sequence_length=length, file=file, method=method)

    cpu = (program(2, 8, "model.neuron", "forward_2x8"), program(2, 16, "model.neuron", "forward"))
    device = (program(4, 16, "model.neuron", "forward"), program(2, 8, "program_2x8.pt", "forward"))
    assert foreign.section(make_manifest(programs=cpu))["static_sequence_length"] == 16
    assert foreign.section(for_device(programs=device))["static_batch_size"] == 4


@given(
    rows=st.integers(1, 64),
    length=st.integers(1, 512),
    choices=st.none() | st.integers(1, 5),
    cast=st.sampled_from(["none", "matmul", "all"]),
    dynamic=st.booleans(),
)
def test_what_is_written_is_read_back(
    tmp_path: Path, rows: int, length: int, choices: int | None, cast: Any, dynamic: bool
) -> None:
    task = "multiple-choice" if choices else "text-classification"
    output = OutputSpec(name="logits", dims=("batch", "choices" if choices else "labels"), size=2, answer="argmax")
    program = ProgramSpec(
        batch_size=rows, sequence_length=length, num_choices=choices, file="model.neuron", method="forward"
    )
    compiler = for_device().compiler.model_copy(update={"auto_cast": cast, "inline_weights": True})
    fields: dict[str, Any] = {"task": task, "programs": (program,), "outputs": (output,), "dynamic_batch": dynamic}
    ours = for_device(**fields, compiler=compiler)
    body = json.loads(json.dumps({**CONFIG, "neuron": foreign.section(ours)}))
    back = read(write(tmp_path / "theirs", body, archive(DEVICE_CODE)))
    for name in ("task", "model_type", "target", "backend", "programs", "dynamic_batch"):
        assert getattr(back, name) == getattr(ours, name)
    for name in ("name", "auto_cast", "auto_cast_type", "optlevel", "inline_weights"):
        assert getattr(back.compiler, name) == getattr(ours.compiler, name)
