"""The Open Inference Protocol, version 2, as Triton and KServe have it.

Owns: /v2, but for Cohere's route there. Source: open-inference-protocol's specification/protocol/inference_rest.md.
"""

from __future__ import annotations

from itertools import chain, repeat
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from neuronbert._version import __version__
from neuronbert.answers import check_encodable
from neuronbert.pieces import IDS
from neuronbert.server import scores, tensors
from neuronbert.server.exchange import EMBEDDING, Exchange, Open, as_json
from neuronbert.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neuronbert.pieces import Want
    from neuronbert.server.served import Served

# Clients of this protocol send no content type.
router = APIRouter(
    prefix="/v2", tags=["open inference protocol"], strict_content_type=False, route_class=tensors.MixedRoute
)

VERSION: Final = "1"
_MOST: Final = 1 << 20
"""Values of a tensor."""
_CANDIDATES: Final = 5
"""Tokens that are told for a mask."""
_TEXTS: Final = ("text", "text_pair")
_TENSORS: Final = ("input_ids", "attention_mask")
_SIZE: Final = "binary_data_size"


class Tensor(BaseModel):
    """An input: texts as BYTES (rows), or INT64 (rows, tokens); its values nested or flat, or bytes after the JSON."""

    model_config = ConfigDict(strict=True)

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=2)]
    datatype: Literal["BYTES", "INT64"]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class Wanted(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class Infer(BaseModel):
    """What infer takes."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor]
    outputs: list[Wanted] | None = None


@router.get("", response_model=dict[str, Any])
async def server() -> Response:
    """What this server is."""
    return _reply({"name": "neuronbert", "version": __version__, "extensions": ["binary_tensor_data"]})


@router.get("/health/live", response_model=dict[str, Any])
async def live() -> Response:
    """Whether the process answers at all."""
    return _reply({"live": True})


@router.get("/health/ready", response_model=dict[str, Any])
async def ready(exchange: Open) -> Response:
    """Whether requests should be sent here."""
    if not exchange.site.ready:
        raise Refusal(503, "Unhealthy", "not ready")
    return _reply({"ready": True})


@router.get("/models/{name}", response_model=dict[str, Any])
@router.get("/models/{name}/versions/{version}", response_model=dict[str, Any])
async def metadata(exchange: Open, name: str, version: str = VERSION) -> Response:
    """What a model takes and gives."""
    model = _find(exchange, name, version)
    output = _output(model)
    inputs: list[dict[str, Any]] = [
        {"name": text, "datatype": "BYTES", "shape": [-1]} for text in _names(model) if text in _texts(model)
    ]
    inputs += [{"name": each, "datatype": "INT64", "shape": [-1, -1]} for each in _names(model) if each in _TENSORS]
    outputs = [{"name": output, "datatype": "BYTES" if output == "answer" else "FP32", "shape": [-1]}]
    if output != "answer":
        outputs[0]["shape"] = [-1, -1]
    body = {"name": name, "versions": [VERSION], "platform": "neuronbert", "inputs": inputs, "outputs": outputs}
    return _reply(body)


@router.get("/models/{name}/ready", response_model=dict[str, Any])
@router.get("/models/{name}/versions/{version}/ready", response_model=dict[str, Any])
async def model_ready(exchange: Open, name: str, version: str = VERSION) -> Response:
    """Whether a model takes requests."""
    if not _find(exchange, name, version).ready:
        raise Refusal(503, "Unhealthy", "not ready")
    return _reply({"name": name, "ready": True})


@router.post("/models/{name}/infer", response_model=dict[str, Any])
@router.post("/models/{name}/versions/{version}/infer", response_model=dict[str, Any])
async def infer(asked: Infer, request: Request, exchange: Open, name: str, version: str = VERSION) -> Response:
    """What a model gives for tensors."""
    model = _find(exchange, name, version)
    output = _output(model)
    if asked.id is not None:
        check_encodable("id", asked.id)  # it is told again, when everything has run
    for wanted in asked.outputs or ():
        if wanted.name != output:
            raise Refusal(400, "Validation", f"The model's output is called {output}.")
    names = _names(model)
    given = {tensor.name for tensor in asked.inputs}
    if not given or len(given) < len(asked.inputs) or not given <= set(names):
        raise Refusal(400, "Validation", f"The model's inputs are called {', '.join(names)}: each once.")
    rows = _rows(_filled(request, asked.inputs))
    exchange.count(len(rows))
    data = await _outputs(exchange, model, rows)
    texts = output == "answer"
    values = data if texts else np.asarray(data)
    found = {"name": output, "shape": list(np.shape(values)), "datatype": "BYTES" if texts else "FP32"}
    told = {"model_name": name, "model_version": VERSION, **({} if asked.id is None else {"id": asked.id})}
    if not _as_bytes(asked):
        return exchange.reply({**told, "outputs": [{**found, "data": values if texts else values.ravel()}]})
    content = tensors.write(values)
    return exchange.reply({**told, "outputs": [{**found, "parameters": {_SIZE: len(content)}}]}, tail=content)


def _as_bytes(asked: Infer) -> bool:
    """Whether the output is wanted as bytes: what it says itself goes before what is said of all."""
    of_all = (asked.parameters or {}).get("binary_data_output", False)
    of_one = (asked.outputs[0].parameters or {}) if asked.outputs else {}
    return of_one.get("binary_data", of_all) is True


def _filled(request: Request, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Inputs with their values, wherever these are.

    Raises:
        Refusal: one has none, or not as many bytes as it says.
    """
    sizes: list[int] = []
    for tensor in inputs:
        size = 0 if tensor.data is not None else (tensor.parameters or {}).get(_SIZE)
        if type(size) is not int or size < 0:
            raise Refusal(400, "Validation", f"An input has neither `data` nor a `{_SIZE}`.")
        sizes.append(size)
    parts = tensors.split(request, sizes)
    return [
        tensor.model_copy(update={"data": tensors.read(tensor.datatype, part)}) if tensor.data is None else tensor
        for tensor, part in zip(inputs, parts, strict=True)
    ]


async def _outputs(exchange: Exchange, model: Served, rows: list[dict[str, Any]]) -> Any:
    task = model.engine.task
    if task in EMBEDDING:
        return scores.vectors(await exchange.ask(model, rows, "vector", exchange.cut(None)), normalize=False)
    if task == "text-classification":
        return scores.finite(np.stack(await exchange.ask(model, rows, "logits", exchange.cut(None))))
    want: Want = "masks" if task == "fill-mask" else "reading"
    if want == "masks":
        fill = model.engine.texts.fill
        found = await exchange.ask(model, rows, want, "refuse", lambda found: fill(found, _CANDIDATES))
    else:
        found = await exchange.ask(model, rows, want, "windows")
    return [as_json(reply).decode() for reply in found]


def _rows(inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Rows of what tensors hold, all of them as many.

    Raises:
        Refusal: the model doesn't take them.
    """
    given = {tensor.name: _values(tensor) for tensor in inputs}
    if len({len(rows) for rows in given.values()}) > 1:
        raise Refusal(400, "Validation", "The inputs have different numbers of rows.")
    if "input_ids" in given and given.keys() <= set(_TENSORS):
        masks = given.get("attention_mask", repeat(None))
        return [{IDS: _unmasked(ids, mask)} for ids, mask in zip(given["input_ids"], masks, strict=False)]
    if given.keys() & set(_TENSORS):
        raise Refusal(400, "Validation", "Give texts, or input_ids with or without attention_mask.")
    return [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]


def _unmasked(ids: list[int], mask: list[int] | None) -> list[int]:
    if mask is None:
        return ids
    if len(mask) != len(ids):
        raise Refusal(400, "Validation", "`attention_mask` must have the shape of `input_ids`.")
    size = mask.count(1)
    if not size or mask != [1] * size + [0] * (len(ids) - size):
        raise Refusal(400, "Validation", "A row of `attention_mask` must be ones, at least one, and then zeros.")
    return ids[:size]


def _values(tensor: Tensor) -> list[Any]:
    """A tensor's rows.

    Raises:
        Refusal: its data isn't what its shape and datatype say.
    """
    texts = tensor.datatype == "BYTES"
    flat = list(_flattened(tensor.data or []))
    kind = str if texts else int
    if tensor.name in _TENSORS and (texts or len(tensor.shape) == 1):
        raise Refusal(400, "Validation", f"`{tensor.name}` must be INT64 of two dimensions")
    if prod(tensor.shape) != len(flat) or len(flat) > _MOST or not all(type(value) is kind for value in flat):
        raise Refusal(400, "Validation", "An input's data is not what its shape and datatype say.")
    columns = prod(tensor.shape[1:])
    if texts and columns != 1:
        raise Refusal(400, "Validation", "A text is one value of a row.")
    return flat if texts else [flat[start : start + columns] for start in range(0, len(flat), columns)]


def _flattened(data: list[Any]) -> Iterator[Any]:
    if any(isinstance(value, list) for value in data):
        return chain.from_iterable(value if isinstance(value, list) else [value] for value in data)
    return iter(data)


def _texts(model: Served) -> tuple[str, ...]:
    return ("question", "context") if model.engine.task == "question-answering" else _TEXTS


def _names(model: Served) -> tuple[str, ...]:
    task = model.engine.task
    if task == "question-answering":
        return _texts(model)
    if task in ("token-classification", "fill-mask"):
        return _TEXTS[:1]
    return (*(_TEXTS if task != "sentence-embedding" else _TEXTS[:1]), *_TENSORS)


def _output(model: Served) -> str:
    if model.engine.task in EMBEDDING:
        return "embedding"
    return "logits" if model.engine.task == "text-classification" else "answer"


def _find(exchange: Exchange, name: str, version: str) -> Served:
    if name not in exchange.site.models or version != VERSION:
        raise exchange.unknown()
    return exchange.site.models[name]


def _reply(body: dict[str, Any]) -> Response:
    return Response(as_json(body), media_type="application/json")
