"""Quantized checkpoints as ONNX: accepted by its checker, run by ONNX Runtime where it is installed."""

from __future__ import annotations

import sys

import pytest
import torch
from typer.testing import CliRunner

from neuronbert import ExportSpec, QuantizationPlan, StaticShape, export_onnx, modeling, quantize
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import MissingPackageError, SequenceExceedsPositionsError, SimulatedOnlyError
from neuronbert.quantization.pairs import paired
from neuronbert.schemes import Descriptor

TEXTS = [
    "The harbour was quiet.",
    "A committee of nine met on Tuesday.",
    "Is there a train to Lisbon tonight?",
    "Bread.",
]
IDS = torch.tensor([[101, 2023, 2003, 1037, 3231, 102, 0, 0], [101, 2023, 2003, 1037, 3231, 102, 2054, 102]] * 2)
CALL = {"input_ids": IDS, "attention_mask": (IDS != 0).long(), "token_type_ids": torch.zeros_like(IDS)}
SHAPES = (StaticShape(1, 5),)


@pytest.fixture(scope="module")
def quantized(tiny, tmp_path_factory):
    def make(task="text-classification", **options):
        folder = tmp_path_factory.mktemp("onnx") / "checkpoint"
        rows = [{"text": text, "question": "Who met?", "context": text} for text in TEXTS]
        quantize(str(tiny(task)), folder, rows, QuantizationPlan("max", **options))
        return folder

    return make


def head_of(folder, task="text-classification"):
    return modeling.load(Checkpoint.open(folder), task, quantization="qdq").head


@pytest.mark.parametrize(
    "options", [{}, {"keep_float": ("layer.0.output.dense",)}, {"inputs": Descriptor(unsigned=True)}]
)
def test_pairs_compute_what_the_quantizers_compute(quantized, options):
    folder = quantized(**options)
    with torch.no_grad():
        expected, found = head_of(folder)(*CALL.values())[0], paired(head_of(folder))(*CALL.values())[0]
    assert float((found - expected).abs().max()) <= 0.02 * float(expected.abs().max())


def test_what_onnx_has_no_type_for_is_refused(quantized):
    folder = quantized(weights=Descriptor(num_bits=4, axis=0))
    with pytest.raises(SimulatedOnlyError, match="8 bits"):
        paired(head_of(folder))


def test_a_longer_shape_than_the_model_has_positions_for_is_refused(quantized, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(SequenceExceedsPositionsError):
        export_onnx(ExportSpec(str(quantized()), (StaticShape(1, 128),)), tmp_path / "out")


def test_without_the_package_it_says_what_to_install(quantized, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match="onnx"):
        export_onnx(ExportSpec(str(quantized()), SHAPES), tmp_path / "out")


@pytest.mark.parametrize("task", ["text-classification", "question-answering", "fill-mask"])
def test_the_file_has_pairs_and_bytes_and_other_runtimes_answer_the_same(quantized, tmp_path, task):
    onnx = pytest.importorskip("onnx")
    folder = quantized(task)
    path = export_onnx(ExportSpec(str(folder), SHAPES), tmp_path / "out")
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 2 * 14
    assert kinds.count("DequantizeLinear") == 2 * 20
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    tensors = [*model.graph.initializer, *constants]
    assert sum(item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 2 for item in tensors) == 2 * 6
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {item.name: CALL[item.name].numpy() for item in session.get_inputs()}
    found = torch.from_numpy(session.run(None, given)[0])
    with torch.no_grad():
        expected = head_of(folder, task)(*CALL.values())[0]
    assert found.shape == expected.shape
    real = CALL["attention_mask"].bool() if task != "text-classification" else ...
    assert float((found - expected)[real].abs().max()) <= 0.1 * float(expected[real].abs().max())


def test_the_command_writes_the_file(quantized, tmp_path):
    pytest.importorskip("onnx")
    from neuronbert_cli.app import app

    arguments = ["export", "--model", str(quantized()), "--sequence-length", "16", "--format", "onnx"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[:2] == ["config.json", "model.onnx"]
    assert CliRunner().invoke(app, [*arguments[:-1], "tflite", str(tmp_path / "other")]).exit_code == 2
