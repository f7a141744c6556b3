"""sentence-transformers over artifacts of the real checkpoint, against itself over the original."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from neuronbert import (
    Artifact,
    ExportSpec,
    NeuronAutoModel,
    NeuronSentenceTransformer,
    NeuronTransformer,
    Pool,
    StaticShape,
    errors,
    export,
)
from tests.unit.builders import run_python

TASKS = ("sentence-embedding", "feature-extraction")
SHAPES = (StaticShape(4, 16), StaticShape(2, 32), StaticShape(1, 64))
PROMPTS = {"prompts": {"query": "Represent this question: "}, "similarity_fn_name": "dot"}
TEXTS = [
    "A man is playing a guitar on the street.",
    "  Music, and  spaces. ",
    "Rain",
    "An engineer " + "and another engineer " * 12,
    "She writes notes that are longer than the paper that they explain, and nobody reads them.",
] * 3
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
"""Both compute in fp32, in another order: rounding alone parts them. The vectors' length is 1."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """The real checkpoint with a Dense layer before its Normalize, and a prompt."""
    folder = Path(shutil.copytree(minilm, tmp_path_factory.mktemp("st") / "checkpoint"))
    modules = json.loads((folder / "modules.json").read_text())
    layer = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], layer, {**modules[2], "idx": 3, "name": "3"}]))
    (folder / "2_Dense").mkdir()
    activation = "torch.nn.modules.activation.Tanh"
    sizes = {"in_features": 384, "out_features": 96, "bias": True, "activation_function": activation}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(sizes))
    torch.manual_seed(0)
    weights = {"linear.weight": torch.randn(96, 384), "linear.bias": torch.randn(96) * 0.2}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    settings = folder / "config_sentence_transformers.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **PROMPTS}))
    return folder


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    return {
        task: export(ExportSpec(str(checkpoint), SHAPES, task, auto_cast="none"), folder / task).path for task in TASKS
    }


@pytest.fixture(params=TASKS)
def artifact(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Path:
    return artifacts[request.param]


@pytest.fixture
def model(artifact: Path) -> NeuronSentenceTransformer:
    return NeuronSentenceTransformer(artifact)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 4},
        {"prompt": "query: "},
        {"prompt_name": "query"},
        {"truncate_dim": 32, "normalize_embeddings": True},
        {"convert_to_numpy": False},
        {"convert_to_tensor": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_texts_are_encoded_as_by_the_original(
    model: NeuronSentenceTransformer, original: SentenceTransformer, options: dict[str, Any]
) -> None:
    found, expected = model.encode(TEXTS, **options), original.encode(TEXTS, **options)
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected, **CLOSE) if isinstance(found, list) else np.testing.assert_allclose(
        found, expected, **CLOSE
    )


def test_what_else_a_sentence_transformer_does(model: NeuronSentenceTransformer, original: SentenceTransformer) -> None:
    one = model.encode("A single text.")
    np.testing.assert_allclose(one, original.encode("A single text."), **CLOSE)
    np.testing.assert_allclose(model.encode_query(TEXTS), original.encode_query(TEXTS), **CLOSE)
    # Whole numbers of 0 to 255, which rounding may part by one.
    codes = [m.encode(TEXTS, precision="uint8").astype(int) for m in (model, original)]
    assert np.abs(codes[0] - codes[1]).max() <= 1
    for mine, theirs in zip(
        *(m.encode(TEXTS, output_value="token_embeddings") for m in (model, original)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)  # they aren't of length 1
    assert model.encode([]).shape == (0,)
    assert model.get_embedding_dimension() == original.get_embedding_dimension() == 96
    assert model.max_seq_length == original.max_seq_length == 256
    assert model.similarity_fn_name == "dot"
    assert model.prompts == original.prompts


def test_half_of_the_mantissa_is_lost_to_bf16_and_no_more(tmp_path: Path, minilm: Path) -> None:
    """Operands of matrix products have 8 bits: the direction stays within the 0.999 that `validate` asks for."""
    spec = ExportSpec(str(minilm), (StaticShape(4, 64),), "sentence-embedding", auto_cast="matmul")
    found = NeuronSentenceTransformer(export(spec, tmp_path / "out").path).encode(TEXTS)
    expected = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    cosines = (found * expected).sum(axis=1)
    assert cosines.min() > 0.999
    assert np.abs(found - expected).max() > 1e-5


@pytest.mark.parametrize(
    "texts",
    [
        [("A question?", "A text."), ["Another?", "One more text, which is longer."]],
        [{"text": "A."}, "B.", ("C?", "D.")],
        {"text": "One of its own."},
        np.array(TEXTS[:3]),
    ],
    ids=["pairs", "mixed", "mapping", "array"],
)
def test_what_isnt_a_list_of_texts_is_encoded_as_by_the_original(
    model: NeuronSentenceTransformer, original: SentenceTransformer, texts: Any
) -> None:
    for options in ({}, {"prompt": "query: "}):
        found, expected = model.encode(texts, **options), original.encode(texts, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)  # short texts, near the ends of tanh


def test_encode_is_called_as_the_original(model: NeuronSentenceTransformer, original: SentenceTransformer) -> None:
    np.testing.assert_array_equal(model.encode(sentences=TEXTS[:2]), model.encode(inputs=TEXTS[:2]))
    positional = TEXTS[:2], None, "query: ", 4, False, "token_embeddings"
    for mine, theirs in zip(model.encode(*positional), original.encode(*positional), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    for wrong, kind in (({"batch_size": 0}, ValueError), ({"unknown": 1}, ValueError)):
        with pytest.raises(kind):
            model.encode(TEXTS, **wrong)
    with pytest.raises(TypeError):
        model.encode(*range(20))


def test_a_pool_encodes_side_by_side(artifact: Path, model: NeuronSentenceTransformer) -> None:
    with_workers = NeuronSentenceTransformer(artifact, workers=2)
    with with_workers[0].model.session as pool:
        np.testing.assert_allclose(with_workers.encode(TEXTS), model.encode(TEXTS), **CLOSE)
        assert isinstance(pool, Pool)
        served = [worker.calls for worker in pool.health()]
        os.kill(pool.health()[0].pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(with_workers.encode, TEXTS)
            try:  # one call is held up, and the other worker goes on with what comes after it
                end = time.monotonic() + 30
                while pool.health()[1].calls < served[1] + 2:
                    assert time.monotonic() < end
                    time.sleep(0.01)
            finally:
                os.kill(pool.health()[0].pid, signal.SIGCONT)
            np.testing.assert_allclose(answer.result(), model.encode(TEXTS), **CLOSE)
    with pytest.raises(errors.InvalidOptionError, match=r"workers is 2.*loaded already"):
        NeuronSentenceTransformer(model[0].model, workers=2)


def test_a_vector_doesnt_depend_on_its_companions(model: NeuronSentenceTransformer) -> None:
    together = model.encode(TEXTS)
    np.testing.assert_allclose(together, np.stack([model.encode(text) for text in TEXTS]), **CLOSE)


def test_vectors_alone_come_in_the_order_of_the_rows(artifacts: dict[str, Path]) -> None:
    module = NeuronTransformer(artifacts["sentence-embedding"])
    features = module.preprocess(TEXTS)  # not sorted, as `encode` has them
    alone, beside = (module(features, with_tokens=wanted) for wanted in (False, True))
    assert alone.keys() == beside.keys() - {"token_embeddings"}
    torch.testing.assert_close(alone["sentence_embedding"], beside["sentence_embedding"], **CLOSE)


def test_every_program_serves_what_is_cheapest_by_it(artifacts: dict[str, Path]) -> None:
    model = NeuronSentenceTransformer(artifacts["sentence-embedding"])
    model.encode(TEXTS, batch_size=8)
    served = model[0].model.session.served
    # Nine texts of up to 16 tokens, one of which fills the row left by three of up to 32; and three of up to 64. Eight
    # at a time, as batch_size=8 says, would take a call more.
    assert served == {StaticShape(4, 16): 2, StaticShape(2, 32): 2, StaticShape(1, 64): 3}


def test_sentence_transformers_builds_and_loads_models_with_our_module(
    artifacts: dict[str, Path], original: SentenceTransformer, tmp_path: Path, minilm: Path
) -> None:
    expected = original.encode(TEXTS)
    for artifact in artifacts.values():
        loaded = SentenceTransformer(str(artifact), trust_remote_code=True, device="cpu")
        np.testing.assert_allclose(loaded.encode(TEXTS), expected, **CLOSE)
    plain = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    modules = [NeuronTransformer(artifacts["feature-extraction"]), Pooling(384), Normalize()]
    built = SentenceTransformer(modules=modules, device="cpu")
    np.testing.assert_allclose(built.encode(TEXTS), plain, **CLOSE)
    built.save_pretrained(str(tmp_path / "built"))
    again = SentenceTransformer(str(tmp_path / "built"), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), plain, **CLOSE)


def test_a_model_is_saved_as_its_artifact(model: NeuronSentenceTransformer, artifact: Path, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "saved"))
    assert Artifact.open(tmp_path / "saved").manifest == Artifact.open(artifact).manifest
    again = NeuronSentenceTransformer(tmp_path / "saved", prompts={"query": ""}, truncate_dim=8)
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode(TEXTS)[:, :8], **CLOSE)


def test_other_processes_load_programs_of_their_own(model: NeuronSentenceTransformer) -> None:
    model.max_seq_length = 8
    again = ForkingPickler.loads(ForkingPickler.dumps(model))  # as start_multi_process_pool does
    assert again.max_seq_length == 8
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_a_text_is_cut_where_the_original_cuts_it_and_nowhere_else(
    model: NeuronSentenceTransformer, original: SentenceTransformer
) -> None:
    with pytest.raises(errors.SequenceTooLongError, match="compiled for up to 64"):
        model.encode(["word " * 100])
    model.max_seq_length = 64
    original.max_seq_length = 64
    try:
        np.testing.assert_allclose(model.encode(["word " * 100]), original.encode(["word " * 100]), **CLOSE)
    finally:
        original.max_seq_length = 256


def test_a_checkpoint_is_exported_on_the_way(tiny: Callable[..., Path]) -> None:
    model = NeuronSentenceTransformer.from_pretrained(
        tiny("sentence-embedding"), export=True, batch_size=2, sequence_length=32, auto_cast="none", truncate_dim=5
    )
    expected = SentenceTransformer(str(tiny("sentence-embedding")), device="cpu", truncate_dim=5)
    np.testing.assert_allclose(model.encode(TEXTS[:3]), expected.encode(TEXTS[:3]), rtol=1e-4, atol=1e-5)


def test_what_isnt_for_sentences_is_refused(exported: Callable[..., Path]) -> None:
    with pytest.raises(errors.WrongHeadError, match=r"sentence-embedding and feature-extraction.*fill-mask"):
        NeuronSentenceTransformer(exported("fill-mask"))
    with pytest.raises(errors.UnsupportedFeatureError, match="how to pool"):
        NeuronSentenceTransformer(exported("feature-extraction"))
    with pytest.raises(errors.InvalidOptionError, match=r"backend.*similarity_fn_name"):
        NeuronSentenceTransformer(exported("sentence-embedding"), backend="onnx")


@pytest.mark.parametrize(
    "texts",
    [[("a", "b", "c")], [3], [None], [{"text": "A.", "id": 1}], [{"text": 3}], [("a", None)], [[]]],
    ids=str,
)
def test_what_isnt_a_text_is_refused_in_one_line(artifacts: dict[str, Path], texts: list[Any]) -> None:
    with pytest.raises(errors.InvalidOptionError, match=f"{type(texts[0]).__name__}.*must be texts, pairs"):
        NeuronSentenceTransformer(artifacts["sentence-embedding"]).encode(texts)


def test_modules_of_an_artifact_name_no_code(artifacts: dict[str, Path], copied: Callable[[Path], Path]) -> None:
    """Its classes would be imported: only those that are known by name are."""
    from neuronbert.artifact import seal

    folder = copied(artifacts["feature-extraction"])
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "antigravity.Launch"
    (folder / "modules.json").write_text(json.dumps(modules))
    seal(folder, Artifact.open(artifacts["feature-extraction"]).manifest)
    with pytest.raises(errors.UnsupportedFeatureError, match="'Launch'"):
        NeuronSentenceTransformer(folder)


def test_modules_that_cant_follow_are_left_behind_with_a_warning(
    tmp_path: Path, tiny: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny("sentence-embedding"), tmp_path / "in"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.WordWeights"
    (folder / "modules.json").write_text(json.dumps(modules))
    out = export(ExportSpec(str(folder), (StaticShape(2, 32),), "feature-extraction"), tmp_path / "out").path
    assert "aren't kept" in caplog.text
    assert not (out / "modules.json").exists()
    NeuronAutoModel.from_pretrained(out)


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['sentence_transformers'] = None\n"
        "from neuronbert import *\n"
        "try:\n    import neuronbert; neuronbert.NeuronSentenceTransformer\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    said = run_python(code)
    assert said.startswith("MissingPackageError")
    assert "pip install '.[sentence-transformers]'" in said
    assert said.count("\n") == 1
