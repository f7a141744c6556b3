"""A quantized checkpoint to a program that computes with bytes, and what it answers."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import neuronbert
from neuronbert import (
    Artifact,
    ExportSpec,
    NeuronAutoModel,
    QuantizationPlan,
    StaticShape,
    check,
    export,
    modeling,
    quantize,
    validate,
)
from neuronbert.artifact import seal
from neuronbert.backends import int8
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import InvalidOptionError, NotQuantizedError, SimulatedOnlyError, WrongHeadError
from neuronbert.quantization import placement
from neuronbert.quantization.program import IntegerLinear, integers
from neuronbert.schemes import Descriptor

TEXTS = [
    "The harbour was quiet.",
    "A committee of nine met on Tuesday.",
    "Is there a train to Lisbon tonight?",
    "Bread.",
]
IDS = torch.tensor([[101, 2023, 2003, 1037, 3231, 102, 0, 0], [101, 2023, 2003, 1037, 3231, 102, 2054, 102]])
MASK = (IDS != 0).long()
CALL = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": torch.zeros_like(IDS)}


@pytest.fixture(scope="module")
def quantized(tiny, tmp_path_factory):
    made = {}

    def make(task="text-classification", kept=(), **settings):
        key = (task, kept, tuple(settings.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("quantized") / "checkpoint"
            quantize(str(tiny(task, **settings)), made[key], TEXTS, QuantizationPlan("max", keep_float=kept))
        return made[key]

    return make


@pytest.fixture(scope="module")
def artifact(quantized, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "artifact"
    return export(ExportSpec(str(quantized()), (StaticShape(2, 8), StaticShape(1, 16))), out).path


def head_of(folder, task="text-classification", quantization="qdq"):
    return modeling.load(Checkpoint.open(folder), task, quantization=quantization).head


def near(ours, theirs, steps=0.02):
    return float((ours - theirs).abs().max()) <= steps * float(theirs.abs().max())


@pytest.mark.parametrize(
    "kept",
    [
        (),
        ("layer.0.intermediate",),
        ("layer.1.attention.self.query",),
        ("layer.*.attention.self.matmul_v_input_quantizer",),
        ("layer.*.attention.self.matmul_a_input_quantizer",),
        ("layer.*.output.add_residual_input_quantizer",),
        ("layer.*.output.add_local_input_quantizer",),
        ("layer.0.output.dense._input_quantizer", "layer.1.attention.output.dense._weight_quantizer"),
        ("layer.0",),
        ("layer.0", "layer.1"),
    ],
)
def test_bytes_give_what_the_simulation_gives_whatever_is_kept_in_float(quantized, kept):
    folder = quantized(kept=kept)
    simulated, program = head_of(folder), integers(head_of(folder))
    tables = simulated.model.bert.embeddings
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        narrow = program.model.bert.embeddings.get_submodule(name)
        getattr(tables, name).weight.data = narrow.values()
    with torch.no_grad():
        expected, found = simulated(*CALL.values())[0], program(*CALL.values())[0]
    assert near(found, expected)
    if kept == ("layer.0", "layer.1"):
        assert not any(isinstance(module, IntegerLinear) for module in program.modules())


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu"])
def test_the_machines_kernels_give_what_the_portable_ones_give(quantized, tmp_path, monkeypatch, hidden_act):
    folder = quantized(hidden_act=hidden_act)
    export(ExportSpec(str(folder), (StaticShape(2, 8),)), tmp_path / "out")
    fast = NeuronAutoModel.from_pretrained(tmp_path / "out")(**CALL)["logits"]
    monkeypatch.setattr(int8, "supported", lambda: False)
    portable = NeuronAutoModel.from_pretrained(tmp_path / "out")(**CALL)["logits"]
    with torch.no_grad():
        expected = integers(head_of(folder))(*CALL.values())[0]
    assert torch.allclose(portable, expected, atol=1e-5)
    assert near(fast, portable)


@pytest.mark.skipif(not int8.supported(), reason="the kernels need VNNI")
def test_every_product_of_the_layers_is_of_bytes_and_its_weights_are_held_once(artifact):
    from neuronbert.backends import cpu, torchscript

    manifest = Artifact.open(artifact).manifest
    methods = [program.method for program in manifest.programs]
    module = torchscript.load(artifact / "model.neuron", methods)
    frozen = cpu._freeze(module, methods, 16, artifact)
    for method in methods:
        kinds = [node.kind() for node in frozen._c._get_method(method).graph.nodes()]
        assert kinds.count("onednn::qlinear_pointwise") == 2 * 4  # query, key and value are one
        assert "aten::_int_mm" not in kinds
    assert sum(frozen._c.hasattr(f"_int8_{number}") for number in range(20)) == 8


def test_the_file_holds_bytes_and_no_packed_weights(artifact, quantized, tmp_path):
    with zipfile.ZipFile(artifact / "model.neuron") as archive:
        code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".py"))
    assert b"int8_linear_gelu" in code
    assert b"onednn" not in code
    export(ExportSpec(str(quantized()), (StaticShape(2, 8),), quantization="none"), tmp_path / "float")
    sizes = [(folder / "model.neuron").stat().st_size for folder in (artifact, tmp_path / "float")]
    assert sizes[0] < 0.4 * sizes[1]


@pytest.mark.parametrize(
    "task", ["fill-mask", "token-classification", "question-answering", "feature-extraction", "multiple-choice"]
)
def test_other_heads_pass_validation(quantized, tmp_path, task):
    choices = 3 if task == "multiple-choice" else None
    export(ExportSpec(str(quantized(task)), (StaticShape(2, 16, choices),)), tmp_path / "out")
    report = validate(tmp_path / "out")
    assert report.passed, report.failures
    assert {check.against for check in report.checks} == {"float", "quantized"}


def test_a_manifest_says_how_its_programs_compute(artifact):
    manifest = Artifact.open(artifact).manifest
    assert manifest.quantization == "qdq"
    assert manifest.compiler.auto_cast == "none"
    assert "| Quantization | qdq |" in (artifact / "README.md").read_text()
    from neuronbert_cli.app import app

    assert "quantization" in CliRunner().invoke(app, ["inspect", str(artifact)]).stdout


def test_a_preflight_looks_at_the_simulation(quantized):
    spec = ExportSpec(str(quantized()), (StaticShape(2, 8),), target="inf2")
    assert check(spec).passed
    with pytest.raises(NotQuantizedError):
        check(replace(spec, quantization="ibert"))


def test_validation_fails_on_a_program_of_other_ranges(quantized, artifact, tmp_path):
    def widen(name, amax):
        return amax * 30 if name.endswith("intermediate.dense._input_quantizer._amax") else amax

    other = shutil.copytree(quantized(), tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file(
        {name: widen(name, value) for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    export(ExportSpec(str(other), (StaticShape(2, 8), StaticShape(1, 16))), tmp_path / "wrong")
    broken = shutil.copytree(artifact, tmp_path / "broken")
    shutil.copy(tmp_path / "wrong/model.neuron", broken)
    seal(broken, Artifact.open(artifact).manifest)
    report = validate(broken)
    assert any("against the quantized model" in failure for failure in report.failures)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # shapes are static
def test_for_a_device_it_is_simulated_on_float_tensors(quantized):
    head = head_of(quantized())
    traced = torch.jit.trace(head, tuple(CALL.values()), check_trace=False, strict=False)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert {"aten::round", "aten::clamp"} <= kinds
    assert not kinds & {"aten::_int_mm", "aten::fake_quantize_per_tensor_affine", "prim::PythonOp"}


def test_what_cannot_be_exported_so_is_refused(quantized, tiny, tmp_path):
    shapes = (StaticShape(2, 8),)
    with pytest.raises(NotQuantizedError, match="neuronbert quantize"):
        export(ExportSpec(str(tiny("text-classification")), shapes, quantization="qdq"), tmp_path / "out")
    with pytest.raises(NotQuantizedError, match="quantized as qdq"):
        export(ExportSpec(str(quantized()), shapes, quantization="ibert"), tmp_path / "out")
    with pytest.raises(InvalidOptionError, match="auto_cast"):
        export(ExportSpec(str(quantized()), shapes, auto_cast="all"), tmp_path / "out")
    quantize(str(quantized()), tmp_path / "three", TEXTS, QuantizationPlan(weights=Descriptor(num_bits=3, axis=0)))
    with pytest.raises(SimulatedOnlyError, match="8 bits"):
        export(ExportSpec(str(tmp_path / "three"), shapes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_range_of_nothing_gives_zeros_in_bytes_too(quantized):
    folder = quantized()
    heads = head_of(folder), head_of(folder)
    for head in heads:
        placement.of(head)["layer.1.attention.self.matmul_v_input_quantizer"].set_amax(torch.tensor(0.0))
    with torch.no_grad():
        expected, found = heads[0](*CALL.values())[0], integers(heads[1])(*CALL.values())[0]
    assert torch.isfinite(found).all()
    assert near(found, expected, 0.05)


QDQ_HEADS = {
    "NeuronQDQBertModel": "feature-extraction",
    "NeuronQDQBertLMHeadModel": "text-generation",
    "NeuronQDQBertForMaskedLM": "fill-mask",
    "NeuronQDQBertForSequenceClassification": "text-classification",
    "NeuronQDQBertForNextSentencePrediction": "next-sentence-prediction",
    "NeuronQDQBertForMultipleChoice": "multiple-choice",
    "NeuronQDQBertForTokenClassification": "token-classification",
    "NeuronQDQBertForQuestionAnswering": "question-answering",
}


@pytest.mark.parametrize(("name", "task"), QDQ_HEADS.items())
def test_each_head_of_qdqbert_has_its_class(quantized, tiny, name, task):
    settings = {"is_decoder": True} if task == "text-generation" else {}
    choices = {"num_choices": 2} if task == "multiple-choice" else {}
    given = {key: value.expand(2, 2, 8).contiguous() if choices else value for key, value in CALL.items()}
    model = getattr(neuronbert, name).from_pretrained(
        quantized(task, **settings), export=True, batch_size=2, sequence_length=8, **choices
    )
    simulated = head_of(quantized(task, **settings), task)
    with torch.no_grad():
        expected = simulated(*(given[name] for name in simulated._inputs))[0]
    found = next(iter(model(**given).values()))
    assert found.shape == expected.shape
    real = MASK.bool() if found.dim() == 3 and task != "multiple-choice" else ...
    assert near(found[real], expected[real], 0.25)


def test_a_class_of_qdqbert_takes_nothing_else(tiny, exported):
    with pytest.raises(NotQuantizedError):
        neuronbert.NeuronQDQBertModel.from_pretrained(tiny("feature-extraction"), export=True)
    with pytest.raises(InvalidOptionError, match="quantization"):
        neuronbert.NeuronQDQBertModel.from_pretrained(tiny("feature-extraction"), export=True, quantization="none")
    with pytest.raises(WrongHeadError, match="quantization"):
        neuronbert.NeuronQDQBertModel.from_pretrained(exported("feature-extraction"))
