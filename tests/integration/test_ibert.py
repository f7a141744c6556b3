"""I-BERT from a checkpoint to a program: the same integers everywhere, and nothing but integers in between."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

from neuronbert import (
    ExportSpec,
    NeuronIBertForSequenceClassification,
    QuantizationPlan,
    StaticShape,
    export,
    inputs,
    modeling,
    passages,
    quantize,
    tokenization,
    validate,
)
from neuronbert.artifact import seal
from neuronbert.backends import cpu, integer_kernels
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import (
    IntegerRangeError,
    InvalidOptionError,
    NotQuantizedError,
    SequenceExceedsPositionsError,
    UncalibratedError,
    UnsupportedFeatureError,
)
from neuronbert.integers import saturation
from neuronbert.integers.products import Products
from neuronbert.integers.ranges import names
from neuronbert.passages import sample
from neuronbert.quantization import ibert
from neuronbert.schemes import SECTION
from neuronbert.trained import save_quantized, trainable
from tests.support.families import CONFIGS

TEXTS = list(itertools.islice(sample(), 500, 516))
PLAN = QuantizationPlan(quantization="ibert", rows=16, sequence_length=32)
SHAPES = (StaticShape(1, 16), StaticShape(3, 24))


@pytest.fixture(scope="module")
def quantized(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ibert") / "checkpoint"
    quantize(str(tiny("text-classification")), folder, TEXTS, PLAN)
    return folder


@pytest.fixture(scope="module")
def real(minilm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ibert") / "minilm"
    quantize(str(minilm), folder, TEXTS, PLAN)
    return folder


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The compiled kernels, as whoever builds them has them."""
    patch = pytest.MonkeyPatch()
    patch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
    integer_kernels.build_kernels()
    yield
    patch.undo()


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(integer_kernels, "available", lambda: False)


@pytest.fixture
def altered(quantized, tmp_path):
    """A copy whose config and tensors a function changes."""

    def alter(config=lambda config: None, weights=lambda weights: None):
        folder = shutil.copytree(quantized, tmp_path / "altered")
        body, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
        config(body)
        weights(tensors)
        (folder / "config.json").write_text(json.dumps(body))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return alter


def head_of(folder, task="text-classification", quantization="ibert"):
    return modeling.load(Checkpoint.open(folder), task, quantization=quantization)


def rows_of(loaded, shape):
    """Rows of several lengths."""
    given = list(inputs.example(loaded.inputs, shape))
    names_ = [spec.name for spec in loaded.inputs]
    for row in range(shape.batch_size):
        length = shape.sequence_length - 5 * row
        given[names_.index("attention_mask")][row, length:] = 0
        given[names_.index("input_ids")][row] = torch.randint(1000, 9000, (shape.sequence_length,))
    return tuple(given)


def compiled(loaded, folder, shapes=SHAPES):
    """The head's programs, loaded."""
    spec = ExportSpec("model", shapes, loaded.task, target="cpu", auto_cast="none")
    examples = {shape: inputs.example(loaded.inputs, shape) for shape in shapes}
    made = cpu.CpuCompiler().compile(loaded.head, examples, spec, folder)
    methods = [program.method for program in made.programs]
    module = cpu.torchscript.load(folder / cpu.PROGRAM_FILE, methods)
    frozen = cpu._freeze(module, methods, 72, folder / cpu.PROGRAM_FILE)
    return {program.shape: getattr(frozen, program.method) for program in made.programs}


def encoder_of(folder):
    """The head that only leaves the encoder: what follows it is of floats, which fold in another order."""
    loaded = head_of(folder, "feature-extraction")
    return dataclasses.replace(loaded, head=loaded.head.renamed([s.name for s in loaded.inputs], ["last_hidden_state"]))


def traced(module, given):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, tuple(given), check_trace=False).inlined_graph


def _same(loaded, programs, rtol=0.0):
    for shape, program in programs.items():
        given = rows_of(loaded, shape)
        with torch.no_grad():
            for found, expected in zip(program(*given), loaded.head(*given), strict=True):
                torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


def test_the_program_gives_the_integers_of_the_reference_on_real_weights(real, kernels, tmp_path):
    encoder = encoder_of(real)
    programs = compiled(encoder, tmp_path)
    assert "neuronbert::ibert_attend" in str(programs[SHAPES[0]].graph)
    assert "softmax" not in str(programs[SHAPES[0]].graph)
    _same(encoder, programs)


def test_so_does_a_program_on_a_machine_without_the_kernels(quantized, without_kernels, tmp_path):
    loaded = encoder_of(quantized)
    programs = compiled(loaded, tmp_path)
    assert "neuronbert::" not in str(programs[SHAPES[0]].graph)
    _same(loaded, programs)


class _Dtypes(TorchDispatchMode):
    """Writes down every operator of a graph that runs, with what it was given and gave."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor)]
        self.seen.append((str(func), {tensor.dtype for tensor in tensors}))
        return result


def _integers(encoder):
    """From ids to the integers that leave the encoder; transformers makes its mask of floats, so this one is given."""
    flat = cpu.Flat(encoder)

    def run(ids, masked):
        nothing = dict.fromkeys(("token_type_ids", "position_ids", "inputs_embeds"))
        embedded = encoder.arithmetic.embed(encoder.embeddings, {"input_ids": ids, **nothing})
        return encoder._layers(embedded, masked, encoder.keeping)[1][-1].values

    flat.forward = run
    return flat


def test_no_float_is_between_the_embedding_and_the_head(quantized):
    encoder = head_of(quantized).head.model.bert
    given = torch.randint(1000, 9000, (2, 16)), torch.zeros(2, 1, 1, 16, dtype=torch.int64)
    given[1][0, ..., 10:] = 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(_integers(encoder), given, check_trace=False)
        with _Dtypes() as dtypes:
            result = program(*given)
    assert result.dtype is torch.int8
    assert len(dtypes.seen) > 300
    assert {func for func, _ in dtypes.seen} >= {"aten._int_mm.default", "aten.bmm.default", "aten.embedding.default"}
    whole = {torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool}
    assert [(func, kinds - whole) for func, kinds in dtypes.seen if kinds - whole] == []
    assert "Float(" not in str(program.inlined_graph)


def test_weights_are_bytes_and_no_float_of_them_is_left(quantized, tmp_path):
    loaded = head_of(quantized)
    held = {name: value for name, value in loaded.head.named_buffers() if "encoder" in name or "embeddings" in name}
    assert {value.dtype for value in held.values()} == {torch.int8, torch.int32, torch.int64}
    assert not [name for name, _ in loaded.head.named_parameters() if "encoder" in name or "embeddings" in name]


@pytest.mark.parametrize("kind", ["none", "gelu", "softmax", "layernorm", "nonlinear"])
def test_functions_may_stay_in_float(altered, without_kernels, tmp_path, kind):
    loaded = head_of(altered(lambda config: config.update(force_dequant=kind)))
    given = rows_of(loaded, SHAPES[1])
    text = str(traced(cpu.Flat(loaded.head), given))
    assert ("aten::gelu" in text) == (kind in ("gelu", "nonlinear"))
    assert ("aten::softmax" in text) == (kind in ("softmax", "nonlinear"))
    assert ("aten::layer_norm" in text) == (kind in ("layernorm", "nonlinear"))
    (tmp_path / "out").mkdir()
    _same(loaded, compiled(loaded, tmp_path / "out"), rtol=1e-5)  # for the head


def test_an_unknown_force_dequant_is_refused(altered):
    from neuronbert.errors import CheckpointCorruptError

    with pytest.raises(CheckpointCorruptError, match="force_dequant is 'all'"):
        head_of(altered(lambda config: config.update(force_dequant="all")))
    with pytest.raises(InvalidOptionError, match="nonlinear"):
        QuantizationPlan(quantization="ibert", force_dequant="all")
    with pytest.raises(InvalidOptionError, match="only ibert"):
        QuantizationPlan(force_dequant="gelu")


def test_real_weights_lose_little_by_calibration_alone(real, minilm):
    loaded, float_ = head_of(real, "feature-extraction"), modeling.load(Checkpoint.open(minilm), "feature-extraction")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    given = tokenizer(TEXTS, return_tensors="pt", padding=True, truncation=True, max_length=48)
    tensors = [given[spec.name] for spec in loaded.inputs]
    with torch.no_grad():
        found, expected = loaded.head(*tensors)[0], float_.head(*tensors)[0]
    kept = given["attention_mask"].unsqueeze(-1)
    similarity = torch.cosine_similarity((found * kept).sum(1), (expected * kept).sum(1), dim=-1)
    assert similarity.min() > 0.93


def test_a_checkpoint_without_a_range_has_no_answers(altered):
    name = "bert.encoder.layer.1.attention.self.value_activation"
    with pytest.raises(UncalibratedError, match=r"layer\.1\.attention\.self\.value_activation"):
        head_of(altered(weights=lambda weights: [weights.pop(f"{name}.{end}") for end in ("x_min", "x_max")]))


def test_a_range_that_was_never_set_is_none(altered):
    def reset(weights):
        for name in list(weights):
            if name.endswith(".x_max"):
                weights[name] = torch.tensor([1e-5])
                weights[name.replace("x_max", "x_min")] = torch.tensor([-1e-5])

    with pytest.raises(UncalibratedError):
        head_of(altered(weights=reset))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_a_range_that_is_no_range_is_refused(altered, value):
    name = "bert.encoder.layer.0.output.ln_input_act.x_max"
    with pytest.raises(IntegerRangeError):
        head_of(altered(weights=lambda weights: weights.update({name: torch.tensor([value])})))


def test_weights_beside_a_bias_that_is_everything_and_a_norm_without_weight_stay_right(tiny, tmp_path):
    folder = shutil.copytree(tiny("text-classification"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.0.intermediate.dense.weight"][3] = 0
    weights["bert.encoder.layer.0.intermediate.dense.bias"][3] = 1.5
    weights["bert.encoder.layer.0.output.LayerNorm.weight"][5] = 0
    weights["bert.encoder.layer.0.output.LayerNorm.bias"][5] = 2.0
    weights["bert.encoder.layer.1.attention.output.LayerNorm.weight"][7] *= -1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    quantize(str(folder), tmp_path / "out", TEXTS, PLAN)
    found, expected = head_of(tmp_path / "out"), head_of(folder, quantization="none")
    given = rows_of(found, SHAPES[1])
    with torch.no_grad():
        (one,), (other,) = found.head(*given), expected.head(*given)
    assert (one - other).abs().max() < 0.2 * other.abs().max()


@pytest.mark.parametrize(("columns", "fits"), [(132_000, True), (132_200, False)])
def test_sums_of_31_bits_are_the_widest_that_are_made(columns, fits):
    layer = torch.nn.Linear(columns, 1)
    torch.nn.init.constant_(layer.weight, -1.0)  # -127 each, times -128
    torch.nn.init.constant_(layer.bias, 0.0)
    if fits:
        assert Products([layer], 0.01, "a layer").bits == 31
    else:
        with pytest.raises(IntegerRangeError, match="its sums take 32 bits, and 31 are there"):
            Products([layer], 0.01, "a layer")


@pytest.mark.parametrize(("extent", "fits"), [(213.0, True), (214.0, False)])
def test_scores_of_a_step_up_to_1_are_the_coarsest_that_are_taken(altered, extent, fits):
    names = [f"bert.encoder.layer.0.attention.self.{part}_activation" for part in ("query", "key")]
    ends = {f"{name}.x_{end}": torch.tensor([extent]) for name in names for end in ("min", "max")}
    folder = altered(weights=lambda weights: weights.update(ends))  # (213 / 127) ** 2 over the root of 8 is 0.995
    if fits:
        head_of(folder)
    else:
        with pytest.raises(IntegerRangeError, match="one step of its scores is 1, and it must be at most 1"):
            head_of(folder)


@pytest.mark.parametrize(("bias", "fits"), [(256.0, True), (1024.0, False)])
def test_a_gelu_wider_than_64_bits_is_refused(altered, bias, fits):
    def widen(weights):
        weights["bert.encoder.layer.0.intermediate.dense.weight"][3] = 0
        weights["bert.encoder.layer.0.intermediate.dense.bias"][3] = bias

    folder = altered(weights=widen)
    if fits:
        head_of(folder)
    else:
        with pytest.raises(IntegerRangeError, match="too small for a GELU of 64 bits"):
            head_of(folder)


def _without(part):
    def drop(weights):
        for name in [name for name in weights if name.endswith(("x_min", "x_max")) and part in name]:
            del weights[name]

    return drop


def _apart(weights):
    for place, extent in (("pre_output_act", 1e6), ("output.ln_input_act", 1.2e-5)):
        for end in ("min", "max"):
            weights[f"bert.encoder.layer.1.{place}.x_{end}"] = torch.tensor([extent])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"weights": _without("")}, "no range"),
        ({"weights": _without("layer.1.pre_output_act")}, "layer.1.pre_output_act"),
        ({"weights": _apart}, "encoder.layer.1 can't be computed on integers"),
        ({"config": lambda config: config.update(force_dequant="all")}, "force_dequant is 'all'"),
        ({"config": lambda config: config.update(hidden_act="relu")}, "hidden_act='relu'"),
    ],
    ids=["uncalibrated", "half-calibrated", "apart", "force_dequant", "hidden_act"],
)
@pytest.mark.parametrize("command", [("export", "--quantization", "ibert"), ("export",)], ids=["named", "auto"])
def test_the_command_refuses_in_one_line_and_leaves_nothing(altered, run, tmp_path, spoil, said, command):
    folder = altered(**spoil)
    done = run(*command, "--model", folder, "--target", "cpu", "--sequence-length", 16, tmp_path / "out")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) <= 4  # what is being done, and one line of why not
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_what_it_cannot_quantize(tiny, quantized, run, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:4]))
    given = ("--quantization", "ibert", "--data", tmp_path / "texts.txt")
    for model, more, said in (
        (tiny("text-classification", hidden_act="relu"), (), "hidden_act='relu'"),
        (tiny("text-classification"), ("--force-dequant", "all"), "'nonlinear'"),
        (tiny("text-classification"), ("--sensitivity", 0.1), "no such setting"),
    ):
        done = run("quantize", model, tmp_path / "out", *given, *more)
        assert (done.code, said in done.err) == (2, True), done.err
    done = run("export", "--model", quantized, "--sequence-length", 65, tmp_path / "out")
    assert (done.code, "64 tokens" in done.err) == (2, True), done.err
    assert not (tmp_path / "out").exists()


def shrink(weights):
    for name in weights:
        if name.endswith(("x_min", "x_max")):
            weights[name] /= 50


def test_activations_beyond_the_calibrated_range_saturate_and_are_counted(altered, quantized):
    loaded, right = head_of(altered(weights=shrink)), head_of(quantized)
    given = rows_of(loaded, SHAPES[1])
    with torch.no_grad():
        with saturation.counted(loaded.head) as shares:
            (logits,) = loaded.head(*given)
        assert torch.equal(logits, loaded.head(*given)[0])
        with saturation.counted(right.head) as fewer:
            right.head(*given)
    assert torch.isfinite(logits).all()
    assert len(shares) == 1 + 2 * 7
    assert shares["encoder.layer.1.output"].total == 3 * 24 * 32
    assert shares["encoder.layer.1.output"].ratio > 0.5
    assert max(share.ratio for share in fewer.values()) < 0.05
    said = saturation.summary(shares)
    assert "of 15 places more than 1% of the integers are at the end of their range" in said
    assert saturation.summary({}) == ""


def test_what_floats_cut_off_is_counted_too(altered):
    def shrink(weights):
        for place in ("pre_output_act", "output.output_activation"):
            for end in ("min", "max"):
                weights[f"bert.encoder.layer.1.{place}.x_{end}"] /= 50

    loaded = head_of(altered(lambda config: config.update(force_dequant="nonlinear"), shrink))
    with torch.no_grad(), saturation.counted(loaded.head) as shares:
        loaded.head(*rows_of(loaded, SHAPES[1]))
    for place in ("intermediate", "output"):
        assert shares[f"encoder.layer.1.{place}"].ratio > 0.1


def test_an_artifact_holds_a_program_that_is_exactly_its_reference(quantized, tmp_path, without_kernels):
    spec = ExportSpec(str(quantized), (StaticShape(2, 16),), "text-classification", target="cpu")
    artifact = export(spec, tmp_path / "out")
    assert artifact.manifest.quantization == "ibert"
    report = validate(tmp_path / "out")
    assert report.passed
    exact = [check for check in report.checks if check.against == "quantized"]
    assert exact
    assert all(measure.value <= 1e-5 for check in exact for measure in check.measures if measure.name == "error")


def test_a_program_of_other_ranges_is_not_its_reference(quantized, altered, tmp_path, without_kernels, caplog):
    other = altered(weights=shrink)
    export(ExportSpec(str(quantized), SHAPES[:1], "text-classification", target="cpu"), tmp_path / "out")
    spec = ExportSpec(str(other), SHAPES[:1], "text-classification", target="cpu")
    wrong = export(spec, tmp_path / "wrong")
    shutil.copy(tmp_path / "out/model.neuron", tmp_path / "wrong/model.neuron")
    seal(tmp_path / "wrong", wrong.manifest)
    report = validate(tmp_path / "wrong")
    assert not report.passed
    assert "at the end of their range" in caplog.text


def test_a_file_is_a_quarter_of_the_float_one(real, minilm, tmp_path):
    spec = ExportSpec(str(real), (StaticShape(1, 8),), "feature-extraction", target="cpu")
    export(spec, tmp_path / "out")
    size = (tmp_path / "out/model.neuron").stat().st_size
    assert size < 0.3 * (minilm / "model.safetensors").stat().st_size


def test_their_checkpoint_is_exported_and_opened_by_its_class(theirs, tmp_path, without_kernels):
    _, folder = theirs
    export(ExportSpec(str(folder), SHAPES[:1], target="cpu", quantization="ibert"), tmp_path / "out")
    model = NeuronIBertForSequenceClassification.from_pretrained(tmp_path / "out")
    ids = torch.randint(5, 99, (1, 12))
    with torch.no_grad():
        expected = head_of(folder).head(ids, torch.ones_like(ids))[0]
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_what_integers_cannot_follow_is_refused(tiny, tmp_path):
    relu = tiny("text-classification", hidden_act="relu")
    with pytest.raises(UnsupportedFeatureError, match="hidden_act='relu'"):
        quantize(str(relu), tmp_path / "out", TEXTS, PLAN)
    for given in ({"keep_float": ("layer.0",)}, {"learn_ranges": True}, {"sensitivity": 0.1}):
        with pytest.raises(InvalidOptionError, match="ibert have no such setting"):
            QuantizationPlan(quantization="ibert", **given)
    with pytest.raises(NotQuantizedError):
        head_of(tiny("text-classification"))
    assert list(tmp_path.iterdir()) == []


# transformers' I-BERT


def _ibert(folder, name="IBertForSequenceClassification", calibrated=True, **settings):
    """A checkpoint of transformers' I-BERT, calibrated as transformers does it: its ranges move while it trains."""
    torch.manual_seed(0)
    config = transformers.IBertConfig(**{**CONFIGS["ibert"], "vocab_size": 99, "quant_mode": True, **settings})
    model = getattr(transformers, name)(config)
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "IntLayerNorm":
            module.weight.data = 1 + 0.1 * torch.randn_like(module.weight)
            module.bias.data = 0.1 * torch.randn_like(module.bias)
        if calibrated and type(module).__name__ in ("QuantAct", "IntLayerNorm"):
            module.train()
    if calibrated:
        with torch.no_grad():
            for _ in range(4):
                model(input_ids=torch.randint(5, 99, (4, 2, 20) if "Choice" in name else (4, 20)))
    model.eval().save_pretrained(folder)
    return model.float()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs") / "checkpoint"
    return _ibert(folder), folder


def test_their_calibrated_checkpoint_answers_as_their_simulation(theirs):
    model, folder = theirs
    loaded = head_of(folder)
    torch.manual_seed(2)
    ids = torch.randint(5, 99, (6, 20))
    mask = torch.ones_like(ids)
    ids[0, 12:], mask[0, 12:] = 1, 0
    with torch.no_grad():
        (found,), expected = loaded.head(ids, mask), model(input_ids=ids, attention_mask=mask).logits
        real = head_of(folder, quantization="none").head(ids, mask)[0]
    spread = float((real - real.mean()).abs().max())
    # Theirs rounds residuals at the scale of the embedding in every layer, since it drops the others' scales; and twice
    # in a row in two places.
    assert (found - expected).abs().max() < 0.25 * spread
    assert (found - real).abs().max() < 0.25 * spread


def test_in_a_single_layer_their_simulation_is_ours_but_for_the_last_places(tmp_path):
    model = _ibert(tmp_path / "checkpoint", "IBertModel", num_hidden_layers=1)
    loaded = head_of(tmp_path / "checkpoint", "feature-extraction")
    torch.manual_seed(3)
    ids = torch.randint(5, 99, (8, 20))
    with torch.no_grad():
        found, expected = loaded.head(ids, torch.ones_like(ids))[0], model(input_ids=ids).last_hidden_state
    step = float(loaded.head.model.encoder.layer[0].output.scale)
    steps = ((found - expected) / step).abs().round()
    assert (steps <= 1).float().mean() > 0.95
    assert steps.max() <= 4


def test_their_names_of_all_ranges_are_read(theirs):
    _, folder = theirs
    held = {name.removesuffix(".x_max") for name in load_file(folder / "model.safetensors") if name.endswith("x_max")}
    assert {f"ibert.{name}" for name in names(2)} <= held


def test_what_quantize_writes_their_model_reads(tmp_path):
    _ibert(tmp_path / "float", calibrated=False, quant_mode=False)
    config = json.loads((tmp_path / "float/config.json").read_text())
    assert config["quant_mode"] is False
    with pytest.raises(NotQuantizedError):
        head_of(tmp_path / "float")


def test_their_uncalibrated_checkpoint_has_no_answers(tmp_path):
    _ibert(tmp_path / "checkpoint", calibrated=False)
    with pytest.raises(UncalibratedError, match="no range"):
        head_of(tmp_path / "checkpoint")


def test_rows_longer_than_their_positions_are_refused(theirs):
    _, folder = theirs
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.max_sequence_length == CONFIGS["ibert"]["max_position_embeddings"] - 2
    with pytest.raises(SequenceExceedsPositionsError):
        checkpoint.check_shapes([StaticShape(1, checkpoint.max_sequence_length + 1)])


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("IBertModel", "feature-extraction"),
        ("IBertForMaskedLM", "fill-mask"),
        ("IBertForTokenClassification", "token-classification"),
        ("IBertForQuestionAnswering", "question-answering"),
        ("IBertForMultipleChoice", "multiple-choice"),
    ],
)
def test_every_head_of_theirs_runs_on_integers(name, task, tmp_path, without_kernels):
    _ibert(tmp_path / "checkpoint", name)
    loaded = head_of(tmp_path / "checkpoint", task)
    shape = StaticShape(2, 16, 3 if task == "multiple-choice" else None)
    (tmp_path / "out").mkdir()
    programs = compiled(loaded, tmp_path / "out", (shape,))
    given = inputs.example(loaded.inputs, shape)
    with torch.no_grad():
        for found, expected in zip(programs[shape](*given), loaded.head(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # the head is of floats


def test_the_command_calibrates_for_integers(tiny, tmp_path):
    from neuronbert_cli.app import app

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:4]))
    arguments = [
        "quantize",
        str(tiny("text-classification")),
        str(tmp_path / "out"),
        "--data",
        str(tmp_path / "texts.txt"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--quantization", "ibert", "--force_dequant", "nonlinear", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scheme"]["method"] == "ibert"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["force_dequant"], config[SECTION]["calibration"]["method"]) == ("nonlinear", "mse")


# fine-tuning


@pytest.mark.parametrize("force_dequant", ["none", "nonlinear"])
def test_weights_learn_to_answer_on_integers_as_in_float(tiny, tmp_path, force_dequant):
    source, moved = tiny("text-classification"), {}
    batch = next(passages.batches(((text,) for text in TEXTS), tokenization.require(source), 32))

    def states(folder, quantization):
        loaded = head_of(folder, "feature-extraction", quantization)
        with torch.no_grad():
            return loaded.head(*(batch[spec.name] for spec in loaded.inputs))[0][batch["attention_mask"].bool()]

    wanted = states(source, "none")
    for steps in (0, 24):
        plan = dataclasses.replace(PLAN, qat_steps=steps, force_dequant=force_dequant)
        done = quantize(str(source), tmp_path / f"{steps}", TEXTS, plan)
        assert len(done.noises) == done.quantizers == 20
        moved[steps] = float((states(done.path, "ibert") - wanted).square().mean() / wanted.var())
    assert moved[24] < 0.9 * moved[0]


@pytest.mark.parametrize("source", ["quantized", "theirs"])
def test_training_moves_ranges_and_weights_and_the_integers_follow(source, quantized, theirs, tmp_path):
    folder = quantized if source == "quantized" else theirs[1]
    teacher = head_of(folder, quantization="none")
    shape = StaticShape(4, 16)
    given = dict(zip([spec.name for spec in teacher.inputs], inputs.example(teacher.inputs, shape), strict=True))
    given["input_ids"] = torch.randint(5, 99, (4, 16))
    with torch.no_grad():
        (wanted,) = teacher.head(*given.values())
    model = trainable(folder)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    losses = []
    for _ in range(30):
        loss = (model(**given).logits - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < sum(losses[:5])
    weight = model.base_model.encoder.layer[0].attention.self.query.weight
    assert weight.grad.abs().max() > 0
    save_quantized(model, folder, tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    name = next(name for name in after if name.endswith("layer.1.pre_output_act.x_max"))
    assert after[name] != before[name]
    with torch.no_grad():
        (rounded_,) = head_of(tmp_path / "out").head(*given.values())
        expected = model.eval()(**given).logits
    # What is trained has no polynomials, and two roundings less; random weights pass on every step of difference.
    assert (rounded_ - expected).abs().max() < 0.35 * (wanted - wanted.mean()).abs().max()


def test_shifts_are_kept_where_nothing_was_trained(altered):
    def shift(weights):
        weights["bert.encoder.layer.1.output.LayerNorm.shift"] = torch.tensor([3.0])

    folder = altered(weights=shift)
    assert ibert.learned(trainable(folder)).shifts == ibert.read(Checkpoint.open(folder).weight_files).shifts
    assert ibert.learned(trainable(folder)).shifts["encoder.layer.1.output.LayerNorm"] == 3


def test_padding_moves_no_range(quantized):
    ids, mask = torch.randint(5, 99, (2, 8)), torch.ones(2, 8, dtype=torch.int64)
    longer = torch.cat([ids, torch.randint(5, 99, (2, 4))], 1), torch.cat([mask, torch.zeros(2, 4).long()], 1)
    found = []
    for given in ((ids, mask), longer, (longer[0], None)):
        model = trainable(quantized)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(input_ids=given[0], attention_mask=given[1])
        found.append(ibert.learned(model).extents)
    short, padded, all_ = found
    assert padded == pytest.approx(short, rel=1e-3)  # a rounding that falls the other way is a fifth of that
    assert all_ != pytest.approx(short, rel=1e-3)


def test_in_evaluation_ranges_stand_still(quantized):
    model = trainable(quantized).eval()
    before = ibert.learned(model).extents
    with torch.no_grad():
        model(input_ids=torch.randint(5, 99, (2, 8)))
    assert ibert.learned(model).extents == before
