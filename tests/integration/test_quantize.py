"""A checkpoint to a quantized one: what is in it, what reads it, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from neuronbert import QuantizationPlan, modeling, passages, quantize
from neuronbert.checkpoint import Checkpoint
from neuronbert.errors import (
    CalibrationError,
    CheckpointCorruptError,
    DataFileError,
    EmptyTextError,
    InvalidOptionError,
    MissingTextError,
    NotATextError,
    NotQuantizedError,
    OutputExistsError,
    SchemeError,
    SimulatedOnlyError,
    UncalibratedError,
    UnsupportedModelError,
)
from neuronbert.quantization import placement
from neuronbert.quantization.calibration import calibrate
from neuronbert.quantization.program import integers
from neuronbert.quantized import prepare
from neuronbert.schemes import RANGE_METHODS, SECTION, Descriptor

TEXTS = [
    "The harbour was quiet.",
    "A committee of nine met on Tuesday.",
    "Is there a train to Lisbon tonight?",
    "Bread.",
]
IDS = torch.tensor([[101, 2023, 2003, 1037, 3231, 102]])
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module")
def quantized(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "checkpoint"
    quantize(str(tiny("text-classification")), folder, TEXTS)
    return folder


@pytest.fixture
def altered(quantized, tmp_path):
    """A copy whose config and ranges a function changes."""

    def alter(config=lambda config: None, weights=lambda weights: None):
        folder = shutil.copytree(quantized, tmp_path / "altered")
        body, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
        config(body)
        weights(tensors)
        (folder / "config.json").write_text(json.dumps(body))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return alter


def head_of(folder, quantization="qdq", task="text-classification"):
    return modeling.load(Checkpoint.open(folder), task, quantization=quantization).head


def logits(folder, quantization="qdq"):
    with torch.no_grad():
        return head_of(folder, quantization)(IDS, MASK, torch.zeros_like(IDS))[0]


def test_it_keeps_the_weights_and_adds_a_range_for_each_quantizer(quantized, tiny):
    before = load_file(tiny("text-classification") / "model.safetensors")
    after = load_file(quantized / "model.safetensors")
    assert {name for name in after if placement.is_range(name)} == after.keys() - before.keys()
    assert len(after) == len(before) + 40
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert after["bert.encoder.layer.1.output.dense._weight_quantizer._amax"].shape == (32, 1)
    assert after["bert.encoder.layer.1.attention.self.matmul_a_input_quantizer._amax"].shape == ()
    assert (quantized / "model.safetensors").stat().st_mode == (quantized / "config.json").stat().st_mode


def test_it_answers_nearly_as_in_float_and_not_exactly(quantized, tiny):
    exact, float_ = logits(quantized, "none"), logits(tiny("text-classification"), "none")
    rounded = logits(quantized)
    assert torch.equal(exact, float_)
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_transformers_reads_it_in_float(quantized, tiny):
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(quantized).eval()
    assert torch.allclose(model(IDS, MASK).logits, logits(tiny("text-classification"), "none"), atol=1e-5)


@pytest.mark.parametrize("method", RANGE_METHODS)
def test_every_method_gives_the_same_ranges_twice(tiny, tmp_path, method):
    plan = QuantizationPlan(method, keep_float=("layer.1", "layer.0.attention"))
    for name in "ab":
        quantize(str(tiny("text-classification")), tmp_path / name, TEXTS, plan)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_padding_plays_no_part(tiny):
    def ranges(batches):
        encoder = modeling.load_encoder(Checkpoint.open(tiny("text-classification")))
        prepare(encoder, QuantizationPlan("max"))
        calibrate(encoder, batches, "max")
        return placement.ranges_of(encoder)

    ids = torch.tensor([[101, 2023, 2003, 102, 0, 0], [101, 1037, 3231, 2003, 1037, 102]])
    mask = (ids != 0).long()
    together = ranges([{"input_ids": ids, "attention_mask": mask}])
    rows = [
        {"input_ids": ids[:1, :4], "attention_mask": mask[:1, :4]},
        {"input_ids": ids[1:], "attention_mask": mask[1:]},
    ]
    for name, amax in ranges(rows).items():
        assert torch.allclose(amax, together[name], rtol=1e-4), name


def test_places_that_are_given_the_same_tensors_are_counted_once(tiny):
    encoder = modeling.load_encoder(Checkpoint.open(tiny("text-classification")))
    prepare(encoder, QuantizationPlan("max"))
    ids = torch.tensor([[101, 2023, 2003, 102], [101, 1037, 3231, 102]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seen = calibrate(encoder, [batch, batch], "mse").histograms
    at = "layer.1.attention."
    hidden = [seen[f"{at}self.{part}._input_quantizer"] for part in ("query", "key", "value")]
    assert {*map(id, hidden)} == {id(seen[f"{at}output.add_residual_input_quantizer"])}
    assert hidden[0].counts.sum() == 2 * ids.numel() * 32
    assert len({*map(id, seen.values())}) == 2 * 10
    assert list(seen) == [name for name in placement.of(encoder) if not name.endswith(placement.WEIGHT)]


def test_what_is_kept_in_float_has_no_range_and_rounds_nothing(tiny, tmp_path):
    plan = QuantizationPlan(keep_float=("layer.0", "layer.1"))
    done = quantize(str(tiny("text-classification")), tmp_path / "out", TEXTS, plan)
    assert done.quantizers == 0
    assert torch.allclose(logits(tmp_path / "out"), logits(tmp_path / "out", "none"), atol=1e-6)


def test_a_quantized_checkpoint_can_be_quantized_again(quantized, tmp_path):
    quantize(str(quantized), tmp_path / "again", TEXTS)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (quantized / "model.safetensors").read_bytes()


def test_a_sentence_model_keeps_its_pooling(minilm, tmp_path):
    quantize(str(minilm), tmp_path / "out", "sample", QuantizationPlan("max", rows=8))
    assert (tmp_path / "out/1_Pooling/config.json").read_bytes() == (minilm / "1_Pooling/config.json").read_bytes()
    head = modeling.load(Checkpoint.open(tmp_path / "out"), "sentence-embedding", quantization="qdq").head
    exact = modeling.load(Checkpoint.open(minilm), "sentence-embedding").head
    with torch.no_grad():
        ours, theirs = (model(IDS, MASK, torch.zeros_like(IDS))[1] for model in (head, exact))
    assert 0.7 < float(torch.cosine_similarity(ours, theirs)) < 1  # eight bits are few for this model


def test_only_folders_that_modules_json_names_are_copied(minilm, tmp_path):
    source = shutil.copytree(minilm, tmp_path / "in")
    (source / "checkpoint-500").mkdir()
    shutil.copy(source / "config.json", source / "checkpoint-500")
    quantize(str(source), tmp_path / "out", "sample", QuantizationPlan("max", rows=8, sequence_length=16))
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["1_Pooling"]


@pytest.mark.parametrize("steps", [0, 2])
def test_norms_with_the_names_of_tensorflow_are_quantized_and_keep_them(tiny, tmp_path, steps):
    source = shutil.copytree(tiny("text-classification"), tmp_path / "old")
    weights = load_file(source / "model.safetensors")
    norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def old(name):
        return next((name.replace(new, was) for new, was in norms.items() if new in name), name)

    renamed = {old(name): tensor for name, tensor in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, source / "model.safetensors", metadata={"format": "pt"})
    plan = QuantizationPlan(qat_steps=steps)
    for model, out in ((source, "a"), (tiny("text-classification"), "b")):
        quantize(str(model), tmp_path / out, TEXTS, plan)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert ours.keys() == {old(name) for name in theirs}
    assert all(torch.equal(ours[old(name)], tensor) for name, tensor in theirs.items())
    assert torch.equal(logits(tmp_path / "a"), logits(tmp_path / "b"))


def test_names_that_cannot_be_trained_are_refused_before_anything_is_run(tiny, tmp_path, monkeypatch):
    from neuronbert import quantized as module
    from neuronbert.quantization import folder

    monkeypatch.setattr(folder, "_old", lambda name: name)
    source = shutil.copytree(tiny("text-classification"), tmp_path / "old")
    weights = load_file(source / "model.safetensors")
    renamed = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in weights.items()}
    save_file(renamed, source / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(module, "calibrate", lambda *_, **__: pytest.fail("it was calibrated"))
    with pytest.raises(CheckpointCorruptError, match=r"names .*LayerNorm\.weight otherwise"):
        quantize(str(source), tmp_path / "out", TEXTS, QuantizationPlan(qat_steps=1))


def test_options_that_would_be_ignored_are_refused():
    for given in (
        {"learn_ranges": True},
        *({"method": name, "percentile": 99.0} for name in ("max", "mse", "entropy")),
    ):
        with pytest.raises(InvalidOptionError, match="left out"):
            QuantizationPlan(**given)
    QuantizationPlan(percentile=99.0)
    QuantizationPlan("percentile", percentile=99.0)
    QuantizationPlan(learn_ranges=True, qat_steps=1)


def test_a_narrow_range_of_inputs_is_no_program_for_this_machine(tiny, tmp_path):
    narrow = Descriptor(narrow_range=True)
    for name, plan in (("inputs", {"inputs": narrow}), ("weights", {"weights": Descriptor(axis=0, narrow_range=True)})):
        quantize(str(tiny("text-classification")), tmp_path / name, TEXTS, QuantizationPlan("max", **plan))
    with pytest.raises(SimulatedOnlyError, match=r"_input_quantizer .* no narrow range"):
        integers(head_of(tmp_path / "inputs"))
    integers(head_of(tmp_path / "weights"))


def test_an_old_qdqbert_checkpoint_is_one_of_ours(quantized, altered):
    def old(config):
        config["model_type"] = "qdqbert"
        config["architectures"] = ["QDQBertForSequenceClassification"]
        del config[SECTION]

    folder = altered(old)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.class_names == ("BertForSequenceClassification",)
    assert torch.equal(logits(folder), logits(quantized))


def test_a_range_that_was_never_set_is_refused(altered):
    name = "bert.encoder.layer.1.attention.self.matmul_v_input_quantizer._amax"
    folder = altered(weights=lambda weights: weights.pop(name))
    with pytest.raises(UncalibratedError, match=r"layer\.1\.attention\.self\.matmul_v_input_quantizer"):
        head_of(folder)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda config: config.update({SECTION: {"method": "awq"}}), SchemeError),
        (lambda config: config.update({SECTION: [1]}), SchemeError),
        (lambda config: config[SECTION].update(version=2), SchemeError),
        (lambda config: config[SECTION].update(unknown=1), SchemeError),
        (lambda config: config[SECTION]["inputs"].update(num_bits=1), SchemeError),
        (lambda config: config[SECTION]["inputs"].update(axis=0), SchemeError),
        (lambda config: config[SECTION].update(kept_float=["layer.0; rm -rf"]), SchemeError),
        (
            lambda config: config[SECTION].update(kept_float=["layer.7.output.dense._input_quantizer"]),
            InvalidOptionError,
        ),
        (lambda config: config.pop(SECTION), NotQuantizedError),
    ],
)
def test_a_config_that_no_one_wrote_is_refused(altered, change, error):
    with pytest.raises(error):
        head_of(altered(change))


def test_ranges_of_a_model_that_has_none_are_refused(altered):
    name = "bert.encoder.layer.5.output.dense._input_quantizer._amax"
    folder = altered(weights=lambda weights: weights.update({name: torch.tensor(1.0)}))
    with pytest.raises(CheckpointCorruptError, match="belongs to no quantizer"):
        head_of(folder)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ([], CalibrationError, "no rows"),
        (["Same."] * 3, CalibrationError, "the same row 3 times"),
        ([{"label": 1}], MissingTextError, "^Row 0: .* needs 'text'"),
        (["fine", " "], EmptyTextError, "^Row 1: .* empty"),
        ([{"text": 7}], NotATextError, "^Row 0: "),
    ],
)
def test_data_that_gives_no_ranges_is_refused_and_nothing_is_left(tiny, tmp_path, data, error, said):
    with pytest.raises(error, match=said) as raised:
        quantize(str(tiny("text-classification")), tmp_path / "out", data)
    assert "--keep-float" not in str(raised.value)  # which would mend none of these
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_as_the_task_reads_it(tiny, tmp_path):
    row = {"text": "When it rains", "choices": ["the street gets wet.", "the moon is full."]}
    assert list(passages.read("multiple-choice", [row])) == [[(row["text"], choice) for choice in row["choices"]]]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "The answers are missing.", "label": 1}))
    with pytest.raises(DataFileError, match=r"rows.jsonl, line 1: .* needs 'choices'"):
        quantize(str(tiny("multiple-choice")), tmp_path / "out", tmp_path / "rows.jsonl")


def test_texts_alone_will_do_for_a_task_that_takes_more():
    assert list(passages.read("multiple-choice", TEXTS, plain=True)) == [[(text,)] for text in TEXTS]
    with pytest.raises(MissingTextError, match="needs 'choices'"):
        list(passages.read("multiple-choice", TEXTS))


def test_an_encoder_that_says_nothing_of_a_head_takes_texts(tiny, tmp_path):
    shutil.copytree(tiny("feature-extraction"), tmp_path / "in")
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    assert quantize(str(tmp_path / "in"), tmp_path / "out", TEXTS).rows == len(TEXTS)


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "not a number"), (0.0, "nothing but zeros")])
def test_a_model_whose_activations_have_no_range_is_refused(tiny, tmp_path, value, said):
    folder = shutil.copytree(tiny("text-classification"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for kind in ("weight", "bias"):
        weights[f"bert.encoder.layer.1.attention.self.value.{kind}"].fill_(value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CalibrationError, match=f"{said}.*--keep-float"):
        quantize(str(folder), tmp_path / "out", TEXTS)


def test_other_options_that_cannot_be_met_are_refused(tiny, tmp_path):
    model = str(tiny("text-classification"))
    with pytest.raises(InvalidOptionError, match=r"layer\.9"):
        quantize(model, tmp_path / "out", TEXTS, QuantizationPlan(keep_float=("layer.9",)))
    for given in ({"method": "best"}, {"percentile": 0.0}, {"rows": 0}, {"sequence_length": 0}):
        with pytest.raises(InvalidOptionError):
            QuantizationPlan(**given)
    with pytest.raises(UnsupportedModelError, match="electra"):
        quantize(str(tiny("replaced-token-detection")), tmp_path / "out", TEXTS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(OutputExistsError):
        quantize(model, tmp_path / "full", TEXTS)


def test_the_command_tells_what_it_made(tiny, tmp_path):
    from neuronbert_cli.app import app

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    arguments = [str(tiny("text-classification")), str(tmp_path / "out"), "--data", str(tmp_path / "texts.txt")]
    done = CliRunner().invoke(app, ["quantize", *arguments, "--method", "mse", "--keep_float", "layer.0", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["rows"], told["quantizers"]) == (4, 20)
    assert told["scheme"]["calibration"] == {"method": "mse", "percentile": None, "rows": 4}
    done = CliRunner().invoke(app, ["quantize", arguments[0], str(tmp_path / "one"), *arguments[2:], "--rows", "1"])
    assert "calibrated with 1 row\n" in done.stdout
    done = CliRunner().invoke(app, ["quantize", arguments[0], str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "--data" in done.stderr


def test_each_quantizer_is_reported_with_what_it_clips(tiny, tmp_path):
    plan = QuantizationPlan("percentile", percentile=90.0)
    done = quantize(str(tiny("text-classification")), tmp_path / "out", TEXTS, plan)
    assert len(done.noises) == 28
    for noise in done.noises:
        assert 0.05 < noise.clipped <= 0.1001, noise
        assert noise.range < noise.largest
        assert 0.01 < noise.noise < 1
    exact = quantize(str(tiny("text-classification")), tmp_path / "max", TEXTS, QuantizationPlan("max")).noises
    assert all(noise.clipped == 0 and noise.range == pytest.approx(noise.largest) for noise in exact)


def test_what_costs_most_is_found_and_left_in_float(tiny, tmp_path):
    folder = shutil.copytree(tiny("text-classification"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.bias"][3] = 400.0  # one column that takes up the range of all others
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = quantize(str(folder), tmp_path / "out", TEXTS, QuantizationPlan("max", sensitivity=1.0))
    assert done.proposed == ()
    assert len(done.costs) == 28
    assert done.costs[0].name == "layer.1.output.add_local_input_quantizer"
    assert done.costs[0].loss > 10 * done.costs[3].loss
    limit = done.costs[0].loss / 2
    done = quantize(str(folder), tmp_path / "again", TEXTS, QuantizationPlan("max", sensitivity=limit))
    assert done.proposed[:1] == ("layer.1.output.add_local_input_quantizer",)
    kept = QuantizationPlan("max", sensitivity=limit, keep_float=done.proposed)
    assert quantize(str(folder), tmp_path / "kept", TEXTS, kept).proposed == done.proposed  # nothing more is needed


def test_the_command_proposes_what_to_keep_in_float(tiny, tmp_path):
    from neuronbert_cli.app import app

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    arguments = [str(tiny("text-classification")), str(tmp_path / "out"), "--data", str(tmp_path / "texts.txt")]
    done = CliRunner().invoke(app, ["quantize", *arguments, "--sensitivity", "0.0000001"])
    assert done.exit_code == 0, done.output
    assert "costliest places" in done.stdout
    assert "--keep-float layer." in done.stderr


def test_the_command_draws_what_calibration_saw(tiny, tmp_path):
    from neuronbert_cli.app import app

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    data = ["--data", str(tmp_path / "texts.txt")]
    command = ["quantize", str(tiny("text-classification")), str(tmp_path / "out"), *data]
    for extra, said in (
        (["--plot", str(tmp_path / "a.png")], "an .svg file"),
        (["--plot", str(tmp_path / "missing/a.svg")], "a folder that is there"),
        (["--plot", str(tmp_path / "a.svg"), "--keep-float", "layer.0", "--keep-float", "layer.1"], "no noise to draw"),
    ):
        done = CliRunner().invoke(app, [*command, *extra])
        assert (done.exit_code, said in done.stderr) == (2, True), done.output
        assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*command, "--plot", str(tmp_path / "a.svg")])
    assert done.exit_code == 0, done.output
    assert "attention.output.add_residual" in (tmp_path / "a.svg").read_text()
    command = ["quantize", str(tiny("text-classification")), str(tmp_path / "ibert"), *data, "--quantization", "ibert"]
    done = CliRunner().invoke(app, [*command, "--plot", str(tmp_path / "b.svg")])
    assert done.exit_code == 0, done.output
    assert "attention.self.query_activation" in (tmp_path / "b.svg").read_text()
    assert "embeddings.output_activation" in done.stdout


def test_other_bits_are_simulated_and_no_program_for_this_machine(tiny, tmp_path):
    from neuronbert_cli.app import app

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    command = ["quantize", str(tiny("text-classification")), str(tmp_path / "out")]
    command += ["--data", str(tmp_path / "texts.txt")]
    for option, bits in (("--input-bits", "1"), ("--weight-bits", "17")):
        done = CliRunner().invoke(app, [*command, option, bits])
        assert (done.exit_code, "from 2 to 16" in done.stderr) == (2, True), done.output
        done = CliRunner().invoke(app, [*command, "--quantization", "ibert", option, "4"])
        assert (done.exit_code, f"{option} is 4; it must be left out" in done.stderr) == (2, True), done.output
    done = CliRunner().invoke(app, [*command, "--weight-bits", "3", "--json"])
    assert done.exit_code == 0, done.output
    scheme = json.loads(done.stdout)["scheme"]
    assert (scheme["inputs"]["num_bits"], scheme["weights"]["num_bits"], scheme["weights"]["axis"]) == (8, 3, 0)
    done = CliRunner().invoke(
        app, ["export", "--model", str(tmp_path / "out"), "--sequence-length", "32", str(tmp_path / "artifact")]
    )
    assert done.exit_code == 2
    assert "8 bits" in done.stderr
    assert "weight_quantizer" in done.stderr
    assert not (tmp_path / "artifact").exists()
