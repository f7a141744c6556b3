from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import (
    CheckpointCorruptError,
    CheckpointError,
    MissingFileError,
    NeuronBertError,
    SequenceExceedsPositionsError,
    UnsafeWeightsError,
    UnsupportedFeatureError,
    UnsupportedModelError,
)
from neuronbert.folders import CONFIG, INDEX, TOKENIZER_FILES, WEIGHTS
from neuronbert.shapes import StaticShape

SETTINGS: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 50,
    "type_vocab_size": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 3,
}
TENSORS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(2, dtype=np.float32)}
WHOLE = save(TENSORS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    configure(tmp_path)
    save_file(TENSORS, tmp_path / WEIGHTS)
    return tmp_path


def configure(folder: Path, **changes: Any) -> None:
    (folder / CONFIG).write_text(json.dumps({**SETTINGS, **changes}))


def write_shards(folder: Path, *names: str) -> None:
    (folder / WEIGHTS).unlink()
    weight_map = {str(number): name for number, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_a_sound_checkpoint_says_what_its_config_says(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.architecture.model_type == "bert"
    assert (checkpoint.vocabulary, checkpoint.token_types, checkpoint.max_sequence_length) == (50, 2, 64)
    assert checkpoint.pad_token_id == 3
    assert checkpoint.class_names == ("BertForMaskedLM",)
    assert checkpoint.config == SETTINGS


def test_the_real_checkpoint_is_sound(minilm: Path) -> None:
    checkpoint = Checkpoint.open(minilm)
    assert (checkpoint.vocabulary, checkpoint.max_sequence_length) == (30522, 512)
    assert checkpoint.weights_bytes() > 80_000_000


def test_the_digest_is_that_of_the_weights_and_the_size_theirs(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    content = (folder / WEIGHTS).read_bytes()
    assert checkpoint.weights_sha256() == hashlib.sha256(content).hexdigest()
    assert checkpoint.weights_bytes() == len(content)


def test_shards_are_read_each_once_in_order(folder: Path) -> None:
    for name in ("two.safetensors", "one.safetensors"):
        save_file({name: np.zeros(len(name), dtype=np.float32)}, folder / name)
    write_shards(folder, "two.safetensors", "one.safetensors", "two.safetensors")
    checkpoint = Checkpoint.open(folder)
    assert [path.name for path in checkpoint.weight_files] == ["one.safetensors", "two.safetensors"]
    both = b"".join((folder / name).read_bytes() for name in ("one.safetensors", "two.safetensors"))
    assert checkpoint.weights_sha256() == hashlib.sha256(both).hexdigest()


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "x.bin", "..", ""])
def test_an_index_can_not_name_a_file_elsewhere_or_of_another_kind(folder: Path, name: str) -> None:
    write_shards(folder, name)
    with pytest.raises(CheckpointCorruptError, match="not a safetensors file beside it"):
        Checkpoint.open(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    write_shards(folder, "gone.safetensors")
    with pytest.raises(MissingFileError, match=r"gone\.safetensors"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["x"]}], ids=str)
def test_an_index_without_weights_is_refused(folder: Path, index: dict[str, Any]) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointCorruptError, match="weight_map"):
        Checkpoint.open(folder)


def test_pickled_weights_are_never_taken(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(UnsafeWeightsError, match=r"pytorch_model\.bin.*save_pretrained"):
        Checkpoint.open(folder)


def test_safe_weights_are_taken_where_pickled_ones_lie_beside_them(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert [path.name for path in Checkpoint.open(folder).weight_files] == [WEIGHTS]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        Checkpoint.open(folder)


@given(st.integers(0, len(WHOLE) - 1))
def test_weights_that_end_early_are_refused(tmp_path: Path, length: int) -> None:
    configure(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(WHOLE[:length])
    with pytest.raises(CheckpointCorruptError, match="weights can't be read"):
        Checkpoint.open(tmp_path)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=150)
def test_weights_with_an_altered_byte_open_or_are_refused_in_one_line(tmp_path: Path, place: int, bits: int) -> None:
    configure(tmp_path)
    altered = bytearray(WHOLE)
    altered[place] ^= bits
    (tmp_path / WEIGHTS).write_bytes(altered)
    said = ""
    try:
        Checkpoint.open(tmp_path)
    except CheckpointError as error:
        said = str(error)
    assert "\n" not in said


def test_a_file_without_tensors_is_refused(folder: Path) -> None:
    save_file({}, folder / WEIGHTS)
    with pytest.raises(CheckpointCorruptError, match="holds no weights"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff", b"[" * 100_000], ids=["empty", "word", "bytes", "deep"])
def test_a_config_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / CONFIG).write_bytes(content)
    with pytest.raises(CheckpointCorruptError, match="is not JSON"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("config", [[], 1, None, {}, {"model_type": None}, {"model_type": ["bert"]}], ids=str)
def test_a_config_without_a_model_type_is_refused(folder: Path, config: object) -> None:
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointCorruptError):
        Checkpoint.open(folder)


def test_what_a_program_would_get_wrong_is_refused(folder: Path) -> None:
    configure(folder, model_type="gpt2")
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        Checkpoint.open(folder)
    configure(folder, position_embedding_type="relative_key")
    with pytest.raises(UnsupportedFeatureError, match="position_embedding_type='relative_key'"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("kind", ["absolute", None])
def test_absolute_positions_may_be_spelled_out(folder: Path, kind: str | None) -> None:
    configure(folder, position_embedding_type=kind)
    Checkpoint.open(folder)


@pytest.mark.parametrize("value", [None, 0, -1, True, 1.5, "64", [64]], ids=repr)
@pytest.mark.parametrize("key", ["vocab_size", "type_vocab_size", "max_position_embeddings"])
def test_a_size_that_is_none_is_refused_when_it_is_asked_for(folder: Path, key: str, value: object) -> None:
    configure(folder, **{key: value})
    names = {"vocab_size": "vocabulary", "type_vocab_size": "token_types"}
    with pytest.raises(CheckpointCorruptError, match=key):
        getattr(Checkpoint.open(folder), names.get(key, "max_sequence_length"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (49, 49), (50, 0), (-1, 0), (None, 0), ("3", 0), (2.0, 0)],
)
def test_a_padding_id_that_the_vocabulary_lacks_becomes_zero(folder: Path, value: object, expected: int) -> None:
    configure(folder, pad_token_id=value)
    assert Checkpoint.open(folder).pad_token_id == expected


def test_a_padding_id_that_is_a_truth_value_becomes_zero(folder: Path) -> None:
    configure(folder, pad_token_id=True)
    assert Checkpoint.open(folder).pad_token_id is not True


@pytest.mark.parametrize(("names", "expected"), [(None, ()), ("Bert", ()), ([], ()), (["A", "B"], ("A", "B"))])
def test_class_names_are_those_of_a_list(folder: Path, names: object, expected: tuple[str, ...]) -> None:
    configure(folder, architectures=names)
    assert Checkpoint.open(folder).class_names == expected


def test_a_row_may_be_as_long_as_the_position_table_and_no_longer(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    checkpoint.check_shapes([StaticShape(4, 64), StaticShape(1, 1)])
    with pytest.raises(SequenceExceedsPositionsError, match=r"65.*64.*--sequence-length 64"):
        checkpoint.check_shapes([StaticShape(1, 1), StaticShape(1, 65)])


def test_the_tokenizer_is_the_files_of_it_that_are_there(folder: Path) -> None:
    for name in ("vocab.txt", "tokenizer.json", "notes.txt"):
        (folder / name).write_text("x")
    (folder / "copy").mkdir()
    Checkpoint.open(folder).copy_tokenizer(folder / "copy")
    found = {path.name for path in (folder / "copy").iterdir()}
    assert found == {"tokenizer.json", "vocab.txt"} <= set(TOKENIZER_FILES)


def test_every_refusal_is_an_error_of_the_library(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(NeuronBertError):
        Checkpoint.open(folder)
