"""Clients that others wrote, over a real socket: they must be answered as they are."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuronbert import ExportSpec, StaticShape, export
from tests.conftest import save_tiny
from tests.support.serving import served

SHAPES = (StaticShape(4, 16), StaticShape(4, 48))
TEXTS = ["Bread.", "A man is playing a guitar on the street.", "It rains in London, said Ada Lovelace."]
FRAMEWORKS = os.environ.get("NEURONBERT_FRAMEWORKS_PYTHON")
BINARY = {"parameters": {"binary_data_output": True}}


@pytest.fixture(scope="module")
def url(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("rank")
    checkpoint = save_tiny(folder / "checkpoint", minilm, "text-classification", num_labels=1)
    export(ExportSpec(str(checkpoint), SHAPES, "text-classification", auto_cast="none"), folder / "rank")
    made = {task: exported(task, *SHAPES, auto_cast="none") for task in ("sentence-embedding", "question-answering")}
    models = {"embed": made["sentence-embedding"], "ask": made["question-answering"], "rank": folder / "rank"}
    with served(models, max_client_batch_size=8) as (url, _):
        yield url


@pytest.fixture(scope="module")
def vectors(url: str) -> np.ndarray:
    """What /embed answers to the texts, held to `predict` elsewhere."""
    return np.array(httpx.post(f"{url}/embed", json={"inputs": TEXTS}, timeout=60).json())


def ranks(url: str, query: str, texts: list[str]) -> list[tuple[int, Any]]:
    """The places of texts with their scores, as /rerank has them: held to `predict` elsewhere."""
    body = {"query": query, "texts": texts, "model": "rank"}
    found = httpx.post(f"{url}/rerank", json=body, timeout=60).json()
    return [(rank["index"], pytest.approx(rank["score"], abs=1e-6)) for rank in found]


def test_cohere(url: str) -> None:
    import cohere

    with httpx.Client(timeout=60) as connections:
        theirs = cohere.ClientV2(api_key="none", base_url=url, httpx_client=connections)
        found = theirs.rerank(model="rank", query="bread", documents=TEXTS, top_n=2).results
        assert [(each.index, each.relevance_score) for each in found] == ranks(url, "bread", TEXTS)[:2]
        with pytest.raises(cohere.core.ApiError) as refused:
            theirs.rerank(model="rank", query="bread", documents=[])
        assert refused.value.status_code == 400


@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient(url: str, vectors: np.ndarray, binary: bool) -> None:
    from tritonclient import http

    with http.InferenceServerClient(url.removeprefix("http://"), network_timeout=60.0) as theirs:
        assert theirs.is_server_live()
        assert theirs.is_server_ready()
        assert theirs.is_model_ready("embed")
        assert theirs.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        names = [each["name"] for each in theirs.get_model_metadata("embed")["inputs"]]
        assert names == ["text", "input_ids", "attention_mask"]

        def infer(model: str, given: dict[str, np.ndarray], output: str) -> np.ndarray:
            inputs = []
            for name, values in given.items():
                kind = "INT64" if values.dtype == np.int64 else "BYTES"
                inputs.append(http.InferInput(name, values.shape, kind))
                inputs[-1].set_data_from_numpy(values, binary_data=binary)
            outputs = [http.InferRequestedOutput(output, binary_data=binary)]
            found: np.ndarray = theirs.infer(model, inputs, outputs=outputs).as_numpy(output)
            return found

        found = infer("embed", {"text": np.array(TEXTS, dtype=object)}, "embedding")
        assert found.dtype == np.float32
        assert np.allclose(found / np.linalg.norm(found, axis=1, keepdims=True), vectors, atol=1e-5)
        ids = np.array([[token["id"] for token in tokens(url, TEXTS[1])]])
        wide = ((0, 0), (0, 2))
        masked = {"input_ids": np.pad(ids, wide), "attention_mask": np.pad(np.ones_like(ids), wide)}
        assert np.allclose(infer("embed", masked, "embedding"), found[1:2], atol=1e-5)
        texts = {name: np.array([text], dtype=object) for name, text in (("question", "Who?"), ("context", TEXTS[2]))}
        (answer,) = infer("ask", texts, "answer")
        assert json.loads(answer)["answer"] in TEXTS[2]


def tokens(url: str, text: str) -> list[dict[str, Any]]:
    return list(httpx.post(f"{url}/tokenize", json={"inputs": text, "model": "embed"}, timeout=60).json()[0])


def infer(url: str, body: object, tail: bytes, length: object = None) -> httpx.Response:
    head = json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return httpx.post(f"{url}/v2/models/embed/infer", content=head + tail, headers=headers, timeout=60)


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def binary(size: object, kind: str = "BYTES", shape: tuple[int, ...] = (1,), name: str = "text") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}}


def test_tensors_as_bytes_and_as_json_in_one_request(url: str, vectors: np.ndarray) -> None:
    ids = [[token["id"] for token in tokens(url, TEXTS[1])]]
    mask = np.ones((1, len(ids[0])), "<i8").tobytes()
    given = {"name": "input_ids", "shape": [1, len(ids[0])], "datatype": "INT64", "data": ids}
    inputs = [given, binary(len(mask), "INT64", (1, len(ids[0])), "attention_mask")]
    response = infer(url, {"inputs": inputs, **BINARY}, mask)
    size = int(response.headers["inference-header-content-length"])
    (told,) = json.loads(response.content[:size])["outputs"]
    assert told["parameters"]["binary_data_size"] == len(response.content) - size == 4 * len(vectors[0])
    found = np.frombuffer(response.content[size:], "<f4")
    assert np.allclose(found / np.linalg.norm(found), vectors[1], atol=1e-5)
    asked_for_json = {"outputs": [{"name": "embedding", "parameters": {"binary_data": False}}]}
    plain = infer(url, {"inputs": inputs, **BINARY, **asked_for_json}, mask)
    assert np.allclose(plain.json()["outputs"][0]["data"], found, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "tail", "length"),
    [
        ([binary(6)], packed(b"ab"), 10_000),
        ([binary(6)], packed(b"ab"), "-1"),
        ([binary(6)], packed(b"ab"), "x"),
        ([binary(6)], packed(b"abc"), None),
        ([binary(7)], packed(b"ab"), None),
        ([binary(-1)], packed(b"ab"), None),
        ([binary(True)], b"a", None),
        ([binary(None)], b"", None),
        ([binary(3)], b"abc", None),
        ([binary(6)], struct.pack("<I", 2**32 - 1) + b"ab", None),
        ([binary(6)], packed(b"\xff\xfe"), None),
        ([binary(6)], packed(b"ab"), 1),
        ([binary(9, "INT64", (1, 1), "input_ids")], b"123456789", None),
        ([binary(6, shape=(2,))], packed(b"ab"), None),
    ],
)
def test_bytes_that_are_no_tensors_are_refused(url: str, inputs: list[Any], tail: bytes, length: object) -> None:
    response = infer(url, {"inputs": inputs}, tail, length)
    assert response.status_code == 400, response.text
    assert ("`Inference-Header-Content-Length` is not" in response.json()["error"]) is (length in (10_000, "-1", "x"))


@pytest.mark.skipif(FRAMEWORKS is None, reason="these clients take an environment of their own: make test")
def test_llama_index_and_haystack(url: str, vectors: np.ndarray) -> None:
    program = Path(__file__).parents[1] / "support" / "frameworks.py"
    command = [str(FRAMEWORKS), str(program), url, json.dumps(TEXTS)]
    # A server on this machine is no hub, but a client of Hugging Face's is told the same of both.
    surroundings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for client in ("llama-index", "haystack"):
        several, one = (np.array(found[what][client]) for what in ("texts", "first"))
        assert np.allclose(several / np.linalg.norm(several, axis=1, keepdims=True), vectors, atol=1e-5)
        assert np.allclose(one / np.linalg.norm(one), vectors[0], atol=1e-5)
    assert [tuple(rank) for rank in found["ranks"]] == ranks(url, TEXTS[0], TEXTS)[:2]


def test_schemathesis_finds_no_server_error(url: str, tmp_path: Path) -> None:
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json"),
        *("--checks", "not_a_server_error", "--max-examples", "3"),
        *("--seed", "1", "--request-timeout", "60", "--no-color"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (tried,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(tried) > 100
