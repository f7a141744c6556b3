from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from neuronbert import LengthDrop
from neuronbert.adaptive.configuration import check
from neuronbert.encoder.adapting import adapt_lengths, encoder_of
from neuronbert.errors import InvalidOptionError
from neuronbert.tuning.training import distance

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}


def build(name: str = "BertForSequenceClassification", width: float = 0.02) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, name)(transformers.BertConfig(**SIZES, initializer_range=width))


def batch(rows: int = 8, tokens: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Whether a row holds the token 7: one place decides, so the others can go."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 60, (rows, tokens), generator=generator)
    labels = torch.arange(rows) % 2
    ids[labels == 1, 5] = 7
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def recorded(drop: LengthDrop, given: dict[str, Tensor]) -> tuple[Any, list[dict[str, Any]]]:
    calls: list[dict[str, Any]] = []
    handle = drop.model.register_forward_pre_hook(lambda _m, _a, options: calls.append(options), with_kwargs=True)
    result = drop.train()(**given)
    handle.remove()
    return result, calls


def test_a_step_runs_the_full_length_the_smallest_and_some_between() -> None:
    drop = LengthDrop(build(), drop=0.25, sandwiches=3, layer_dropout=0.0)
    _, calls = recorded(drop, batch())
    assert [call.get("length_config") for call in calls[:2]] == [(12, 12, 12), (9, 7, 6)]
    assert len(calls) == 5
    for call in calls[2:]:
        check(call["length_config"], 3, 12)
        assert all(kept >= least for kept, least in zip(call["length_config"], (9, 7, 6), strict=True))
    assert len({call["length_config"] for call in calls[2:]}) > 1
    assert "labels" in calls[0]
    assert all("labels" not in call for call in calls[1:])


def test_the_loss_is_the_mean_of_the_tasks_and_of_the_distances() -> None:
    drop = LengthDrop(build(width=0.3), layer_dropout=0.0, sandwiches=0)
    given = batch()
    with torch.no_grad():
        loss = drop.train()(**given).loss
        full = drop.eval()(**given)
        given.pop("labels")
        small = drop.model(**given, length_config=(10, 8, 7))
        apart = distance(small, full, given["attention_mask"].bool())
    assert float(apart) > 0
    torch.testing.assert_close(loss, (full.loss + apart) / 2)
    assert float(distance(full, full, given["attention_mask"].bool())) == pytest.approx(0, abs=1e-7)


def test_a_model_that_drops_tokens_already_learns_at_full_length() -> None:
    losses = []
    for lengths in (None, (6, 4, 2)):
        model = adapt_lengths(build(width=0.3), length_config=lengths)
        with torch.no_grad():
            losses.append(LengthDrop(model, layer_dropout=0.0).train()(**batch()).loss)
    assert torch.equal(*losses)


def test_layers_are_left_out_at_random_but_never_all() -> None:
    drop = LengthDrop(build(), layer_dropout=0.9)
    chosen = [call["layer_config"] for _ in range(20) for call in recorded(drop, batch())[1]]
    assert {len(layers) for layers in chosen} >= {1, 2}
    assert all(layers for layers in chosen)
    assert {layer for layers in chosen for layer in layers} == {0, 1, 2}


def test_the_full_length_is_not_pulled_towards_the_smaller_ones() -> None:
    full, small = (transformers.modeling_outputs.SequenceClassifierOutput() for _ in range(2))
    full["logits"], small["logits"] = (torch.randn(4, 3).requires_grad_() for _ in range(2))
    distance(small, full, torch.ones(4, 5, dtype=torch.bool)).backward()
    assert full["logits"].grad is None
    assert small["logits"].grad is not None


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForQuestionAnswering", "BertForMaskedLM"])
def test_padding_plays_no_part_in_the_distance(name: str) -> None:
    model, given = build(name).eval(), batch()
    given.pop("labels")
    with torch.no_grad():
        full, small = model(**given), model(**{**given, "input_ids": given["input_ids"].flip(0)})
    mask = given["attention_mask"].bool()
    apart = distance(small, full, mask)
    for key in small:
        small[key][~mask] += 5.0
    torch.testing.assert_close(distance(small, full, mask), apart)


def test_labels_are_no_places_even_if_there_are_as_many_as_tokens() -> None:
    full, small = (transformers.modeling_outputs.SequenceClassifierOutput() for _ in range(2))
    full["logits"], small["logits"] = torch.randn(4, 5), torch.randn(4, 5)
    mask = torch.ones(4, 5, dtype=torch.bool)
    whole = distance(small, full, mask)
    mask[:, 2:] = False
    assert torch.equal(distance(small, full, mask), whole)


def test_an_ordinary_loop_trains_it_and_the_model_is_saved_as_transformers_do(tmp_path: Path) -> None:
    drop = LengthDrop(build(), drop=0.3)
    optimizer = torch.optim.AdamW(drop.parameters(), lr=3e-3)
    for step in range(60):
        loss = drop.train()(**batch(rows=16, seed=step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    drop.eval()
    held_out = batch(rows=40, seed=999)
    labels = held_out.pop("labels")
    with torch.no_grad():
        for lengths in (None, (9, 7, 5)):
            right = drop.model(**held_out, length_config=lengths).logits.argmax(-1) == labels
            assert right.float().mean() > 0.9, lengths
    drop.model.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(again(**held_out).logits, drop.model(**held_out).logits)


@pytest.mark.filterwarnings("ignore")
def test_trainer_trains_it(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    drop = LengthDrop(build())
    before = encoder_of(drop.model).encoder.layer[0].output.dense.weight.detach().clone()
    rows = [{name: value[at] for name, value in batch().items()} for at in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], save_strategy="no", use_cpu=True
    )
    trainer = transformers.Trainer(drop, arguments, train_dataset=rows)
    result = trainer.train()
    assert result.training_loss > 0
    assert not torch.equal(encoder_of(drop.model).encoder.layer[0].output.dense.weight, before)


def test_what_can_not_be_trained_is_refused() -> None:
    for options in ({"drop": 1.0}, {"drop": -0.1}, {"layer_dropout": 1.0}, {"sandwiches": -1}):
        with pytest.raises(InvalidOptionError, match=next(iter(options))):
            LengthDrop(build(), **options)  # type: ignore[arg-type]
    given = batch()
    given.pop("labels")
    with pytest.raises(InvalidOptionError, match="labels"):
        LengthDrop(build()).train()(**given)
    assert LengthDrop(build()).eval()(**given).logits.shape == (8, 2)


def test_with_a_teacher_all_runs_learn_its_answers_and_no_label_is_needed() -> None:
    teacher = build(width=0.3).eval()
    drop = LengthDrop(build(), drop=0.4, sandwiches=1, layer_dropout=0.0, teacher=teacher)
    assert {id(weight) for weight in drop.parameters()} == {id(weight) for weight in drop.model.parameters()}
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    optimizer = torch.optim.AdamW(drop.parameters(), lr=1e-3)

    def apart() -> float:
        given = batch(rows=32, seed=99)
        del given["labels"]
        with torch.no_grad():
            small, full = drop.model(**given, length_config=(8, 5, 3)), drop.model(**given)
            return sum(float(distance(run, teacher(**given), given["attention_mask"].bool())) for run in (small, full))

    begun = apart()
    for step in range(80):
        given = batch(seed=step)
        del given["labels"]
        loss = drop.train()(**given)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert apart() < 0.7 * begun
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
