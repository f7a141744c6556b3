"""What `make bench` runs in the peers' environment: one peer, which answers questions on stdin with JSON, a line each.

    bench_peer.py KIND CHECKPOINT THREADS

    {"load": CASE, "inputs": FILE}     prepares a case, writes what it answers beside FILE: {"outputs": FILE}
    {"time": CASE, "seconds": S}       calls it for so long, at least once: {"seconds": [of each call]}

A case of an encoder is an .npz of its inputs; a case of texts is a .json list of them. Between two questions it sleeps.

Owns: each peer as its own documentation has it used for speed. Knows nothing of neuronbert.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[], Any]
    Arrays = dict[str, np.ndarray]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Positional(torch.nn.Module):
    """An encoder as ONNX takes it: tensors in their order, without a dictionary."""

    def __init__(self, checkpoint: Path, attention: str) -> None:
        super().__init__()
        from transformers import AutoModel

        options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention, "return_dict": False}
        self.model = AutoModel.from_pretrained(checkpoint, **options)
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The hidden states."""
        return self.model(**dict(zip(INPUTS, tensors, strict=True)))[0]


class Eager:
    """transformers' own model, with torch's fused attention."""

    def __init__(self, checkpoint: Path, threads: int) -> None:  # noqa: ARG002  torch has its threads
        self._model = Positional(checkpoint, "sdpa")

    def load(self, case: Path) -> Call:
        """One call of the model."""
        given = [torch.from_numpy(value) for value in _arrays(case).values()]

        def call() -> Any:
            with torch.inference_mode():
                return self._model(*given).numpy()

        return call


class OnnxRuntime:
    """ONNX Runtime: its own graph optimizations, or those of its tool for transformers, whichever is faster here."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        self._checkpoint, self._threads = checkpoint, threads

    def load(self, case: Path) -> Call:
        """One run of the faster session; the model has the static shape of the case."""
        given = _arrays(case)
        calls = []
        for session in self.sessions(case, given, dynamic=False):
            feed = feed_of(session, given)
            calls.append(lambda session=session, feed=feed: session.run(None, feed)[0])
        return min(calls, key=_fastest)

    def sessions(self, case: Path, given: Arrays, *, dynamic: bool) -> list[Any]:
        """One session for each way to optimize."""
        import onnxruntime
        from onnxruntime.transformers.optimizer import optimize_model

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self._threads, 3
        plain = to_onnx(self._checkpoint, case.with_suffix(".sdpa.onnx"), "sdpa", given, dynamic=dynamic)
        source = to_onnx(self._checkpoint, case.with_suffix(".eager.onnx"), "eager", given, dynamic=dynamic)
        config = json.loads((self._checkpoint / "config.json").read_bytes())
        sizes = {"num_heads": config["num_attention_heads"], "hidden_size": config["hidden_size"]}
        fused = case.with_suffix(".fused.onnx")
        optimize_model(str(source), model_type="bert", opt_level=0, **sizes).save_model_to_file(str(fused))
        return [onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]) for path in (plain, fused)]


class OnnxDynamic(OnnxRuntime):
    """ONNX Runtime in 8 bits with ranges found in each call: bytes for each output channel of the weights."""

    def load(self, case: Path) -> Call:
        """One run of the faster session."""
        given, calls = _arrays(case), []
        for session in self.sessions(case, given, dynamic=False):
            feed = feed_of(session, given)
            narrow = self.quantized(Path(session._model_path), feed)
            calls.append(lambda narrow=narrow, feed=feed: narrow.run(None, feed)[0])
        return min(calls, key=_fastest)

    def quantized(self, path: Path, feed: Arrays) -> Any:
        """The session of a quantized model."""
        import onnxruntime

        output = path.with_suffix(f".{type(self).__name__}.onnx")
        self.convert(path, output, feed)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self._threads, 3
        return onnxruntime.InferenceSession(output, options, ["CPUExecutionProvider"])

    def convert(self, path: Path, output: Path, feed: Arrays) -> None:  # noqa: ARG002  that of static ranges needs it
        """Quantize a file."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(path, output, weight_type=QuantType.QInt8, per_channel=True, extra_options=_float())


class OnnxStatic(OnnxDynamic):
    """ONNX Runtime with pairs of QuantizeLinear and DequantizeLinear, unsigned activations, its fastest here."""

    def convert(self, path: Path, output: Path, feed: Arrays) -> None:
        """Quantize a file, with the ranges of one call."""
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Once(CalibrationDataReader):
            def __init__(self) -> None:
                self.rows = iter([feed])

            def get_next(self) -> Arrays | None:
                return next(self.rows, None)

        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "extra_options": _float()}
        products = ["MatMul", "Gemm", "Attention"]
        quantize_static(
            path, output, Once(), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=products, **types
        )


class OpenVino:
    """OpenVINO for latency, in fp32, with the static shape of the case."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        self._checkpoint, self._threads = checkpoint, threads

    def load(self, case: Path) -> Call:
        """One inference."""
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        given = _arrays(case)
        model = to_onnx(self._checkpoint, case.with_suffix(".openvino.onnx"), "sdpa", given)
        compiled = openvino.Core().compile_model(model, "CPU", {**settings, "INFERENCE_NUM_THREADS": self._threads})
        request = compiled.create_infer_request()
        inputs = [given[port.any_name] for port in compiled.inputs]
        return lambda: request.infer(inputs)[0]


class SentenceTransformers:
    """sentence-transformers' `encode`, which sorts by length itself."""

    def __init__(self, checkpoint: Path, threads: int) -> None:  # noqa: ARG002  torch has its threads
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(checkpoint), device="cpu", model_kwargs={"dtype": torch.float32})

    def load(self, case: Path) -> Call:
        """All texts once, in batches of 32."""
        texts = json.loads(case.read_bytes())
        return lambda: self._model.encode(texts, batch_size=32, show_progress_bar=False)


class OnnxTexts(OnnxRuntime):
    """ONNX Runtime under the same work as `encode`: tokenized, sorted by length, 32 at a time, pooled, normalized."""

    def load(self, case: Path) -> Call:
        """All texts once, through the faster session; the model takes any shape."""
        from tokenizers import Tokenizer

        texts = json.loads(case.read_bytes())
        tokenizer = Tokenizer.from_file(str(self._checkpoint / "tokenizer.json"))
        tokenizer.enable_truncation(256)
        tokenizer.no_padding()
        example = dict.fromkeys(INPUTS, np.ones((2, 16), np.int64))
        sessions = self.sessions(case, example, dynamic=True)
        calls = [lambda session=session: _encode(session, tokenizer, texts) for session in sessions]
        return min(calls, key=_fastest)


def _float() -> dict[str, Any]:
    # What follows an operator of the fused model has no type that onnx could infer.
    import onnx

    return {"DefaultTensorType": onnx.TensorProto.FLOAT}


def _encode(session: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    rows = tokenizer.encode_batch(texts)
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row].ids))
    answers: list[Any] = [None] * len(rows)
    for first in range(0, len(order), 32):
        some = order[first : first + 32]
        ids = np.zeros((len(some), len(rows[some[0]].ids)), dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(some):
            ids[place, : len(rows[row].ids)] = rows[row].ids
            mask[place, : len(rows[row].ids)] = 1
        given = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
        hidden = session.run(None, feed_of(session, given))[0]
        pooled = np.einsum("bsh,bs->bh", hidden, mask.astype(np.float32)) / mask.sum(axis=1, keepdims=True)
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        for place, row in enumerate(some):
            answers[row] = pooled[place]
    return np.stack(answers)


def to_onnx(checkpoint: Path, path: Path, attention: str, given: Arrays, *, dynamic: bool = False) -> Path:
    """The encoder as an ONNX file, by torch's exporter: of the inputs' shape, or of any."""
    axes = {name: {0: "batch", 1: "sequence"} for name in (*INPUTS, "hidden")} if dynamic else None
    names: dict[str, Any] = {"input_names": list(INPUTS), "output_names": ["hidden"], "dynamic_axes": axes}
    tensors = tuple(torch.from_numpy(given[name]) for name in INPUTS)
    torch.onnx.export(Positional(checkpoint, attention), tensors, path, dynamo=False, **names)
    return path


def feed_of(session: Any, given: Arrays) -> dict[str, np.ndarray]:
    """What a session takes of the inputs, in its own types: the fused one takes int32."""
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    return {spec.name: given[spec.name].astype(types[spec.type]) for spec in session.get_inputs()}


def _arrays(case: Path) -> Arrays:
    with np.load(case) as held:
        return {name: held[name] for name in INPUTS}


def _timed(call: Call, budget: float) -> list[float]:
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while True:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() >= end:
            return seconds


def _fastest(call: Call) -> float:
    call()
    return min(_timed(call, 2.0))


KINDS: dict[str, Any] = {
    "eager": Eager,
    "onnxruntime": OnnxRuntime,
    "onnxruntime-dynamic": OnnxDynamic,
    "onnxruntime-static": OnnxStatic,
    "openvino": OpenVino,
    "sentence-transformers": SentenceTransformers,
    "onnxruntime-texts": OnnxTexts,
}


def main() -> None:
    """Answer until stdin ends."""
    kind, checkpoint, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints isn't an answer
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads)
    peer = KINDS[kind](checkpoint, threads)
    calls: dict[str, Call] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "load" in asked:
            case = Path(asked["inputs"])
            calls[asked["load"]] = peer.load(case)
            outputs = case.with_suffix(f".{kind}.npy")
            np.save(outputs, calls[asked["load"]]())
            said: dict[str, Any] = {"outputs": str(outputs)}
        else:
            said = {"seconds": _timed(calls[asked["time"]], asked["seconds"])}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
