"""Megatron-LM checkpoints of every version, made from a known model, converted back to it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from neuronbert import convert_megatron
from tests.support.megatron import Layout, make_model, padded_size, write_folder, write_zip

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bread", "##s", "wine")
HEADS = (
    "MegatronBertModel",
    "MegatronBertForPreTraining",
    "MegatronBertForMaskedLM",
    "MegatronBertForNextSentencePrediction",
    "MegatronBertForSequenceClassification",
    "MegatronBertForMultipleChoice",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


def saved(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """What transformers itself would write."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def assert_same_weights(output: Path, model: Any, tmp_path: Path) -> None:
    expected, found = saved(model, tmp_path / "expected"), load_file(output / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rows = found[name][: len(tensor)]  # without arguments, padding of the vocabulary stays
        assert rows.dtype == tensor.dtype
        assert torch.equal(rows, tensor), name


def write_vocabulary(path: Path, count: int = 117, *, words: tuple[str, ...] = WORDS) -> Path:
    path.write_text("".join(f"{word}\n" for word in (*words, *(f"w{index}" for index in range(count - len(words))))))
    return path


@pytest.mark.parametrize("pipeline", [1, 2])
@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("version", [0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("arguments", [None, {}], ids=["no-args", "args"])
def test_every_version_and_sharding_converts_back_to_the_exact_weights(
    tmp_path: Path, model: Any, version: float, tensor: int, pipeline: int, arguments: dict[str, Any] | None
) -> None:
    layout = Layout(version=version, tensor=tensor, pipeline=pipeline, arguments=arguments)
    write_folder(tmp_path / "in", model, layout)
    done = convert_megatron(tmp_path / "in", tmp_path / "out", num_attention_heads=4)
    assert (done.version, done.ranks, done.stages) == (version, tensor, pipeline)
    assert done.class_name == "MegatronBertForPreTraining"
    assert_same_weights(tmp_path / "out", model, tmp_path)
    assert done.config["vocab_size"] == (117 if arguments is not None else padded_size(117, layout))


@pytest.mark.parametrize("transformer_engine", [False, True], ids=["local", "engine"])
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 2), (4, 2)])
def test_the_layout_of_megatron_core_converts_back_to_the_exact_weights(
    tmp_path: Path, model: Any, tensor: int, pipeline: int, transformer_engine: bool
) -> None:
    layout = Layout(tensor=tensor, pipeline=pipeline, core=True, transformer_engine=transformer_engine)
    write_folder(tmp_path / "in", model, layout)
    convert_megatron(tmp_path / "in", tmp_path / "out")
    assert_same_weights(tmp_path / "out", model, tmp_path)


@pytest.mark.parametrize(("version", "core"), [(1.0, False), (3.0, True)])
def test_virtual_stages_are_put_in_order(tmp_path: Path, model: Any, version: float, core: bool) -> None:
    write_folder(tmp_path / "in", model, Layout(version=version, core=core, tensor=2, pipeline=2, virtual=2))
    convert_megatron(tmp_path / "in", tmp_path / "out")
    assert_same_weights(tmp_path / "out", model, tmp_path)


def test_a_decoder_that_is_not_tied_stays_so(tmp_path: Path) -> None:
    model = make_model(tie_word_embeddings=False)
    write_folder(tmp_path / "in", model, Layout(tensor=2, pipeline=2, core=True))
    done = convert_megatron(tmp_path / "in", tmp_path / "out")
    assert done.config["tie_word_embeddings"] is False
    expected = saved(model, tmp_path / "expected")
    expected["cls.predictions.decoder.bias"] = expected["cls.predictions.bias"]  # Megatron has one for both
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_half_precision_stays_bit_for_bit(tmp_path: Path, dtype: torch.dtype, legacy: bool) -> None:
    model = make_model().to(dtype)
    write_folder(tmp_path / "in", model, Layout(version=0, dtype=dtype, arguments=None), legacy=legacy)
    done = convert_megatron(tmp_path / "in", tmp_path / "out", num_attention_heads=4)
    assert f"torch.{done.config['dtype']}" == str(dtype)
    assert_same_weights(tmp_path / "out", model, tmp_path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_zip_as_it_is_published_is_converted(tmp_path: Path, model: Any, compression: int, legacy: bool) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(version=0), legacy=legacy, tracker="release")
    (folder / "latest_checkpointed_iteration.txt").unlink()
    write_vocabulary(folder / "release" / "bert-vocab.txt")
    (folder / "readme.md").write_text("not a part of it")
    write_zip(tmp_path / "in.zip", folder, compression)
    done = convert_megatron(tmp_path / "in.zip", tmp_path / "out")
    assert done.tokenizer
    assert_same_weights(tmp_path / "out", model, tmp_path)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize("class_name", HEADS)
@pytest.mark.parametrize("pipeline", [1, 2])
def test_every_head_answers_like_the_model_it_was_trained_as(tmp_path: Path, class_name: str, pipeline: int) -> None:
    settings = {"num_labels": 5} if class_name.endswith("SequenceClassification") else {}
    model = make_model(class_name, **settings)
    write_folder(tmp_path / "in", model, Layout(tensor=2, pipeline=pipeline))
    done = convert_megatron(tmp_path / "in", tmp_path / "out")
    assert done.class_name == class_name
    assert_same_weights(tmp_path / "out", model, tmp_path)
    again, info = getattr(transformers, class_name).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    dims = (2, 3, 9) if class_name.endswith("MultipleChoice") else (2, 9)
    ids = torch.randint(0, 117, dims, generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[-1, ..., 6:] = 0
    with torch.no_grad():
        expected, found = (head.eval()(ids, mask, token_type_ids=ids % 2) for head in (model, again))
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_a_model_without_token_types_answers_as_if_it_had_zeros(tmp_path: Path) -> None:
    model = make_model("MegatronBertForMaskedLM")
    with torch.no_grad():
        model.bert.embeddings.token_type_embeddings.weight.zero_()
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2))
    for path in folder.rglob("*.pt"):
        content = torch.load(path, weights_only=False)
        del content["model"]["language_model"]["embedding"]["tokentype_embeddings"]
        torch.save(content, path)
    done = convert_megatron(tmp_path / "in", tmp_path / "out")
    assert any("zeros" in note for note in done.notes)
    assert_same_weights(tmp_path / "out", model, tmp_path)


@pytest.mark.parametrize("core", [False, True])
def test_norms_stored_less_one_are_made_whole(tmp_path: Path, core: bool) -> None:
    model = make_model(dtype=torch.float32)
    folder = write_folder(tmp_path / "in", model, Layout(arguments={"apply_layernorm_1p": True}, core=core))
    convert_megatron(folder, tmp_path / "out")
    expected, found = saved(model, tmp_path / "expected"), load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in expected.items():
        is_norm = name.endswith("ln.weight") or (core and name.endswith("LayerNorm.weight"))
        assert torch.equal(found[name], tensor + 1 if is_norm else tensor), name


@pytest.mark.parametrize(
    ("version", "arguments", "eps", "act"),
    [
        (0, None, 1e-5, "gelu"),
        (1.0, None, 1e-5, "gelu"),
        (2.0, None, 1e-5, "gelu_new"),
        (3.0, {}, 1e-5, "gelu"),
        (3.0, {"layernorm_epsilon": 1e-12, "openai_gelu": True}, 1e-12, "gelu_new"),
        (3.0, {"bias_gelu_fusion": True}, 1e-5, "gelu_new"),
        (0, {"bias_gelu_fusion": None, "layernorm_epsilon": 1e-6}, 1e-6, "gelu"),
    ],
)
def test_epsilon_and_gelu_are_those_of_the_training(
    tmp_path: Path, model: Any, version: float, arguments: dict[str, Any] | None, eps: float, act: str
) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(version=version, arguments=arguments))
    done = convert_megatron(folder, tmp_path / "out", num_attention_heads=4)
    assert (done.config["layer_norm_eps"], done.config["hidden_act"]) == (eps, act)
    assert any("no arguments" in note for note in done.notes) == (arguments is None)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(json.dumps(done.config))


@pytest.mark.parametrize(
    ("tokenizer_type", "word", "text", "tokens"),
    [
        ("BertWordPieceCase", "bread", "Bread wine", ["[UNK]", "wine"]),
        ("BertWordPieceLowerCase", "bread", "Breads WINE", ["bread", "##s", "wine"]),
        (None, "bread", "Breads WINE", ["bread", "##s", "wine"]),
        (None, "Bread", "Breads WINE", ["Bread", "##s", "[UNK]"]),
    ],
)
def test_a_vocabulary_beside_it_becomes_a_tokenizer(
    tmp_path: Path, model: Any, tokenizer_type: str | None, word: str, text: str, tokens: list[str]
) -> None:
    folder = write_folder(tmp_path / "in", model, Layout(arguments={"tokenizer_type": tokenizer_type}))
    write_vocabulary(folder / "vocab.txt", words=(*WORDS[:5], word, *WORDS[6:]))
    done = convert_megatron(folder, tmp_path / "out")
    assert done.tokenizer
    assert done.config["vocab_size"] == 117
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == 117
    assert tokenizer.model_max_length == 48
    assert tokenizer.tokenize(text) == tokens


def test_the_published_size_needs_no_options(tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "max_position_embeddings": 512, "num_hidden_layers": 24}
    from neuronbert.megatron import settings, vocabulary
    from neuronbert.megatron.shards import Shards

    shapes = {
        "embedding.word_embeddings.weight": (29056, 1024),
        "embedding.position_embeddings.weight": (512, 1024),
        "embedding.tokentype_embeddings.weight": (2, 1024),
        "encoder.layers.0.mlp.linear_fc1.weight": (4096, 1024),
    }
    parts = {name: (torch.empty(shape, device="meta"),) for name, shape in shapes.items()}
    shards = Shards(tmp_path, 0.0, False, None, 1, 1, sizes["num_hidden_layers"], parts)
    found = settings.find_sizes(shards)
    assert settings.read(shards, found, None).heads == 16
    assert vocabulary.real_size(shards, found, None) == (28996, "")


def test_progress_ends_with_all_bytes_written(tmp_path: Path, model: Any) -> None:
    seen: list[tuple[int, int]] = []
    folder = write_folder(tmp_path / "in", model, Layout(tensor=2))
    done = convert_megatron(folder, tmp_path / "out", progress=lambda *pair: seen.append(pair))
    assert seen == sorted(seen)
    assert seen[-1] == (done.weights_bytes, done.weights_bytes)
