"""Programs that drop tokens: exported, validated, recorded, and refused where they can't be."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from neuronbert_cli.app import app
from typer.testing import CliRunner

from neuronbert import (
    Artifact,
    BenchSpec,
    ExportSpec,
    NeuronAutoModel,
    StaticShape,
    bench,
    check,
    export,
    validate,
)
from neuronbert.adaptive.configuration import SELECTIONS
from neuronbert.adaptive.keeping import Keeping
from neuronbert.adaptive.search import Front, Search, Trial
from neuronbert.architectures import ARCHITECTURES
from neuronbert.artifact import seal
from neuronbert.backends import cpu, integer_kernels
from neuronbert.backends.base import ANYWHERE
from neuronbert.encoder.adapting import adapt_lengths, encoder_of
from neuronbert.errors import (
    ArtifactCorruptError,
    InvalidOptionError,
    MaskedRowError,
    UnsupportedFeatureError,
    UnsupportedModelError,
)
from tests.support.lengths import plan

TASKS = sorted(ARCHITECTURES["bert"].heads)
LENGTHS = (20, 9)
Make = Callable[..., Path]


def shapes(task: str, *lengths: int) -> tuple[StaticShape, ...]:
    return tuple(StaticShape(2, length, 3 if task == "multiple-choice" else None) for length in lengths)


def spec(checkpoint: Path, task: str = "text-classification", **options: Any) -> ExportSpec:
    settings = {"length_config": LENGTHS, "auto_cast": "none", "target": "cpu", **options}
    return ExportSpec(str(checkpoint), settings.pop("shapes", shapes(task, 32)), task, **settings)


def call(task: str, tokens: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    dims = (2, 3, tokens) if task == "multiple-choice" else (2, tokens)
    mask = torch.ones(dims, dtype=torch.int64)
    mask[0, ..., tokens // 2 :] = 0
    ids = torch.randint(1, 30000, dims, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@pytest.mark.parametrize("task", ["fill-mask", "multiple-choice", "question-answering", "text-classification"])
def test_every_kind_of_head_is_exported_for_two_buckets_and_passes_its_validation(
    task: str, tiny: Make, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    artifact = export(spec(tiny(task), task, shapes=shapes(task, 16, 32), auto_cast="matmul"), out)
    keeping = artifact.manifest.keeping
    assert keeping is not None
    assert (keeping.length_config, keeping.sequence_length) == (LENGTHS, 32)
    assert keeping.lengths_for(2, 16) == (10, 5)
    assert keeping.always_keep_cls_token == (task != "question-answering")
    assert keeping.restored == (task not in ("text-classification", "multiple-choice", "next-sentence-prediction"))
    report = validate(out)
    report.raise_if_failed()
    worst = {measure.label: measure.value for output, measure, _ in report.worst() if output == "kept_layers"}
    assert set(worst) == {"overlap, layer 0", "overlap, layer 1"}
    card = (out / "README.md").read_text()
    assert "overlap, layer 1" in card
    assert "| Tokens kept | (20, 9) of 32, layer by layer |" in card


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("task", TASKS)
def test_a_program_answers_as_the_eager_model(task: str, selection: Any, tiny: Make, tmp_path: Path) -> None:
    checkpoint = tiny(task)
    export(spec(checkpoint, task, selection=selection), tmp_path / "out")
    model_class = getattr(transformers, ARCHITECTURES["bert"].heads[task])
    eager = adapt_lengths(model_class.from_pretrained(checkpoint).eval(), length_config=LENGTHS)
    given = call(task)
    with torch.no_grad():
        expected = eager(**given)
    found = NeuronAutoModel.from_pretrained(tmp_path / "out")(**given)
    real = given["attention_mask"].bool()
    for name, value in found.items():
        wanted = encoder_of(eager).passed.view(real.shape) if name == "kept_layers" else expected[name]
        inside = real if value.shape[: real.dim()] == real.shape else torch.ones(value.shape, dtype=torch.bool)
        torch.testing.assert_close(value[inside], wanted[inside], rtol=1e-4, atol=1e-4)
    assert (found["kept_layers"] > 0).flatten(0, -2).sum(-1).unique().tolist() == [20]


def graphs_of(artifact: Artifact) -> list[str]:
    """The programs as they are loaded."""
    loaded = cpu.runtime().load(artifact.path, artifact.manifest, ANYWHERE)
    return [str(program.method.graph) for program in loaded.values()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", ["fill-mask", "multiple-choice", "question-answering", "text-classification"])
def test_the_compiled_attention_answers_as_a_program_without_it(
    task: str, tiny: Make, kernels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artifact = export(spec(tiny(task), task, shapes=shapes(task, 16, 32)), tmp_path / "out")
    assert [graph.count("neuronbert::attend") for graph in graphs_of(artifact)] == [2, 2], "one for each layer"
    assert "neuronbert::" not in str(torch.jit.load(tmp_path / "out" / "model.neuron").inlined_graph)
    given = call(task)
    found = NeuronAutoModel.from_pretrained(tmp_path / "out")(**given)
    monkeypatch.setattr(integer_kernels, "available", lambda: False)
    assert "neuronbert::" not in "".join(graphs_of(artifact))
    plain = NeuronAutoModel.from_pretrained(tmp_path / "out")(**given)
    assert torch.equal(found["kept_layers"], plain["kept_layers"])
    real = given["attention_mask"].bool()
    for name, value in found.items():
        inside = real if value.shape[: real.dim()] == real.shape else torch.ones(value.shape, dtype=torch.bool)
        torch.testing.assert_close(value[inside], plain[name][inside], rtol=1e-4, atol=1e-4)


def test_rows_of_few_tokens_stay_finite_and_those_of_none_are_refused(
    tiny: Make, kernels: None, tmp_path: Path
) -> None:
    artifact = export(spec(tiny("fill-mask"), "fill-mask"), tmp_path / "out")
    assert "neuronbert::attend" in "".join(graphs_of(artifact))
    given = call("fill-mask")
    given["attention_mask"][0, 1:] = 0
    given["attention_mask"][1, 3:] = 0
    model = NeuronAutoModel.from_pretrained(tmp_path / "out")
    found = model(**given)
    assert all(value.isfinite().all() for value in found.values())
    assert found["kept_layers"][1, :3].tolist() == [2, 2, 2], "real tokens go on before padding does"
    given["attention_mask"][0] = 0
    with pytest.raises(MaskedRowError, match="row 0"):
        model(**given)


def test_rounded_and_whole_rows_keep_their_own_attention(tiny: Make, kernels: None, tmp_path: Path) -> None:
    for name, options in {"rounded": {"auto_cast": "matmul"}, "whole": {"length_config": ()}}.items():
        artifact = export(spec(tiny("fill-mask"), "fill-mask", **options), tmp_path / name)
        assert "neuronbert::" not in "".join(graphs_of(artifact))


def test_roberta_and_sentence_embeddings_are_exported_too(tiny: Make, tmp_path: Path) -> None:
    config = transformers.RobertaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=99
    )
    transformers.RobertaForTokenClassification(config).save_pretrained(tmp_path / "roberta")
    export(spec(tmp_path / "roberta", "token-classification"), tmp_path / "out")
    validate(tmp_path / "out").raise_if_failed()
    export(spec(tiny("sentence-embedding"), "sentence-embedding"), tmp_path / "sentences")
    validate(tmp_path / "sentences").raise_if_failed()


def test_a_program_has_no_sort_and_a_head_of_the_first_token_moves_no_vector_back(tiny: Make, tmp_path: Path) -> None:
    graphs = {}
    for task in ("text-classification", "fill-mask"):
        export(spec(tiny(task), task), tmp_path / task)
        graph = str(torch.jit.load(tmp_path / task / "model.neuron").inlined_graph)
        assert "aten::topk" in graph
        assert not re.search(r"aten::(arg|m)?sort", graph)
        graphs[task] = graph.count("aten::index_copy")
    assert graphs["fill-mask"] == 2 * graphs["text-classification"] > 0, "vectors and numbers of layers, or these alone"
    export(spec(tiny("fill-mask"), "fill-mask", selection="one-hot"), tmp_path / "one-hot")
    graph = str(torch.jit.load(tmp_path / "one-hot" / "model.neuron").inlined_graph)
    assert "aten::index_copy" not in graph
    assert "aten::index_select" not in graph


@pytest.mark.parametrize("selection", SELECTIONS)
def test_no_rule_for_neuron_devices_is_broken(selection: Any, tiny: Make) -> None:
    asked = spec(tiny("fill-mask"), "fill-mask", selection=selection, target="inf2")
    report = check(asked)
    report.raise_if_failed()
    assert (
        report.programs[0].flops
        < check(spec(tiny("fill-mask"), "fill-mask", length_config=None, target="inf2")).programs[0].flops
        or selection == "one-hot"
    )


def test_a_quantized_model_drops_tokens_in_every_bucket(tiny: Make, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    texts = ("The harbour was quiet.", "Is there a train to Lisbon tonight?", "Bread and butter, twice a day.")
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = run("quantize", tiny("text-classification"), tmp_path / "int8", "--data", rows)
    assert found.exit_code == 0, found.stderr
    asked = spec(tmp_path / "int8", quantization="qdq", shapes=shapes("text-classification", 16, 32))
    artifact = export(asked, tmp_path / "out")
    assert (artifact.manifest.quantization, artifact.manifest.keeping is not None) == ("qdq", True)
    validate(tmp_path / "out").raise_if_failed()
    model = NeuronAutoModel.from_pretrained(tmp_path / "out")
    for tokens, last in ((32, 9), (16, 5)):
        kept = model(**call("text-classification", tokens))["kept_layers"]
        assert (kept > 1).sum(-1).tolist() == [last, last]
    with pytest.raises(InvalidOptionError, match="its tokens are bytes"):
        export(dataclasses.replace(asked, selection="one-hot"), tmp_path / "one-hot")


def test_a_benchmark_compares_with_the_full_length(tiny: Make, tmp_path: Path) -> None:
    export(spec(tiny("fill-mask"), "fill-mask"), tmp_path / "out")
    report = bench(tmp_path / "out", BenchSpec(rounds=1, seconds=0.001, warm_up=1))
    assert report.cases[0].reference is not None
    assert "BertForMaskedLM" in report.reference


def test_layers_are_left_out(tiny: Make, tmp_path: Path) -> None:
    artifact = export(spec(tiny("fill-mask"), "fill-mask", length_config=None, layer_config=(1,)), tmp_path / "out")
    assert [output.name for output in artifact.manifest.outputs] == ["logits"]
    validate(tmp_path / "out").raise_if_failed()


def test_what_a_checkpoint_says_is_done_unless_all_is_asked_for(tiny: Make, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny("text-classification"), checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "length_config": "(20, 9)"}))
    told = export(spec(checkpoint, length_config=None), tmp_path / "told")
    assert told.manifest.keeping == Keeping(length_config=LENGTHS, sequence_length=32, restored=False)
    assert export(spec(checkpoint, length_config=()), tmp_path / "all").manifest.keeping is None
    with pytest.raises(InvalidOptionError, match="no longer than the 16 tokens"):
        export(spec(checkpoint, length_config=None, shapes=(StaticShape(1, 16),)), tmp_path / "short")
    (checkpoint / "config.json").write_text(json.dumps({**config, "length_config": "__import__('os')"}))
    with pytest.raises(InvalidOptionError, match=r"^length_config is "):
        export(spec(checkpoint, length_config=None), tmp_path / "hostile")


def test_what_is_set_in_python_is_saved_for_the_export(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny("text-classification"), folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    adapt_lengths(model, length_config=LENGTHS, always_keep_cls_token=False).save_pretrained(folder)
    told = export(spec(folder, length_config=None), tmp_path / "out")
    assert told.manifest.keeping == Keeping(length_config=LENGTHS, sequence_length=32, always_keep_cls_token=False)


def test_another_choice_of_tokens_fails_the_validation(tiny: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(spec(tiny("fill-mask"), "fill-mask"), out)
    manifest = Artifact.open(out).manifest
    assert manifest.keeping is not None
    seal(out, manifest.model_copy(update={"keeping": manifest.keeping.model_copy(update={"length_config": (20, 15)})}))
    report = validate(out, record=False)
    assert any("overlap, layer 1" in failure for failure in report.failures)


@pytest.mark.parametrize("lengths", [(9, 20), (1, 1), ()])
def test_a_hostile_manifest_is_refused(lengths: Any, tiny: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = export(spec(tiny("text-classification")), out).manifest
    assert manifest.keeping is not None
    seal(out, manifest.model_copy(update={"keeping": manifest.keeping.model_copy(update={"length_config": lengths})}))
    with pytest.raises(ArtifactCorruptError):
        Artifact.open(out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length_config": (20, 9, 9)}, "each of the model's 2 layers"),
        ({"length_config": (33, 9)}, "no longer than the 32 tokens"),
        ({"length_config": (9, 20)}, "non-increasing"),
        ({"length_config": (9, 1)}, "2 or more"),
        ({"length_config": "(9, 2)"}, "whole numbers"),
        ({"layer_config": (2,)}, "from 0 to 1"),
        ({"layer_config": (1, 0)}, "in order"),
        ({"layer_config": "0"}, "layers by number"),
        ({"always_keep_cls_token": "yes"}, "True, False or None"),
        ({"selection": "sort"}, "one of"),
        ({"shapes": (StaticShape(1, 1), StaticShape(1, 32))}, "2 or more"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_before_anything_is_made(
    options: dict[str, Any], said: str, tiny: Make, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOptionError, match=re.escape(said)):
        export(spec(tiny("text-classification"), **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_without_berts_layers_and_decoders_are_refused(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="electra"):
        export(spec(tiny("replaced-token-detection"), "replaced-token-detection"), tmp_path / "out")
    with pytest.raises(UnsupportedFeatureError, match="is_decoder"):
        export(spec(tiny("text-generation", is_decoder=True), "text-generation"), tmp_path / "out")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found_by = plan(sequence_length=64, layers=2)
    trials = [Trial(lengths=each, cost=c, score=s) for each, c, s in (((64, 64), 4.0, 0.9), ((40, 18), 2.0, 0.8))]
    path = tmp_path_factory.mktemp("search") / "front.json"
    path.write_text(Front.of(Search(plan=found_by, trials=tuple(trials)), 8, trials).model_dump_json())
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_line_takes_a_literal_or_the_best_of_a_search(tiny: Make, front: Path, tmp_path: Path) -> None:
    base = ("export", "--model", tiny("text-classification"), "--sequence-length", "16,32", "--json")
    found = run(*base, "--length_config", "(20, 9)", "--layer-config", "(0, 1)", tmp_path / "literal")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["keeping"]["length_config"] == [20, 9]
    found = run(*base, "--speedup", "1.5", "--search", front, "--selection", "one-hot", tmp_path / "searched")
    assert found.exit_code == 0, found.stderr
    assert "(40, 18): 2.00 x, accuracy 0.8000 (0.9000 at full length)" in found.stderr
    keeping = json.loads(found.stdout)["keeping"]
    assert (keeping["length_config"], keeping["sequence_length"], keeping["selection"]) == ([20, 9], 32, "one-hot")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("sequence_lengths = [16, 32]\nlength_config = [20, 9]\nalways_keep_cls_token = false\n")
    found = run("export", "--model", tiny("text-classification"), "--recipe", recipe, "--json", tmp_path / "recipe")
    keeping = json.loads(found.stdout)["keeping"]
    assert (keeping["length_config"], keeping["always_keep_cls_token"], keeping["restored"]) == ([20, 9], False, True)
    shown = run("inspect", tmp_path / "literal").stdout
    assert "(20, 9) of 32 tokens" in shown
    assert "(10, 5) of 16" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--length-config", "(20, 9"), "whole numbers joined by commas"),
        (("--length-config", "__import__('os').abort()"), "whole numbers joined by commas"),
        (("--length-config", "(99, 9)"), "no longer than the 32 tokens"),
        (("--length-config", "(20, 9)", "--speedup", "2"), "left out with --speedup"),
        (("--speedup", "2"), "--search is missing"),
        (("--search", "FRONT"), "--speedup is missing"),
        (("--speedup", "2.5", "--search", "FRONT"), "at most 2.00"),
        *(
            (("--speedup", low, "--search", "FRONT"), "finite number of at least 1")
            for low in ("0", "-1", "nan", "inf")
        ),
        (("--length-config", "(99999999, 9)"), "at most 9999999"),
        (("--length-config", "(-20, 9)"), "each 2 or more"),
        (("--speedup", "2", "--search", "none.json"), "none.json"),
        (("--layer-config", "(7,)"), "from 0 to 1"),
    ],
    ids=str,
)
def test_the_command_line_refuses_in_one_line(
    options: tuple[str, ...], said: str, tiny: Make, front: Path, tmp_path: Path
) -> None:
    given = [str(front) if option == "FRONT" else option for option in options]
    model = tiny("text-classification")
    for command in (("export", tmp_path / "out", "--model", model), ("check", model, "--target", "inf2")):
        found = run(*command, "--sequence-length", "32", *given)
        assert found.exit_code in (2, 3)
        lines = found.stderr.strip().splitlines()
        assert said in lines[-1]
        assert lines[-1].startswith("Error: ")
    assert not (tmp_path / "out").exists()


def test_what_is_looked_at_drops_the_tokens_that_are_asked_for(tiny: Make, front: Path) -> None:
    def flops(*options: object) -> float:
        found = run(
            "check",
            tiny("fill-mask"),
            "--task",
            "fill-mask",
            "--target",
            "inf2",
            "--sequence-length",
            "32",
            "--json",
            *options,
        )
        assert found.exit_code == 0, found.stderr
        return float(json.loads(found.stdout)["programs"][0]["flops"])

    few = flops("--length-config", "(20, 9)")
    assert few < flops()
    assert flops("--speedup", "1.5", "--search", front) == few, "(40, 18) of 64 tokens is (20, 9) of 32"
    assert flops("--layer-config", "(1,)") < flops()
    assert flops("--length-config", "(20, 9)", "--selection", "one-hot") > few


@pytest.mark.parametrize(
    "options",
    [
        ("--force",),
        ("--no-cache",),
        ("--buckets-from", "none.jsonl"),
        ("--target", "inf2"),
        ("--auto-cast", "none"),
        ("--dynamic-batch",),
    ],
    ids=str,
)
def test_what_plays_no_part_in_such_a_file_is_refused(options: tuple[str, ...], tmp_path: Path) -> None:
    found = run("export", "--model", "none", "--sequence-length", "32", "--format", "onnx", *options, tmp_path / "out")
    assert found.exit_code == 2
    assert found.stderr.startswith(f"Error: {options[0]} is ")
    assert "left out with --format onnx" in found.stderr


def test_a_file_of_any_length_can_not_drop_tokens(tiny: Make, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    base = ("export", "--model", tiny("text-classification"), "--sequence-length", "32", "--format", "onnx")
    found = run(*base, "--length-config", "(20, 9)", tmp_path / "out")
    assert found.exit_code == 2
    assert "neuronbert where tokens are dropped" in found.stderr
