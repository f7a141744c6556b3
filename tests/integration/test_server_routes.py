"""Every route over a real socket, against the in-process answer to the same texts."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import Request

from neuronbert import Predictor, StaticShape
from neuronbert.server import exchange, tensors
from neuronbert.server.exchange import as_json
from tests.conftest import save_tiny
from tests.support.serving import served

SHAPES = (StaticShape(4, 16), StaticShape(4, 48))
TEXTS = ["Bread.", "A man is playing a guitar on the street.", "It rains in London, said Ada Lovelace."]
QUESTION = {"question": "Who?", "context": "It was Ada who wrote the first program, long ago. " * 8}
JSON = {"content-type": "application/json"}
SIMILAR = {"source_sentence": "bread", "sentences": TEXTS}
PARTS = ("count", "success", "failure")
TASKS = {
    "embed": "sentence-embedding",
    "features": "feature-extraction",
    "classify": "text-classification",
    "tag": "token-classification",
    "ask": "question-answering",
    "fill": "fill-mask",
}


@pytest.fixture(scope="module")
def artifacts(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> dict[str, Path]:
    from neuronbert import ExportSpec, export

    folder = tmp_path_factory.mktemp("models")
    made = {name: exported(task, *SHAPES, auto_cast="none") for name, task in TASKS.items()}
    labels = {"rank": ("relevance",), "entail": ("contradiction", "neutral", "entailment")}
    for name, names in labels.items():
        numbered = {"id2label": dict(enumerate(names)), "label2id": {label: at for at, label in enumerate(names)}}
        checkpoint = save_tiny(folder / name, minilm, "text-classification", num_labels=len(names), **numbered)
        made[name] = folder / f"{name}-artifact"
        export(ExportSpec(str(checkpoint), SHAPES, "text-classification", auto_cast="none"), made[name])
    return made


@pytest.fixture(scope="module")
def url(artifacts: dict[str, Path]) -> Iterator[str]:
    with served(artifacts, max_client_batch_size=8) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def replies(artifacts: dict[str, Path]) -> Callable[..., list[dict[str, Any]]]:
    """The in-process answers of a model."""
    predictors: dict[str, Predictor] = {}

    def answer(name: str, rows: list[Any], **options: Any) -> list[dict[str, Any]]:
        if name not in predictors:
            predictors[name] = Predictor.from_pretrained(str(artifacts[name]))
        return predictors[name].predict(rows, **options)

    return answer


def unit(values: Any) -> np.ndarray:
    vectors = np.array(values)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def same(found: Any, expected: Any) -> bool:
    """Whether data is the same but for what another batch rounds differently."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else found == expected


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: httpx.Client, path: str, status: int, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return dict(response.json())


@pytest.mark.parametrize("name", ["embed", "features"])
def test_embed(client: httpx.Client, replies: Callable[..., Any], name: str) -> None:
    expected = [reply["embedding"] for reply in replies(name, TEXTS)]
    assert np.allclose(post(client, "/embed", model=name, inputs=TEXTS, normalize=False), expected, atol=1e-5)
    assert np.allclose(post(client, "/embed", model=name, inputs=TEXTS), unit(expected), atol=1e-5)
    assert np.allclose(post(client, "/embed", model=name, inputs=TEXTS[0]), [unit(expected[0])], atol=1e-5)
    short = post(client, "/embed", model=name, inputs=TEXTS, dimensions=8)
    assert np.allclose(short, unit(np.array(expected)[:, :8]), atol=1e-5)


def test_embed_takes_token_ids(client: httpx.Client) -> None:
    tokens = post(client, "/tokenize", model="embed", inputs=TEXTS)
    ids = [[token["id"] for token in row] for row in tokens]
    of_ids, of_texts = post(client, "/embed", inputs=ids), post(client, "/embed", inputs=TEXTS)
    assert np.allclose(of_ids, of_texts, atol=1e-6)
    assert np.allclose(post(client, "/embed", inputs=ids[1]), of_texts[1:2], atol=1e-6)
    mixed = post(client, "/embed", inputs=[TEXTS[0], ids[2]])
    assert np.allclose(mixed, [of_texts[0], of_texts[2]], atol=1e-6)


def test_embed_all_gives_a_vector_for_each_token(client: httpx.Client, replies: Callable[..., Any]) -> None:
    tokens = post(client, "/tokenize", model="features", inputs=TEXTS)
    found = post(client, "/embed_all", model="features", inputs=TEXTS)
    assert [len(row) for row in found] == [len(row) for row in tokens]
    means = [np.mean(row, axis=0) for row in found]
    assert np.allclose(means, [reply["embedding"] for reply in replies("features", TEXTS)], atol=1e-5)


def test_long_answers_are_made_beside_the_event_loop(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def watched(content: object) -> bytes:
        threads.append(threading.current_thread().name)
        return as_json(content)

    before = client.post("/embed_all", json={"inputs": TEXTS, "model": "embed"}).json()
    monkeypatch.setattr(exchange, "as_json", watched)
    assert client.post("/embed_all", json={"inputs": TEXTS, "model": "embed"}).json() == before
    post(client, "/embed", model="embed", inputs=TEXTS)
    *apart, loop = threads
    assert len(apart) == len(TEXTS), "one after the other, so that others run in between"
    assert loop not in apart


def test_predict(client: httpx.Client, replies: Callable[..., Any]) -> None:
    expected = [reply["scores"] for reply in replies("classify", TEXTS)]
    found = post(client, "/predict", model="classify", inputs=[[text] for text in TEXTS])
    for labels, scores in zip(found, expected, strict=True):
        assert [label["score"] for label in labels] == sorted((label["score"] for label in labels), reverse=True)
        assert {label["label"]: label["score"] for label in labels} == pytest.approx(scores, abs=1e-5)
    assert same(post(client, "/predict", model="classify", inputs=TEXTS[0]), found[0])
    (raw,) = post(client, "/predict", model="classify", inputs=[[TEXTS[0]]], raw_scores=True)
    powers = {label["label"]: np.exp(label["score"]) for label in raw}
    assert {name: value / sum(powers.values()) for name, value in powers.items()} == pytest.approx(
        expected[0], abs=1e-5
    )


def test_two_texts_in_a_list_are_one_pair(client: httpx.Client, replies: Callable[..., Any]) -> None:
    (expected,) = replies("classify", [{"text": TEXTS[0], "text_pair": TEXTS[1]}])
    found = post(client, "/predict", model="classify", inputs=TEXTS[:2])
    assert {label["label"]: label["score"] for label in found} == pytest.approx(expected["scores"], abs=1e-5)


def test_rerank(client: httpx.Client, replies: Callable[..., Any]) -> None:
    rows = [{"text": "bread", "text_pair": text} for text in TEXTS]
    logits = [reply["score"] for reply in replies("rank", rows)]
    order = sorted(range(3), key=lambda place: -logits[place])
    raw = post(client, "/rerank", model="rank", query="bread", texts=TEXTS, raw_scores=True, return_text=True)
    assert [rank["index"] for rank in raw] == order
    assert [rank["text"] for rank in raw] == [TEXTS[place] for place in order]
    assert [rank["score"] for rank in raw] == pytest.approx([logits[place] for place in order], abs=1e-5)
    found = post(client, "/rerank", model="rank", query="bread", texts=TEXTS)
    assert [rank["score"] for rank in found] == pytest.approx([1 / (1 + np.exp(-rank["score"])) for rank in raw])
    assert [set(rank) for rank in found] == [{"index", "score"}] * 3


def test_similarity(client: httpx.Client, replies: Callable[..., Any]) -> None:
    vectors = unit([reply["embedding"] for reply in replies("embed", ["bread", *TEXTS])])
    found = post(client, "/similarity", inputs=SIMILAR)
    assert found == pytest.approx(list(vectors[1:] @ vectors[0]), abs=1e-5)


def test_tokenize_and_decode(client: httpx.Client) -> None:
    text = "héllo wörld 😀"
    (tokens,) = post(client, "/tokenize", inputs=text)
    assert [token["special"] for token in tokens] == [True, False, False, False, True]
    assert all("start" not in token for token in tokens if token["special"])
    inside = [token for token in tokens if not token["special"]]
    assert [text.encode()[token["start"] : token["stop"]].decode() for token in inside] == text.split()
    (bare,) = post(client, "/tokenize", inputs=text, add_special_tokens=False)
    assert bare == inside
    ids = [token["id"] for token in tokens]
    assert post(client, "/decode", ids=ids)[0].startswith("hello world")
    kept = post(client, "/decode", ids=[ids, ids[1:3]], skip_special_tokens=False)
    assert kept[0].startswith("[CLS]")
    assert kept[1] == "hello world"


def test_tokens_within_bounds(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "200002 token ids" in refused(client, "/tokenize", 422, inputs="a " * 200_000)["error"]
    assert "100001 token ids" in refused(client, "/decode", 422, ids=[7] * 100_001)["error"]
    threads: list[str] = []

    def watched(content: object) -> bytes:
        threads.append(threading.current_thread().name)
        return as_json(content)

    monkeypatch.setattr(exchange, "as_json", watched)
    post(client, "/tokenize", inputs=TEXTS[:1])
    post(client, "/decode", ids=[7])
    assert len(threads) == 2
    assert not any("MainThread" in name or "Thread-" in name for name in threads)


def test_headers_say_what_it_took(client: httpx.Client) -> None:
    response = client.post("/embed", json={"inputs": TEXTS}, headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["x-compute-type"] == "cpu"
    assert response.headers["x-compute-characters"] == str(sum(map(len, TEXTS)))
    tokens = post(client, "/tokenize", model="embed", inputs=TEXTS)
    assert response.headers["x-compute-tokens"] == str(sum(map(len, tokens)))
    for name in ("compute", "total", "tokenization", "queue", "inference"):
        assert int(response.headers[f"x-{name}-time"]) >= 0


def test_info_and_openapi(client: httpx.Client) -> None:
    info = client.get("/info").json()
    assert info["model_type"] == {"embedding": {"pooling": "compiled"}}
    assert info["max_input_length"] == 48
    assert info["max_client_batch_size"] == 8
    assert [model["name"] for model in info["models"]] == [*TASKS, "rank", "entail"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/embed", "/predict", "/rerank", "/v1/embeddings", "/"} <= set(paths)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openai_embeddings(client: httpx.Client, replies: Callable[..., Any], encoding: str) -> None:
    body = post(client, "/v1/embeddings", model="embed", input=TEXTS, encoding_format=encoding)
    values = [item["embedding"] for item in body["data"]]
    if encoding == "base64":
        values = [np.frombuffer(base64.b64decode(value), dtype="<f4") for value in values]
    assert np.allclose(values, unit([reply["embedding"] for reply in replies("embed", TEXTS)]), atol=1e-5)
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    assert client.get("/v1/models").json()["data"][0]["id"] == "embed"


class TestHuggingFace:
    def test_embedding_and_similarity(self, client: httpx.Client) -> None:
        assert same(post(client, "/", inputs=TEXTS[0]), post(client, "/embed", inputs=TEXTS[0]))
        assert same(post(client, "/", inputs=SIMILAR, parameters={}), post(client, "/similarity", inputs=SIMILAR))
        plain = post(client, "/", inputs=TEXTS, normalize=False, truncate=True)
        assert same(plain, post(client, "/embed", inputs=TEXTS, normalize=False))

    def test_classification(self, client: httpx.Client) -> None:
        found = post(client, "/", model="classify", inputs=TEXTS)
        assert same(found, post(client, "/predict", model="classify", inputs=[[text] for text in TEXTS]))
        assert same(post(client, "/", model="classify", inputs=TEXTS[0]), found[:1])
        assert same(post(client, "/", model="classify", inputs=TEXTS[0], parameters={"top_k": 1}), [found[0][:1]])

    def test_tokens_in_windows(self, client: httpx.Client, replies: Callable[..., Any]) -> None:
        text = " ".join(TEXTS * 6)
        (expected,) = replies("tag", [text], stride=11)
        found = post(client, "/", model="tag", inputs=text)
        assert [(entity["entity_group"], entity["start"], entity["end"]) for entity in found] == [
            (entity["label"], entity["start"], entity["end"]) for entity in expected["entities"]
        ]
        assert found[-1]["end"] > len(text) // 2

    def test_question_in_windows(self, client: httpx.Client, replies: Callable[..., Any]) -> None:
        (expected,) = replies("ask", [QUESTION], stride=10)
        found = post(client, "/", model="ask", inputs=QUESTION)
        assert same(found, expected)
        assert same(post(client, "/", model="ask", inputs=[QUESTION, QUESTION]), [expected, expected])

    def test_masks(self, client: httpx.Client, replies: Callable[..., Any]) -> None:
        (expected,) = replies("fill", ["Paris is the [MASK] of France."], top_k=3)
        found = post(client, "/", model="fill", inputs="Paris is the [MASK] of France.", parameters={"top_k": 3})
        assert [item["token_str"] for item in found] == [item["token"] for item in expected["masks"][0]]
        assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected["masks"][0]])
        for item in found:
            assert item["sequence"] == f"paris is the {item['token_str']} of france.".replace(" ##", "")
        twice = post(client, "/", model="fill", inputs="[MASK] and [MASK]")
        assert [len(mask) for mask in twice] == [5, 5]

    def test_masks_within_bounds(self, client: httpx.Client) -> None:
        text = "[MASK] " * 40
        asked = {"model": "fill", "inputs": [text] * 8}
        body = refused(client, "/", 422, **asked, parameters={"top_k": 100})
        assert "100 texts for each mask take 1344000 token ids" in body["error"]
        assert len(post(client, "/", **asked, parameters={"top_k": 1})) == 8

    def test_zero_shot(self, client: httpx.Client, replies: Callable[..., Any]) -> None:
        labels = ["weather", "music"]
        rows = [{"text": TEXTS[1], "text_pair": f"This example is {label}."} for label in labels]
        parameters = {"candidate_labels": labels, "multi_label": True}
        found = post(client, "/", model="entail", inputs=TEXTS[1], parameters=parameters)
        for label, reply in zip(labels, replies("entail", rows), strict=True):
            scores = reply["scores"]
            expected = scores["entailment"] / (scores["entailment"] + scores["contradiction"])
            assert next(item["score"] for item in found if item["label"] == label) == pytest.approx(expected, abs=1e-5)
        alone = post(client, "/", model="entail", inputs=TEXTS[1], parameters={"candidate_labels": labels})
        assert sum(item["score"] for item in alone) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("template", "label"),
        [("no label", "a"), ("{} or {}", "a"), ("{}" * 10_000, "a"), ("{}" + "a" * 1000, "a"), ("{}", "a" * 1001)],
    )
    def test_zero_shot_within_bounds(self, client: httpx.Client, template: str, label: str) -> None:
        parameters = {"candidate_labels": [label], "hypothesis_template": template}
        body = refused(client, "/", 422, model="entail", inputs="a", parameters=parameters)
        assert "hypothesis_template" in body["error"] or "candidate_labels" in body["error"]

    def test_sagemaker_asks_the_same(self, client: httpx.Client) -> None:
        assert client.get("/ping").status_code == 200
        assert same(post(client, "/invocations", inputs=TEXTS[0]), post(client, "/", inputs=TEXTS[0]))

    def test_what_a_task_does_not_take_is_refused(self, client: httpx.Client) -> None:
        body = refused(client, "/", 422, model="ask", inputs=QUESTION, parameters={"top_k": 2})
        assert body == {"error": "`top_k` is not a parameter of question-answering here.", "error_type": "Validation"}
        refused(client, "/", 422, model="tag", inputs="a", parameters={"aggregation_strategy": "max"})
        refused(client, "/", 422, model="tag", inputs="a", parameters={"stride": 2})
        assert "must be" in refused(client, "/", 422, model="ask", inputs="a")["error"]
        assert "entailment" in refused(client, "/", 424, model="classify", inputs="a", candidate_labels=["b"])["error"]


def test_cohere_rerank(client: httpx.Client) -> None:
    expected = post(client, "/rerank", model="rank", query="bread", texts=TEXTS)
    found = post(client, "/v2/rerank", model="rank", query="bread", documents=TEXTS, top_n=2)
    assert same(found["results"], [{"index": rank["index"], "relevance_score": rank["score"]} for rank in expected[:2]])
    assert set(refused(client, "/v2/rerank", 400, model="rank", query="a", documents=[])) == {"message"}
    refused(client, "/v2/rerank", 422, model="rank", query="a", documents=["b"], max_tokens_per_doc=5)


def tensor(name: str, data: list[Any]) -> dict[str, Any]:
    kind = "INT64" if isinstance(data[0], list) else "BYTES"
    return {"name": name, "shape": list(np.shape(data)), "datatype": kind, "data": data}


class TestOpenInference:
    def infer(self, client: httpx.Client, model: str, *inputs: dict[str, Any], status: int = 200) -> Any:
        response = client.post(f"/v2/models/{model}/infer", json={"id": "7", "inputs": list(inputs)})
        assert response.status_code == status, response.text
        return response.json()

    def test_embedding(self, client: httpx.Client) -> None:
        found = self.infer(client, "features", tensor("text", TEXTS))
        assert {**found, "outputs": ()} == {"model_name": "features", "model_version": "1", "id": "7", "outputs": ()}
        (output,) = found["outputs"]
        expected = post(client, "/embed", model="features", inputs=TEXTS, normalize=False)
        assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [3, 32])
        assert np.allclose(np.reshape(output["data"], (3, 32)), expected, atol=1e-5)
        tokens = post(client, "/tokenize", model="features", inputs=TEXTS)
        longest = max(map(len, tokens))
        ids = [[token["id"] for token in row] + [0] * (longest - len(row)) for row in tokens]
        masks = [[1] * len(row) + [0] * (longest - len(row)) for row in tokens]
        again = self.infer(client, "features", tensor("input_ids", ids), tensor("attention_mask", masks))
        assert np.allclose(again["outputs"][0]["data"], output["data"], atol=1e-5)

    def test_other_tasks(self, client: httpx.Client) -> None:
        pair = tensor("text", TEXTS[:1]), tensor("text_pair", TEXTS[1:2])
        (output,) = self.infer(client, "classify", *pair)["outputs"]
        raw = post(client, "/predict", model="classify", inputs=TEXTS[:2], raw_scores=True)
        assert sorted(output["data"], reverse=True) == pytest.approx([label["score"] for label in raw], abs=1e-5)
        asked = tensor("question", [QUESTION["question"]]), tensor("context", [QUESTION["context"]])
        (output,) = self.infer(client, "ask", *asked)["outputs"]
        assert same(json.loads(output["data"][0]), post(client, "/", model="ask", inputs=QUESTION))
        (output,) = self.infer(client, "fill", tensor("text", ["It [MASK]."]))["outputs"]
        assert same(json.loads(output["data"][0])[0], post(client, "/", model="fill", inputs="It [MASK]."))

    def test_what_there_is(self, client: httpx.Client) -> None:
        assert client.get("/v2").json()["name"] == "neuronbert"
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/embed/versions/1/ready").json() == {"name": "embed", "ready": True}
        assert client.get("/v2/models/ask").json()["inputs"] == [
            {"name": "question", "datatype": "BYTES", "shape": [-1]},
            {"name": "context", "datatype": "BYTES", "shape": [-1]},
        ]
        for path in ("/v2/models/nothing", "/v2/models/embed/versions/2"):
            assert client.get(path).status_code == 404

    @pytest.mark.parametrize(
        "inputs",
        [
            [],
            [tensor("nothing", TEXTS)],
            [tensor("text", TEXTS), tensor("text", TEXTS)],
            [tensor("text", TEXTS), tensor("text_pair", TEXTS[:1])],
            [{**tensor("text", TEXTS), "shape": [2]}],
            [{**tensor("text", TEXTS), "datatype": "INT64"}],
            [tensor("input_ids", TEXTS)],
            [tensor("text", TEXTS[:1]), tensor("input_ids", [[1]])],
            [tensor("attention_mask", [[1]])],
            [tensor("input_ids", [[1]]), tensor("attention_mask", [[0]])],
            [tensor("input_ids", [[1, 2]]), tensor("attention_mask", [[1]])],
            [tensor("input_ids", [[1, 2]]), tensor("attention_mask", [[1, 1, 1]])],
            [tensor("input_ids", [[1, 2, 3]]), tensor("attention_mask", [[1, 0, 1]])],
            [tensor("input_ids", [[1, 2]]), tensor("attention_mask", [[0, 1]])],
            [tensor("input_ids", [[1, 2]]), tensor("attention_mask", [[2, 0]])],
            [tensor("input_ids", [[1, 2]]), tensor("attention_mask", [[1 << 40, 0]])],
            [{**tensor("input_ids", [[1, 2]]), "data": [[[1, 2]]]}],
        ],
    )
    def test_refusals(self, client: httpx.Client, inputs: list[Any]) -> None:
        assert set(self.infer(client, "features", *inputs, status=400)) == {"error"}

    def test_an_id_that_cannot_be_told_again_is_refused(self, client: httpx.Client) -> None:
        content = b'{"id": "\\ud800", "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}'
        response = client.post("/v2/models/embed/infer", content=content, headers=JSON)
        assert (response.status_code, "id" in response.json()["error"]) == (422, True)

    def test_names_are_looked_at_before_bytes(self, client: httpx.Client) -> None:
        unread = {"name": "nothing", "shape": [1], "datatype": "BYTES"}
        assert "inputs are called" in self.infer(client, "embed", *[unread] * 50, status=400)["error"]


def test_tensors_are_copied_once() -> None:
    copied = []

    class Watched(bytes):
        def __getitem__(self, place: Any) -> Any:
            part = Watched(super().__getitem__(place))
            copied.append(len(part))
            return part

    request = Request({"type": "http", tensors._SPACE: Watched(range(100))})
    assert tensors.split(request, [3, 0, 90, 7]) == [bytes(range(3)), b"", bytes(range(3, 93)), bytes(range(93, 100))]
    assert sum(copied) == 100


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": ""}, 422, "Validation"),
        ("/embed", {"inputs": ["a", " "]}, 422, "Validation"),
        ("/embed", {"inputs": [[]]}, 422, "Validation"),
        ("/embed", {"inputs": [999_999]}, 422, "Validation"),
        ("/embed", {"inputs": ["a"] * 9}, 422, "Validation"),
        ("/embed", {"inputs": "a", "dimensions": 33}, 422, "Validation"),
        ("/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation"),
        ("/embed", {"inputs": "a", "prompt_name": "none"}, 422, "Validation"),
        ("/embed", {"inputs": "word " * 60, "truncate": False}, 422, "Validation"),
        ("/embed", {"inputs": [7] * 60, "truncate": False}, 422, "Validation"),
        ("/embed", {}, 422, "Validation"),
        ("/embed", {"inputs": {"a": 1}}, 422, "Validation"),
        ("/embed", {"inputs": "a", "model": "classify"}, 424, "Backend"),
        ("/embed", {"inputs": "a", "model": "nothing"}, 404, "Validation"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "Validation"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty"),
        ("/rerank", {"query": "a", "texts": ["b"], "model": "classify"}, 424, "Backend"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"] * 8}}, 422, "Validation"),
        ("/decode", {"ids": []}, 400, "Empty"),
        ("/decode", {"ids": [30_522]}, 422, "Validation"),
        ("/", {"inputs": "a", "model": "fill"}, 422, "Validation"),
        ("/nowhere", {}, 404, "Validation"),
        ("/health", {}, 405, "Validation"),
    ],
)
def test_refusals(client: httpx.Client, path: str, body: dict[str, Any], status: int, kind: str) -> None:
    assert refused(client, path, status, **body)["error_type"] == kind


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"inputs": "\xff"}', "application/json", 400),
        (b'{"inputs": "\\ud800"}', "application/json", 422),
        (b'{"inputs": "a", "dimensions": NaN}', "application/json", 422),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", 400),
        (b'{"inputs": "a"}', "text/plain", 415),
        (b'{"inputs": "a"}', "", 415),
        (b"", "application/json", 422),
    ],
)
def test_bodies_that_cannot_be_read(client: httpx.Client, content: bytes, kind: str, status: int) -> None:
    response = client.post("/embed", content=content, headers={"content-type": kind} if kind else {})
    assert response.status_code == status, response.text
    assert response.json()["error_type"] == "Validation"


def test_a_body_that_is_too_large_is_not_read(client: httpx.Client) -> None:
    response = client.post("/embed", content=b'{"inputs": "' + b"a" * 2_000_000 + b'"}', headers=JSON)
    assert response.status_code == 413
    assert response.json() == {"error": "The request's body has more than 2000000 bytes.", "error_type": "Validation"}
    response = client.post("/v1/embeddings", content=iter([b'{"inputs": "' + b"a" * 2_000_000, b'"}']), headers=JSON)
    assert (response.status_code, response.json()["type"]) == (413, "Validation")


def test_every_protocol_has_its_own_form_of_error(client: httpx.Client) -> None:
    assert refused(client, "/v1/embeddings", 400, input=[]) == {
        "message": "`input` cannot be empty",
        "code": 400,
        "type": "Empty",
    }


def test_a_text_of_exactly_the_limit_is_whole_and_a_longer_one_is_cut(client: httpx.Client) -> None:
    exact, longer = "word " * 46, "word " * 47
    whole = post(client, "/embed", inputs=exact, truncate=False)
    assert np.allclose(post(client, "/embed", inputs=longer, truncate=True), whole, atol=1e-6)
    assert np.allclose(post(client, "/embed", inputs="first " + exact, truncation_direction="Left"), whole, atol=1e-6)
    assert "48" in refused(client, "/embed", 422, inputs=longer, truncate=False)["error"]


def test_a_text_of_megabytes_is_cut_before_it_is_tokenized(client: httpx.Client) -> None:
    expected = post(client, "/embed", inputs="word " * 46)
    assert np.allclose(post(client, "/embed", inputs="word " * 390_000), expected, atol=1e-6)


def test_of_several_models_the_first_that_can_answers(client: httpx.Client) -> None:
    for path, model, asked in (
        ("/rerank", "rank", {"query": "bread?", "texts": TEXTS}),
        ("/", "rank", {"query": "bread?", "texts": TEXTS}),
        ("/", "ask", {"inputs": QUESTION}),
        ("/", "ask", {"inputs": [QUESTION]}),
        ("/", "entail", {"inputs": TEXTS[0], "parameters": {"candidate_labels": ["food", "music"]}}),
        ("/", "embed", {"inputs": SIMILAR}),
        ("/", "tag", {"inputs": TEXTS[2], "parameters": {"aggregation_strategy": "simple"}}),
        ("/", "classify", {"inputs": TEXTS, "function_to_apply": "sigmoid"}),
        ("/", "embed", {"inputs": TEXTS, "normalize": False}),
    ):
        assert same(post(client, path, **asked), post(client, path, model=model, **asked)), (path, model)
    found = post(client, "/v2/rerank", query="bread?", documents=TEXTS)["results"]
    assert same(found, post(client, "/v2/rerank", model="rank", query="bread?", documents=TEXTS)["results"])


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/embed", {"inputs": []}, "`inputs` cannot be empty"),
        ("/rerank", {"query": "a", "texts": []}, "`texts` cannot be empty"),
        ("/v2/rerank", {"query": "a", "documents": []}, "`documents` cannot be empty"),
        ("/v1/embeddings", {"input": []}, "`input` cannot be empty"),
        ("/decode", {"ids": []}, "`ids` cannot be empty"),
        ("/embed", {"inputs": [-1]}, "`inputs.0`: Input should be greater than or equal to 0"),
        ("/decode", {"ids": [[]]}, "`ids.0`: "),
        ("/embed", {"inputs": "a", "normalize": "perhaps"}, "`normalize`: "),
        ("/embed", {}, "`inputs`: Field required"),
        ("/embed", [], "`body`: "),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "rankFields": []}, "`rankFields`: Extra inputs"),
        ("/", {"inputs": "a", "parameters": {"top_K9": 1}}, "`top_K9`: Extra inputs"),
    ],
)
def test_a_refusal_names_the_field_as_the_client_sent_it(client: httpx.Client, path: str, body: Any, said: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code in (400, 422)
    answer = response.json()
    assert (answer.get("error") or answer["message"]).startswith(said), answer


def test_other_masks_stay_in_the_text_that_one_makes(client: httpx.Client) -> None:
    text = "A [MASK] is playing a [MASK]."
    for place, mask in enumerate(post(client, "/models/fill", inputs=text)):
        for filled in mask:
            assert filled["sequence"].count("[MASK]") == 1, (place, filled)
    (alone,) = post(client, "/models/fill", inputs=["A [MASK] is playing."])
    assert not any("[" in filled["sequence"] for filled in alone)
    said = refused(client, "/models/fill", 422, inputs="[MASK] " + "a " * 99)["error"]
    assert said.endswith("tokens, and may have 48. Shorten it.")


def test_probes_may_ask_for_heads_and_nobody_is_sent_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/health", "/livez", "/readyz", "/ping"):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")
    assert client.post("/embed/", json={"inputs": "a"}).status_code == 404
    assert client.get("/v1/models/rank").json()["id"] == "rank"
    assert client.get("/v1/models/none").status_code == 404


def test_meters(client: httpx.Client) -> None:
    def read() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = read()
    post(client, "/embed", inputs=TEXTS)
    post(client, "/embed", inputs=TEXTS[0])
    refused(client, "/embed", 400, inputs=[])
    refused(client, "/embed", 422)
    refused(client, "/embed", 404, inputs="a", model="nothing")
    after = read()
    moved = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    assert moved['te_request_count{method="batch"}'] == 2  # the empty one among them
    assert moved['te_request_success{method="batch"}'] == 1
    assert moved['te_request_success{method="single"}'] == 1
    assert moved['te_request_failure{err="empty"}'] == 1
    assert moved['te_request_count{method="unread"}'] == 2
    of = {name: sum(moved[each] for each in moved if each.startswith(f"te_request_{name}{{")) for name in PARTS}
    assert of["count"] == of["success"] + of["failure"] == 5
    assert moved["te_request_duration_count"] == 2
    assert sum(value for name, value in moved.items() if name.startswith("neuronbert_rows_total")) == 4
    assert after["te_queue_size"] == 0
    tokens = sum(value for name, value in moved.items() if name.startswith("neuronbert_tokens_total"))
    assert tokens == sum(map(len, post(client, "/tokenize", inputs=[*TEXTS, TEXTS[0]])))


class TestClients:
    """Other people's clients, as they come."""

    def test_openai(self, url: str, client: httpx.Client) -> None:
        import openai

        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as theirs:
            found = theirs.embeddings.create(model="embed", input=TEXTS)  # base64 by default
            assert np.allclose([item.embedding for item in found.data], post(client, "/embed", inputs=TEXTS), atol=1e-6)
            assert next(model.id for model in theirs.models.list()) == "embed"
            with pytest.raises(openai.BadRequestError, match="cannot be empty"):
                theirs.embeddings.create(model="embed", input=[])

    def test_huggingface_hub(self, url: str, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.utils.close_session()  # a new one is made by that
        theirs = huggingface_hub.InferenceClient(model=url)
        assert np.allclose(theirs.feature_extraction(TEXTS[0]), post(client, "/embed", inputs=TEXTS[0]), atol=1e-6)
        likeness = theirs.sentence_similarity("bread", other_sentences=TEXTS)
        assert likeness == pytest.approx(post(client, "/similarity", inputs=SIMILAR), abs=1e-6)
        of = {name: huggingface_hub.InferenceClient(model=f"{url}/models/{name}") for name in (*TASKS, "entail")}
        (expected,) = post(client, "/", model="classify", inputs=TEXTS[0])
        assert [label.label for label in of["classify"].text_classification(TEXTS[0])] == [
            label["label"] for label in expected
        ]
        (entity, *_) = of["tag"].token_classification(TEXTS[2])
        assert entity.word == TEXTS[2][entity.start : entity.end]
        assert of["ask"].question_answering(**QUESTION).answer in QUESTION["context"]
        assert [mask.token_str for mask in of["fill"].fill_mask("It [MASK].", top_k=2)] == [
            mask["token_str"] for mask in post(client, "/", model="fill", inputs="It [MASK].", top_k=2)
        ]
        zero_shot = of["entail"].zero_shot_classification(TEXTS[0], ["a", "b"])
        assert sum(label.score for label in zero_shot) == pytest.approx(1)
        huggingface_hub.utils.close_session()

    def test_curl(self, url: str, client: httpx.Client) -> None:
        command = ["curl", "-sS", f"{url}/embed", "-H", "Content-Type: application/json", "-d", '{"inputs": "Bread."}']
        done = subprocess.run(command, capture_output=True, check=True)
        assert np.allclose(json.loads(done.stdout), post(client, "/embed", inputs="Bread."), atol=1e-6)
