"""Megatron-LM checkpoints that are broken, incomplete, hostile, or of another model: refused, and nothing is left."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronbert import convert_megatron
from neuronbert.errors import (
    CheckpointCorruptError,
    InvalidOptionError,
    MissingFileError,
    MissingOptionError,
    NeuronBertError,
    OutputExistsError,
    StorageError,
    UnsafeArchiveError,
    UnsafePickleError,
    UnsupportedFeatureError,
    VocabularyError,
)
from tests.support.megatron import Layout, make_model, shard, write_folder, write_zip

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Converts what can't be, and says why; nothing may be left beside it."""

    def convert(source: Path, kind: type[NeuronBertError], **options: Any) -> str:
        place = tmp_path / "place"
        place.mkdir()
        with pytest.raises(kind) as caught:
            convert_megatron(source, place / "out", **options)
        assert list(place.iterdir()) == []
        return str(caught.value)

    return convert


def alter(folder: Path, change: Callable[[dict[str, Any]], None], pattern: str = "*") -> Path:
    """Change what the files of a checkpoint hold."""
    for path in sorted(folder.rglob(f"{pattern}/model_optim_rng.pt")):
        content = torch.load(path, weights_only=False)
        change(content)
        torch.save(content, path)
    return folder


def language(content: dict[str, Any]) -> dict[str, Any]:
    return content["model"]["language_model"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_zip_that_was_cut_off(tmp_path: Path, model: Any, refused: Any, share: float) -> None:
    path = write_zip(tmp_path / "in.zip", write_folder(tmp_path / "in", model, Layout()))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, CheckpointCorruptError)


def test_a_zip_with_a_flipped_byte(tmp_path: Path, model: Any, refused: Any) -> None:
    path = write_zip(tmp_path / "in.zip", write_folder(tmp_path / "in", model, Layout()))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "can't be unpacked" in refused(path, CheckpointCorruptError)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_with_garbled_bytes(tmp_path: Path, model: Any, refused: Any, compression: int) -> None:
    path = write_zip(tmp_path / "in.zip", write_folder(tmp_path / "in", model, Layout()), compression)
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 40)
    content[middle] = bytes(byte ^ 255 for byte in content[middle])
    path.write_bytes(content)
    assert "in.zip can't be used: its member" in refused(path, CheckpointCorruptError)


def test_a_zip_with_bytes_lost_in_the_middle(tmp_path: Path, model: Any, refused: Any) -> None:
    path = write_zip(tmp_path / "in.zip", write_folder(tmp_path / "in", model, Layout()))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + content[len(content) // 2 :])
    assert "in.zip can't be used: its member" in refused(path, CheckpointCorruptError)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [
        ("a/model_rng.pt", "a/model_rng.pt"),
        ("a/model_rng.pt", "a/model_rng.pt/vocab.txt"),
        ("a/vocab.txt/model_rng.pt", "a/vocab.txt"),
        ("x" * 300 + "/model_rng.pt",),
        ("model_rng.pt", "x" * 300 + "vocab.txt"),
    ],
    ids=["twice", "file and folder", "folder and file", "long folder", "long file"],
)
def test_a_zip_whose_names_no_folder_can_hold(tmp_path: Path, refused: Any, names: tuple[str, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    assert "in.zip can't be used: its member" in refused(tmp_path / "in.zip", CheckpointCorruptError)


def test_a_zip_bomb(tmp_path: Path, refused: Any) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("release/mp_rank_00/model_optim_rng.pt", bytes(50_000_000))
    assert "would grow to 50000000 bytes" in refused(tmp_path / "in.zip", UnsafeArchiveError)


@pytest.mark.parametrize(
    "name",
    ["../model_optim_rng.pt", "/tmp/model_optim_rng.pt", "a/../../model_optim_rng.pt", "a\\..\\model_rng.pt", "C:/x"],
)
def test_a_zip_that_would_write_elsewhere(tmp_path: Path, refused: Any, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("release/mp_rank_00/model_optim_rng.pt", b"x")
        archive.writestr(name, b"x")
    assert "outside of the folder" in refused(tmp_path / "in.zip", UnsafeArchiveError)


def test_a_zip_with_a_link(tmp_path: Path, refused: Any) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        info = zipfile.ZipInfo("release/mp_rank_00/model_optim_rng.pt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "is a link" in refused(tmp_path / "in.zip", UnsafeArchiveError)


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("deep/" * 500 + "model_optim_rng.pt",)], ids=range(3))
def test_a_zip_without_a_checkpoint(tmp_path: Path, refused: Any, names: tuple[str, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    refused(tmp_path / "in.zip", CheckpointCorruptError)


def test_a_hostile_pickle_in_a_zip(tmp_path: Path, refused: Any) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    folder = tmp_path / "in" / "mp_rank_00"
    folder.mkdir(parents=True)
    torch.save({"model": {}, "args": Hostile()}, folder / "model_optim_rng.pt")
    refused(write_zip(tmp_path / "in.zip", tmp_path / "in"), UnsafePickleError)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("version", [0.5, 4.0, -1, 10**400, "3.0", True, float("nan"), [3.0]], ids=repr)
def test_an_unknown_version(tmp_path: Path, model: Any, refused: Any, version: object) -> None:
    folder = write_folder(tmp_path / "in", model, Layout())
    alter(folder, lambda content: content.update(checkpoint_version=version))
    assert "those known are 0.0, 1.0, 2.0, 3.0" in refused(folder, UnsupportedFeatureError)


@pytest.mark.parametrize("arguments", [None, {}], ids=["no-args", "args"])
@pytest.mark.parametrize("lost", ["mp_rank_00_000", "mp_rank_01_000", "mp_rank_00_001", "mp_rank_01_*"])
def test_a_missing_shard(tmp_path: Path, model: Any, refused: Any, lost: str, arguments: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2, pipeline=2, arguments=arguments))
    for path in folder.rglob(f"{lost}/*.pt"):
        path.unlink()
    assert "missing" in refused(folder, CheckpointCorruptError, num_attention_heads=4)


@pytest.mark.parametrize("arguments", [None, {}], ids=["no-args", "args"])
def test_one_file_of_several(tmp_path: Path, model: Any, refused: Any, arguments: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2, arguments=arguments))
    [path] = folder.rglob("mp_rank_01/*.pt")
    assert "shards missing" in refused(path, CheckpointCorruptError, num_attention_heads=4).replace("a shard", "shards")


def test_shards_of_different_sizes(tmp_path: Path, model: Any, refused: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2))
    small = make_model(intermediate_size=32)
    [path] = folder.rglob("mp_rank_01/*.pt")
    torch.save(shard(small, Layout(tensor=2), 1, 0), path)
    assert "in the first shard" in refused(folder, CheckpointCorruptError)


def test_shards_of_different_models(tmp_path: Path, model: Any, refused: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2))
    other = make_model()
    with torch.no_grad():
        other.bert.encoder.ln.weight.mul_(3)
    [path] = folder.rglob("mp_rank_01/*.pt")
    torch.save(shard(other, Layout(tensor=2), 1, 0), path)
    assert "are of different models" in refused(folder, CheckpointCorruptError)


def test_shards_of_different_iterations(tmp_path: Path, model: Any, refused: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2))
    alter(folder, lambda content: content.update(iteration=999), "mp_rank_01")
    assert "iteration is not that of mp_rank_00" in refused(folder, CheckpointCorruptError)


def test_copies_that_drifted_apart_are_told(tmp_path: Path, model: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2))
    alter(folder, lambda content: language(content)["encoder"]["final_layernorm.bias"].add_(1e-6), "mp_rank_01")
    done = convert_megatron(folder, tmp_path / "out")
    assert any("1 weights differ slightly" in note for note in done.notes)


@pytest.mark.parametrize(
    ("arguments", "heads", "kind", "text"),
    [
        (None, None, MissingOptionError, "--num-attention-heads is missing"),
        (None, 5, InvalidOptionError, "a divisor of the 32"),
        (None, 1, InvalidOptionError, "a multiple of the 2 shards"),
        (None, 0, InvalidOptionError, "a divisor"),
        (None, -4, InvalidOptionError, "a divisor"),
        ({}, 8, InvalidOptionError, "it must be 4"),
        ({"num_attention_heads": 5}, None, CheckpointCorruptError, "its num_attention_heads is 5"),
    ],
)
def test_a_wrong_number_of_heads(
    tmp_path: Path, model: Any, refused: Any, arguments: Any, heads: int | None, kind: Any, text: str
) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2, arguments=arguments))
    assert text in refused(folder, kind, num_attention_heads=heads)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("apply_residual_connection_post_layernorm", True),
        ("position_embedding_type", "rope"),
        ("use_rotary_position_embeddings", True),
        ("normalization", "RMSNorm"),
        ("swiglu", True),
        ("squared_relu", True),
        ("add_bias_linear", False),
        ("num_experts", 8),
        ("group_query_attention", True),
        ("kv_channels", 16),
        ("window_size", (4, 4)),
    ],
)
def test_what_transformers_has_no_model_for(tmp_path: Path, model: Any, refused: Any, name: str, value: object) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(arguments={name: value}))
    assert f"This checkpoint has {name}=" in refused(folder, UnsupportedFeatureError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 5),
        ("hidden_size", "32"),
        ("layernorm_epsilon", float("nan")),
        ("layernorm_epsilon", -1.0),
        ("layernorm_epsilon", 10**400),
        ("vocab_size", 10**9),
        ("padded_vocab_size", 999),
        ("openai_gelu", "no"),
        ("num_attention_heads", 4.0),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, model: Any, refused: Any, name: str, value: object) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(arguments={name: value}))
    assert name in refused(folder, CheckpointCorruptError)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: language(c)["encoder"].pop("layers.1.input_layernorm.weight"), "layers.1.input_layernorm.weight"),
        (lambda c: language(c)["encoder"].update({"layers.0.adapter.weight": torch.ones(2)}), "adapter"),
        (lambda c: language(c)["encoder"].update({"layers.0.input_layernorm.bias": torch.ones(5)}), "has shape [5]"),
        (lambda c: language(c)["encoder"].update({"final_layernorm.bias": torch.ones(1).expand(32)}), "a view of"),
        (
            lambda c: language(c)["encoder"].update({"final_layernorm.bias": torch.ones(32).to_sparse()}),
            "torch.sparse_coo on cpu",
        ),
        (lambda c: language(c)["encoder"].update({"final_layernorm.bias": torch.ones(32).long()}), "torch.int64"),
        (
            lambda c: language(c)["encoder"].update({"final_layernorm.bias": [1.0] * 32}),
            "no ordinary tensor but a list",
        ),
        (lambda c: language(c).pop("embedding"), "embedding.word_embeddings.weight"),
        (lambda c: language(c).pop("pooler"), "no pooler before it"),
        (lambda c: c["model"].update(classification_head={"weight": torch.ones(2, 32)}), "no class with all of them"),
        (lambda c: c.update(args=[1]), "its args are of type list, not those of a training."),
        (lambda c: c.update(args=torch.ones(2)), "its args are of type Tensor"),
        (lambda c: c.pop("model"), "not a checkpoint of Megatron-LM"),
        (lambda c: c.update(model=[]), "not a checkpoint of Megatron-LM"),
        (lambda c: c.update(model={}), "is a shard missing? Fetch"),
        (lambda c: c["model"].update(again=c["model"]), "more than 200 characters"),
        (lambda c: c["model"].update({"a": {str(i): {str(j): 0 for j in range(400)} for i in range(300)}}), "100000"),
    ],
)
def test_weights_that_make_no_bert(tmp_path: Path, model: Any, refused: Any, change: Any, text: str) -> None:
    folder = alter(write_folder(tmp_path / "in", model, Layout()), change)
    assert text in refused(folder, NeuronBertError)


def test_weights_that_are_no_numbers_are_told(tmp_path: Path, model: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout())
    alter(folder, lambda content: language(content)["encoder"]["final_layernorm.bias"][3].fill_(float("nan")))
    done = convert_megatron(folder, tmp_path / "out")
    assert "1 of its weights hold NaN or infinity (bert.encoder.ln.bias): they were taken as they are" in done.notes[-1]


def test_a_decoder_of_megatron(tmp_path: Path, model: Any, refused: Any) -> None:
    def to_gpt(content: dict[str, Any]) -> None:
        for name in ("lm_head", "binary_head"):
            del content["model"][name]
        del language(content)["embedding"]["tokentype_embeddings"]
        del language(content)["pooler"]

    folder = alter(write_folder(tmp_path / "in", model, Layout()), to_gpt)
    assert "tokentype_embeddings" in refused(folder, CheckpointCorruptError)


def test_a_file_of_transformers(tmp_path: Path, model: Any, refused: Any) -> None:
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert "not a checkpoint of Megatron-LM: it has no model, but bert." in refused(
        tmp_path / "pytorch_model.bin", CheckpointCorruptError
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"hello\nworld\n", "has no [PAD]"),
        (b"\xff\xfe\n", "UTF-8"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "a token twice"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", "its 6 tokens are not what fills"),
    ],
)
def test_a_vocabulary_that_is_not_its_own(tmp_path: Path, model: Any, refused: Any, content: bytes, text: str) -> None:
    folder = write_folder(tmp_path / "in", model, Layout())
    (tmp_path / "words.txt").write_bytes(content)
    assert text in refused(folder, VocabularyError, vocab=tmp_path / "words.txt")


def test_several_vocabularies(tmp_path: Path, model: Any, refused: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout())
    for name in ("vocab.txt", "bert-vocab.txt"):
        (folder / name).touch()
    assert "bert-vocab.txt, vocab.txt" in refused(folder, VocabularyError)


def test_what_is_not_there(tmp_path: Path, model: Any, refused: Any) -> None:
    refused(tmp_path / "nothing.zip", MissingFileError)


def test_a_vocabulary_that_is_not_there(tmp_path: Path, model: Any, refused: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout())
    refused(folder, MissingFileError, vocab=tmp_path / "nothing.txt")


def test_an_output_that_is_there_is_left_alone(tmp_path: Path, model: Any) -> None:
    folder = write_folder(tmp_path / "in", model, Layout())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    with pytest.raises(OutputExistsError):
        convert_megatron(folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_disk_without_room(tmp_path: Path, model: Any, refused: Any, monkeypatch: Any, kind: str) -> None:
    import shutil

    source = write_folder(tmp_path / "in", model, Layout())
    if kind == "zip":
        source = write_zip(tmp_path / "in.zip", source)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert "1000 are free" in refused(source, StorageError)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, model: Any, kind: str) -> None:
    source = write_folder(tmp_path / "in", model, Layout())
    if kind == "zip":
        source = write_zip(tmp_path / "in.zip", source)
    (tmp_path / "place").mkdir()
    code = """
import resource, signal, sys
from neuronbert import convert_megatron
from neuronbert.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # writing more fails, as on a full disk
try:
    convert_megatron(sys.argv[1], sys.argv[2])
except StorageError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "place" / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "can't be written" in done.stdout
    assert list((tmp_path / "place").iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, model: Any) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    folder = write_folder(tmp_path / "in", model, Layout())
    (tmp_path / "place").mkdir()
    with pytest.raises(KeyboardInterrupt):
        convert_megatron(folder, tmp_path / "place" / "out", progress=interrupt)
    assert list((tmp_path / "place").iterdir()) == []
