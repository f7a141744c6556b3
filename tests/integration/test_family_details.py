"""What is particular about families: positions, segments, languages, what reads across columns, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from neuronbert import ExportSpec, NeuronAutoModel, StaticShape, check, errors, export, validate
from neuronbert.architectures import find_architecture, find_head
from neuronbert.families import REFUSED
from tests.support import families

EQUAL = {"rtol": 1e-4, "atol": 1e-5}
SHAPE = StaticShape(2, 16)
RELATIVE = ["mpnet", "deberta-v2", "roformer", "esm", "modernbert"]


def made(folder: Path, model_type: str, task: str, shape: StaticShape = SHAPE, **settings: Any) -> Path:
    checkpoint = families.save(model_type, task, folder / "checkpoint", **settings)
    return export(ExportSpec(str(checkpoint), (shape,), task, auto_cast="none"), folder / "artifact").path


def reference(folder: Path, model_type: str, task: str) -> transformers.PreTrainedModel:
    head = getattr(transformers, find_head(find_architecture(model_type), task))
    return head.from_pretrained(folder / "checkpoint", attn_implementation="eager").eval()


def ids_of(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 99, (rows, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("model_type", RELATIVE)
def test_relative_and_rotary_positions_are_right_at_every_length(tmp_path: Path, model_type: str) -> None:
    model = NeuronAutoModel.from_pretrained(made(tmp_path, model_type, "feature-extraction", StaticShape(1, 32)))
    theirs = reference(tmp_path, model_type, "feature-extraction")
    for length in (1, 2, 7, 8, 15, 16, 17, 31, 32):
        given = ids_of(1, length)
        with torch.no_grad():
            expected = theirs(**given).last_hidden_state
        torch.testing.assert_close(model(**given).last_hidden_state, expected, **EQUAL)


@pytest.mark.parametrize(
    ("model_type", "task"),
    [("xlm", "text-classification"), ("flaubert", "multiple-choice"), ("electra", "multiple-choice")],
)
@pytest.mark.parametrize("kind", ["last", "mean", "cls_index"])
def test_a_summary_is_of_the_call_and_not_of_its_padding(tmp_path: Path, model_type: str, task: str, kind: str) -> None:
    shape = StaticShape(2, 16, 3 if task == "multiple-choice" else None)
    path = made(tmp_path, model_type, task, shape, summary_type=kind)
    theirs = reference(tmp_path, model_type, task)
    for rows, length in ((2, 16), (1, 5)):
        given = families.inputs_for(("input_ids", "attention_mask"), task, rows, length)
        with torch.no_grad():
            expected = theirs(**given).logits
        torch.testing.assert_close(NeuronAutoModel.from_pretrained(path)(**given).logits, expected, **EQUAL)
    assert validate(path, record=False).failures == ()


@pytest.mark.parametrize("model_type", ["xlm", "flaubert"])
def test_languages_are_given_where_the_model_tells_them_apart(tmp_path: Path, model_type: str) -> None:
    path = made(tmp_path, model_type, "fill-mask", n_langs=3)
    model, theirs = NeuronAutoModel.from_pretrained(path), reference(tmp_path, model_type, "fill-mask")
    given = {**ids_of(2, 9), "langs": torch.full((2, 9), 2)}
    with torch.no_grad():
        torch.testing.assert_close(model(**given).logits, theirs(**given).logits, **EQUAL)
    with pytest.raises(errors.MissingInputError, match="langs"):
        model(**ids_of(2, 9))
    assert validate(path, record=False).failures == ()


@pytest.mark.parametrize(
    ("model_type", "settings", "segments"),
    [
        ("roberta", {"type_vocab_size": 1}, None),
        ("roberta", {"type_vocab_size": 2}, 1),
        ("deberta-v2", {"type_vocab_size": 0}, None),
        ("deberta-v2", {"type_vocab_size": 2}, 1),
    ],
)
def test_segments_are_an_input_where_there_are_any(
    tmp_path: Path, model_type: str, settings: dict[str, Any], segments: int | None
) -> None:
    path = made(tmp_path, model_type, "feature-extraction", **settings)
    model = NeuronAutoModel.from_pretrained(path)
    found = {spec.name: spec.maximum for spec in model.session.manifest.inputs}
    assert found.get("token_type_ids") == segments
    if segments:
        given = {**ids_of(2, 9), "token_type_ids": torch.arange(18).view(2, 9) % 2}
        with torch.no_grad():
            expected = reference(tmp_path, model_type, "feature-extraction")(**given).last_hidden_state
        torch.testing.assert_close(model(**given).last_hidden_state, expected, **EQUAL)


@pytest.mark.parametrize(("model_type", "longest"), [("roberta", 34), ("mpnet", 34), ("bert", 34), ("xlm", 34)])
def test_a_program_is_as_long_as_there_are_positions_and_no_longer(
    tmp_path: Path, model_type: str, longest: int
) -> None:
    path = made(tmp_path, model_type, "feature-extraction", StaticShape(1, longest))
    assert validate(path, record=False).failures == ()
    spec = ExportSpec(str(tmp_path / "checkpoint"), (StaticShape(1, longest + 1),), "feature-extraction")
    with pytest.raises(errors.SequenceExceedsPositionsError, match=f"positions for {longest} tokens"):
        export(spec, tmp_path / "longer")


@pytest.mark.parametrize("model_type", ["roberta", "electra", "camembert", "roformer"])
def test_a_causal_head_does_not_look_ahead(tmp_path: Path, model_type: str) -> None:
    model = NeuronAutoModel.from_pretrained(made(tmp_path, model_type, "text-generation", is_decoder=True))
    given = ids_of(1, 10)
    changed = {**given, "input_ids": given["input_ids"].clone()}
    changed["input_ids"][0, 5:] = 7
    before, after = model(**given).logits, model(**changed).logits
    torch.testing.assert_close(before[0, :5], after[0, :5], **EQUAL)
    assert not torch.equal(before[0, 5:], after[0, 5:])


@pytest.mark.parametrize(
    ("model_type", "task", "settings", "said"),
    [
        ("flaubert", "fill-mask", {"pre_norm": True}, "transformers 5 itself fails on it"),
        ("xlm", "fill-mask", {"asm": True}, "adaptive softmax"),
        ("xlm", "auto", {"architectures": ["XLMForQuestionAnswering"]}, "beam search"),
        ("roberta", "fill-mask", {"position_embedding_type": "relative_key"}, "only absolute positions"),
        ("esm", "fill-mask", {"position_embedding_type": "relative_key"}, "no other positions"),
    ],
)
def test_what_a_program_would_get_wrong_is_refused_with_the_reason(
    tmp_path: Path, model_type: str, task: str, settings: dict[str, Any], said: str
) -> None:
    folder = families.save(model_type, "fill-mask", tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    spec = ExportSpec(str(folder), (StaticShape(1, 8),), task)
    with pytest.raises(errors.UnsupportedFeatureError, match=said):
        export(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("model_type", "reason"), REFUSED.items())
def test_a_family_that_cant_be_exported_is_refused_with_the_reason(
    tmp_path: Path, model_type: str, reason: str
) -> None:
    assert model_type in transformers.CONFIG_MAPPING
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(errors.UnsupportedModelError, match=reason):
        export(ExportSpec(str(tmp_path), (StaticShape(1, 8),)), tmp_path / "out")


def test_a_head_that_a_family_lacks_is_answered_with_those_that_it_has(tmp_path: Path) -> None:
    folder = families.save("esm", "fill-mask", tmp_path / "checkpoint")
    with pytest.raises(errors.UnsupportedHeadError, match=r"no head for question-answering\. Its tasks: .*fill-mask"):
        export(ExportSpec(str(folder), (StaticShape(1, 8),), "question-answering"), tmp_path / "out")


@pytest.mark.parametrize("model_type", families.CONFIGS)
def test_a_pre_flight_finds_nothing_read_on_the_host(tmp_path: Path, model_type: str) -> None:
    task = "multiple-choice" if "multiple-choice" in find_architecture(model_type).heads else "fill-mask"
    folder = families.save(model_type, task, tmp_path / "checkpoint")
    shape = StaticShape(1, 16, 2 if task == "multiple-choice" else None)
    report = check(ExportSpec(str(folder), (shape,), task, target="trn2"))
    assert report.findings == ()


def test_mpnets_buckets_stay_what_they_are() -> None:
    from neuronbert.adapters import keep_distances

    model = transformers.MPNetModel(transformers.MPNetConfig(**families.CONFIGS["mpnet"])).eval()
    theirs = transformers.models.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket
    given = ids_of(2, 32)
    before = model(**given).last_hidden_state
    keep_distances(model)
    assert torch.equal(model(**given).last_hidden_state, before)
    distances = torch.arange(-600, 601)
    for count in (8, 32, 64):
        found = model.encoder.relative_position_bucket(distances, num_buckets=count)
        assert torch.equal(found, theirs(distances, num_buckets=count))
