"""Folders of sentence-transformers: what follows their encoder, against its formulas written out in NumPy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from neuronbert import ExportSpec, NeuronSentenceTransformers, Predictor, StaticShape, errors, export, validate
from neuronbert.sentences import POOLINGS
from tests.support import families

KIND = "sentence_transformers.models."
Values = np.ndarray


def pooled(mode: str, tokens: Values, mask: Values) -> Values:
    """One row at a time, over its real tokens alone."""
    rows = []
    for row, real in zip(tokens, mask.astype(bool), strict=True):
        held = row[real]
        weights = np.arange(1, len(row) + 1)[real][:, None]
        rows.append(
            {
                "cls": row[0],
                "max": held.max(0),
                "mean": held.mean(0),
                "mean_sqrt_len_tokens": held.sum(0) / np.sqrt(len(held)),
                "weightedmean": (held * weights).sum(0) / weights.sum(),
                "lasttoken": held[-1],
            }[mode]
        )
    return np.stack(rows)


def compose(folder: Path, model_type: str = "distilbert", modules: tuple[str, ...] = (), **pooling: Any) -> Path:
    families.save(model_type, "feature-extraction", folder)
    kinds = ("Transformer", "Pooling", *modules)
    listed = [{"idx": n, "path": f"{n}_{kind}" if n else "", "type": KIND + kind} for n, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))
    write(folder / "1_Pooling" / "config.json", pooling or {"pooling_mode_mean_tokens": True})
    return folder


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def dense(folder: Path, inputs: int, outputs: int, **settings: Any) -> dict[str, torch.Tensor]:
    activation = "torch.nn.modules.activation.Tanh"
    write(
        folder / "config.json",
        {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": activation, **settings},
    )
    weights = {"linear.weight": torch.randn(outputs, inputs) * 0.2, "linear.bias": torch.randn(outputs) * 0.2}
    save_file(weights, folder / "model.safetensors")
    return weights


def spec(folder: Path) -> ExportSpec:
    return ExportSpec(str(folder), (StaticShape(3, 16),), "sentence-embedding", auto_cast="none")


def call(model: NeuronSentenceTransformers) -> tuple[dict[str, torch.Tensor], Any]:
    ids = torch.randint(5, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    return given, model(**given)


@pytest.mark.parametrize("mode", POOLINGS)
def test_every_pooling_is_over_the_real_tokens_of_the_call(tmp_path: Path, mode: str) -> None:
    folder = compose(tmp_path / "in", pooling_mode=mode)
    model = NeuronSentenceTransformers.from_pretrained(export(spec(folder), tmp_path / "out").path)
    given, outputs = call(model)
    with torch.no_grad():
        tokens = AutoModel.from_pretrained(folder)(**given).last_hidden_state
    expected = pooled(mode, tokens.numpy(), given["attention_mask"].numpy())
    np.testing.assert_allclose(outputs.sentence_embedding.numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.token_embeddings[0], tokens[0], rtol=1e-4, atol=1e-5)
    assert validate(tmp_path / "out").failures == ()


def test_poolings_are_joined_and_followed_by_dense_and_normalize(tmp_path: Path) -> None:
    flags = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}
    folder = compose(tmp_path / "in", "bert", ("Dense", "Dropout", "Normalize"), **flags)
    weights = dense(folder / "2_Dense", 64, 7)
    artifact = export(spec(folder), tmp_path / "out")
    assert artifact.manifest.outputs[1].size == 7
    given, outputs = call(NeuronSentenceTransformers.from_pretrained(artifact.path))
    with torch.no_grad():
        tokens = AutoModel.from_pretrained(folder)(**given).last_hidden_state.numpy()
    mask = given["attention_mask"].numpy()
    joined = np.concatenate([pooled("cls", tokens, mask), pooled("mean", tokens, mask)], axis=1)
    vector = np.tanh(joined @ weights["linear.weight"].numpy().T + weights["linear.bias"].numpy())
    expected = vector / np.linalg.norm(vector, axis=1, keepdims=True)
    np.testing.assert_allclose(outputs.sentence_embedding.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert validate(artifact.path).failures == ()
    dense(folder / "2_Dense", 64, 7)
    assert "the weights given are not those" in validate(artifact.path, record=False).failures[0]


def test_the_real_checkpoint_gives_its_published_kind_of_vectors(tmp_path: Path, minilm: Path) -> None:
    artifact = export(
        ExportSpec(str(minilm), (StaticShape(2, 32),), "sentence-embedding", auto_cast="none"), tmp_path / "out"
    )
    texts = ["A man is playing a guitar on the street.", "Somebody makes music outside."]
    replies = Predictor.from_pretrained(str(artifact.path)).predict([{"text": text} for text in texts])
    found = np.array([reply["embedding"] for reply in replies])
    given = AutoTokenizer.from_pretrained(minilm)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = AutoModel.from_pretrained(minilm)(**given).last_hidden_state.numpy()
    expected = pooled("mean", tokens, given["attention_mask"].numpy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert validate(artifact.path).failures == ()


def test_a_cache_tells_poolings_apart_and_not_folders(tmp_path: Path) -> None:
    from dataclasses import replace

    from neuronbert.cache.job import Job
    from neuronbert.checkpoint import Checkpoint
    from neuronbert.sentences import with_modules

    def key(folder: Path) -> str:
        checkpoint = with_modules(Checkpoint.open(folder), "sentence-embedding")
        return Job(checkpoint, replace(spec(folder), target="cpu"), "cpu").config()

    mean = compose(tmp_path / "mean", modules=("Dense",), pooling_mode="mean")
    dense(mean / "2_Dense", 32, 7)
    shutil.copytree(mean, tmp_path / "again")
    assert key(mean) == key(tmp_path / "again")
    write(mean / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    assert key(mean) != key(tmp_path / "again")


def rewrite(path: Path, **changes: Any) -> None:
    write(path, {**json.loads(path.read_text()), **changes})


FIRST = {"path": "", "type": KIND + "Transformer"}
OTHER = {"path": "4", "type": KIND + "WordWeights"}
AWAY = {"path": "../x", "type": KIND + "Pooling"}
LISTED, POOLING, LAYER = "modules.json", "1_Pooling/config.json", "2_Dense/config.json"
WEIGHTS, PICKLED = "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"
BREAKS: dict[str, Callable[[Path], object]] = {
    "no modules": lambda folder: (folder / LISTED).unlink(),
    "no array": lambda folder: write(folder / LISTED, {}),
    "a way out": lambda folder: write(folder / LISTED, [FIRST, AWAY]),
    "no pooling": lambda folder: write(folder / LISTED, [FIRST]),
    "other module": lambda folder: write(folder / LISTED, [*json.loads((folder / LISTED).read_text()), OTHER]),
    "own mode": lambda folder: write(folder / POOLING, {"pooling_mode": "attention"}),
    "prompts": lambda folder: write(folder / POOLING, {"pooling_mode": "mean", "include_prompt": False}),
    "own activation": lambda folder: rewrite(folder / LAYER, activation_function="os.system"),
    "other size": lambda folder: rewrite(folder / LAYER, out_features=8),
    "pickled": lambda folder: (folder / WEIGHTS).rename(folder / PICKLED),
    "cut off": lambda folder: (folder / WEIGHTS).write_bytes(bytes(9)),
}


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("no modules", errors.UnsupportedFeatureError, "how to pool"),
        ("no array", errors.CheckpointCorruptError, "not a JSON array"),
        ("a way out", errors.CheckpointCorruptError, "no folder beside it"),
        ("no pooling", errors.UnsupportedFeatureError, "has to follow"),
        ("other module", errors.UnsupportedFeatureError, "'WordWeights'"),
        ("own mode", errors.UnsupportedFeatureError, "'attention'.*weightedmean"),
        ("prompts", errors.UnsupportedFeatureError, "where a prompt ends"),
        ("own activation", errors.UnsupportedFeatureError, "'system'.*Tanh"),
        ("other size", errors.CheckpointCorruptError, "not those that its config.json describes"),
        ("pickled", errors.UnsafeWeightsError, r"pytorch_model\.bin"),
        ("cut off", errors.CheckpointCorruptError, "can't be read"),
    ],
)
def test_what_cant_be_exported_is_refused_with_the_reason(
    tmp_path: Path, how: str, kind: type[Exception], said: str
) -> None:
    folder = compose(tmp_path / "in", modules=("Dense",))
    dense(folder / "2_Dense", 32, 7)
    BREAKS[how](folder)
    with pytest.raises(kind, match=said):
        export(spec(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_happens_to_texts_before_their_tokenizer_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = compose(tmp_path / "in")
    write(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    write(folder / "config_sentence_transformers.json", {"default_prompt_name": "query"})
    export(spec(folder), tmp_path / "out")
    assert "lower them before" in caplog.text
    assert "a prompt before each text" in caplog.text
