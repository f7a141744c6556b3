"""Tokens are dropped as dynamic BERT drops them: row by row, against an implementation of its own."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuronbert.adaptive.configuration import SELECTIONS as METHODS
from neuronbert.adaptive.keeping import Keeping
from neuronbert.architectures import ARCHITECTURES
from neuronbert.encoder.adapting import adapt_lengths, encoder_of
from neuronbert.encoder.model import install
from neuronbert.encoder.selection import most_significant, significance
from neuronbert.errors import InvalidOptionError, UnsupportedFeatureError, UnsupportedModelError

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
    "type_vocab_size": 2,
}
TOKENS = 12
HEADS = [(model_type, name) for model_type in ("bert", "roberta") for name in ARCHITECTURES[model_type].heads.values()]


def build(name: str = "BertModel", model_type: str = "bert", **options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, attn_implementation="eager", **SIZES, **options)
    return getattr(transformers, name)(config).eval()


def call(name: str = "", rows: int = 3, tokens: int = TOKENS, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 2, tokens) if "MultipleChoice" in name else (rows, tokens)
    ids = torch.randint(5, 60, shape, generator=generator)
    mask = torch.ones_like(ids)
    mask[0, ..., 7:] = 0
    return {
        "input_ids": torch.where(mask.bool(), ids, 1),
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, shape, generator=generator),
    }


def outputs(model: Any, given: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        result = model(**given, return_dict=True, **options)
    return {name: value for name, value in result.items() if isinstance(value, Tensor)}


def published(
    base: Any, row: dict[str, Tensor], lengths: tuple[int, ...], run: tuple[int, ...], keep_first: bool
) -> tuple[Tensor, list[set[int]]]:
    """The algorithm of dynamic BERT for one row, with plain loops: all tokens restored, and the kept ones by layer."""
    with torch.no_grad():
        hidden = base.embeddings(row["input_ids"][None], token_type_ids=row["token_type_ids"][None])[0]
        alive = row["attention_mask"].tolist()
        places = list(range(len(alive)))
        restored, kept = [vector.clone() for vector in hidden], []
        for number, layer in enumerate(base.encoder.layer):
            if number in run:
                attended, scores = attention(layer.attention, hidden, alive)
                order = sorted(range(int(keep_first), len(scores)), key=lambda at: (-scores[at], places[at]))
                chosen = ([0] if keep_first else []) + order[: lengths[number] - int(keep_first)]
                hidden = torch.stack([attended[at] for at in chosen])
                places, alive = [places[at] for at in chosen], [alive[at] for at in chosen]
                inner = torch.nn.functional.gelu(layer.intermediate.dense(hidden))
                hidden = layer.output.LayerNorm(layer.output.dense(inner) + hidden)
                for place, vector in zip(places, hidden, strict=True):
                    restored[place] = vector
            kept.append(set(places))
        return torch.stack(restored), kept


def attention(module: Any, hidden: Tensor, alive: list[int]) -> tuple[Tensor, list[float]]:
    """What one attention makes of a row, and the attention that each token receives in it."""
    heads, size, received, contexts = SIZES["num_attention_heads"], 8, [0.0] * len(alive), []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        query, key, value = (
            (site(hidden))[:, part] for site in (module.self.query, module.self.key, module.self.value)
        )
        scores = query @ key.T / math.sqrt(size)
        scores[:, torch.tensor(alive) == 0] = -math.inf
        weights = scores.softmax(-1)
        contexts.append(weights @ value)
        for at in range(len(alive)):
            received[at] += float(sum(weights[:, at].tolist()))
    return module.output.LayerNorm(module.output.dense(torch.cat(contexts, -1)) + hidden), received


def row_of(given: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row] for name, value in given.items()}


@cache
def doubled(model_type: str) -> Any:
    """In double precision, where no two real tokens are so near that the order of additions tells them apart."""
    return build("BertModel" if model_type == "bert" else "RobertaModel", model_type).double()


@st.composite
def keepings(draw: st.DrawFn) -> Keeping:
    lengths = tuple(sorted(draw(st.lists(st.integers(2, TOKENS), min_size=4, max_size=4)), reverse=True))
    layers = tuple(sorted(draw(st.sets(st.integers(0, 3), min_size=1, max_size=4))))
    return Keeping(
        length_config=lengths,
        layer_config=layers,
        always_keep_cls_token=draw(st.booleans()),
        selection=draw(st.sampled_from(METHODS)),
    )


@settings(max_examples=50, deadline=None)
@given(keepings(), st.sampled_from(["bert", "roberta"]), st.integers(0, 1000))
def test_every_row_is_treated_as_published(keeping: Keeping, model_type: str, seed: int) -> None:
    base, given_rows = doubled(model_type), call(seed=seed)
    ours = install(base)
    ours.keeping = keeping
    found = outputs(ours, given_rows)["last_hidden_state"]
    assert keeping.length_config is not None
    assert keeping.layer_config is not None
    for row in range(3):
        theirs, kept = published(
            base, row_of(given_rows, row), keeping.length_config, keeping.layer_config, keeping.always_keep_cls_token
        )
        real = given_rows["attention_mask"][row].bool()
        for layer in keeping.layer_config:
            passed = {at for at in range(TOKENS) if ours.passed[row, at] > layer and real[at]}
            assert passed == {at for at in kept[layer] if real[at]}, (row, layer)
        torch.testing.assert_close(found[row][real], theirs[real], rtol=1e-9, atol=1e-9)


def answer(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    """What a model's own head makes of a row's tokens."""
    with torch.no_grad():
        if hasattr(model, "qa_outputs"):
            start, end = model.qa_outputs(tokens[None]).unbind(-1)
            return {"start_logits": start, "end_logits": end}
        pooled = tokens[None] if model.config.model_type == "roberta" else model.bert.pooler(tokens[None])
        return {"logits": model.classifier(pooled)}


@pytest.mark.parametrize("run", [(0, 1, 2, 3), (0, 2)], ids=str)
@pytest.mark.parametrize("keep_first", [True, False, None])
@pytest.mark.parametrize("head", ["ForQuestionAnswering", "ForSequenceClassification"])
@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_head_answers_from_the_tokens_that_the_published_algorithm_gives(
    model_type: str, head: str, keep_first: bool | None, run: tuple[int, ...]
) -> None:
    name, lengths = f"{'Bert' if model_type == 'bert' else 'Roberta'}{head}", (10, 7, 7, 3)
    plain, given_rows = build(name, model_type).double(), call()
    ours = adapt_lengths(
        build(name, model_type).double(), length_config=lengths, layer_config=run, always_keep_cls_token=keep_first
    )
    found = outputs(ours, given_rows)
    kept_by_default = head != "ForQuestionAnswering"
    for row in range(3):
        first = kept_by_default if keep_first is None else keep_first
        tokens, _ = published(plain.base_model, row_of(given_rows, row), lengths, run, first)
        for output, theirs in answer(plain, tokens).items():
            real = given_rows["attention_mask"][row].bool() if output != "logits" else slice(None)
            torch.testing.assert_close(found[output][row][real], theirs[0][real], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("model_type", "name"), HEADS)
def test_every_head_answers_as_bert_when_nothing_is_dropped(model_type: str, name: str, method: Any) -> None:
    given_rows, expected = call(name), outputs(build(name, model_type), call(name))
    model = adapt_lengths(build(name, model_type), length_config=(TOKENS,) * 4, selection=method)
    found = outputs(model, given_rows)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(("model_type", "name"), HEADS)
def test_both_ways_to_move_tokens_give_the_same_for_every_head(model_type: str, name: str) -> None:
    found, passed = [], []
    for method in METHODS:
        model = adapt_lengths(build(name, model_type), length_config=(10, 8, 5, 3), selection=method)
        found.append(outputs(model, call(name)))
        passed.append(encoder_of(model).passed)
    assert torch.equal(*passed)
    assert [(passed[0] > layer).sum(1).unique().tolist() for layer in range(4)] == [[10], [8], [5], [3]]
    full = outputs(build(name, model_type), call(name))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-5)
        assert value.shape == full[key].shape
        assert not torch.allclose(value, full[key], atol=1e-3)


def test_a_head_that_reads_the_first_token_answers_the_same_with_and_without_restoring() -> None:
    for name in ("BertForSequenceClassification", "BertForMultipleChoice", "BertForNextSentencePrediction"):
        model = adapt_lengths(build(name), length_config=(10, 8, 5, 3))
        encoder = encoder_of(model)
        assert not encoder.keeping.restored
        found = outputs(model, call(name))["logits"]
        with torch.no_grad():
            flat = {key: value.view(-1, TOKENS) for key, value in call(name).items()}
            assert encoder(**flat).last_hidden_state.shape[1] == 3
        encoder.keeping = Keeping(length_config=(10, 8, 5, 3))
        assert torch.equal(outputs(model, call(name))["logits"], found)
        # Once the first token may go, it is brought back.
        assert outputs(model, call(name), always_keep_cls_token=False)["logits"].shape == found.shape


def test_a_call_wins_over_what_is_set_and_what_is_set_over_the_config() -> None:
    full = outputs(build(), call())["last_hidden_state"]
    model = adapt_lengths(build(length_config="(10, 8, 5, 3)", layer_config=[0, 1, 2], always_keep_cls_token=False))
    assert model.keeping == Keeping(length_config=(10, 8, 5, 3), layer_config=(0, 1, 2), always_keep_cls_token=False)
    by_config = outputs(model, call())["last_hidden_state"]
    assert not torch.allclose(by_config, full, atol=1e-3)
    assert torch.equal(outputs(model, call(), length_config=(10, 8, 5, 3))["last_hidden_state"], by_config)
    model.set_length_config((12, 12, 12, 12))
    assert not torch.equal(outputs(model, call())["last_hidden_state"], by_config)
    assert torch.equal(outputs(model, call(), layer_config=(0, 1, 2, 3))["last_hidden_state"], full)
    again = outputs(model, call(), length_config="(10, 8, 5, 3)", always_keep_cls_token=False)
    assert torch.equal(again["last_hidden_state"], by_config)
    model.set_length_config(None)
    assert torch.equal(outputs(model, call(), layer_config=[0, 1, 2, 3])["last_hidden_state"], full)
    given_rows = {**call(), "length_config": (10, 8, 5, 3), "layer_config": (0, 1, 2)}
    assert torch.equal(
        outputs(adapt_lengths(build()), given_rows, always_keep_cls_token=False)["last_hidden_state"], by_config
    )


@pytest.mark.parametrize(
    ("name", "model_type"),
    [("BertModel", "bert"), ("BertForSequenceClassification", "bert"), ("RobertaForTokenClassification", "roberta")],
)
def test_what_is_set_is_saved_and_read_again(name: str, model_type: str, tmp_path: Path) -> None:
    model = adapt_lengths(
        build(name, model_type), length_config=(10, 8, 5, 3), layer_config=(0, 1, 3), always_keep_cls_token=False
    )
    expected = outputs(model, call())
    model.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert (told["length_config"], told["layer_config"]) == ("(10, 8, 5, 3)", "(0, 1, 3)")
    assert told["always_keep_cls_token"] is False
    kind = getattr(transformers, name)
    again = adapt_lengths(kind.from_pretrained(tmp_path, attn_implementation="eager").eval())
    assert encoder_of(again).keeping == encoder_of(model).keeping
    assert all(torch.equal(value, expected[key]) for key, value in outputs(again, call()).items())
    again.base_model.set_length_config(None)
    again.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert "length_config" not in told
    assert told["layer_config"] == "(0, 1, 3)"
    again.base_model.set_length_config((9, 9, 9, 4))
    assert again.config.length_config == "(9, 9, 9, 4)"


def test_all_is_no_empty_tuple_in_python_and_the_first_token_is_kept_or_not() -> None:
    for option in ("length_config", "layer_config"):
        for value in ((), [], "()"):
            with pytest.raises(InvalidOptionError, match=f"^{option} is "):
                adapt_lengths(build(), **{option: value})
        with pytest.raises(InvalidOptionError, match="what is None here"):
            adapt_lengths(build(), **{option: "all"})
    for keep in ("False", 2.5, 0):
        with pytest.raises(InvalidOptionError, match=r"^always_keep_cls_token is .* True or False"):
            outputs(adapt_lengths(build()), call(), always_keep_cls_token=keep)


def test_the_first_token_is_kept_by_default_but_for_question_answering() -> None:
    assert encoder_of(adapt_lengths(build())).keeping.always_keep_cls_token
    assert encoder_of(adapt_lengths(build("BertForTokenClassification"))).keeping.always_keep_cls_token
    assert not encoder_of(adapt_lengths(build("BertForQuestionAnswering"))).keeping.always_keep_cls_token


@given(st.integers(2, 9), st.booleans(), st.integers(0, 100))
def test_the_most_significant_tokens_are_chosen(count: int, keep_first: bool, seed: int) -> None:
    scores = torch.rand(3, 9, generator=torch.Generator().manual_seed(seed))
    chosen = most_significant(scores, count, keep_first=keep_first)
    assert chosen.shape == (3, count)
    for row, places in zip(scores, chosen.tolist(), strict=True):
        assert len(set(places)) == count
        if keep_first:
            assert places[0] == 0
        left = [float(row[at]) for at in range(9) if at not in places]
        others = [float(row[at]) for at in places if at or not keep_first]
        assert not left or not others or min(others) >= max(left)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_significance_is_summed_in_fp32(dtype: torch.dtype) -> None:
    weights = torch.rand(2, 4, 300, 300).to(dtype)
    summed = significance(weights)
    assert summed.dtype is torch.float32
    torch.testing.assert_close(summed, weights.double().sum((1, 2)).float())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_rows_of_few_tokens_and_of_none_stay_finite(method: Any, model_type: str) -> None:
    name = "BertModel" if model_type == "bert" else "RobertaModel"
    model = adapt_lengths(build(name, model_type), length_config=(10, 8, 6, 4), selection=method)
    given_rows = call()
    given_rows["attention_mask"][0, 2:] = 0
    given_rows["attention_mask"][1] = 0
    found = outputs(model, given_rows)["last_hidden_state"]
    assert torch.isfinite(found).all()
    assert (model.passed[0, :2] == 4).all(), "real tokens go on before padding does"


@pytest.mark.parametrize(
    "options",
    [
        *({"length_config": value} for value in ((10, 8, 5), (3, 5, 8, 10), (10, 8, 5, 1), (13, 8, 5, 3), "(10,", 7)),
        *({"layer_config": value} for value in ((), (4,), (1, 0), "()", (0, 0), 1)),
    ],
    ids=str,
)
def test_what_is_no_configuration_is_refused_in_a_call(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=f"^{next(iter(options))} is "):
        outputs(adapt_lengths(build()), call(), **options)


def test_what_is_no_configuration_is_refused_in_a_config_and_by_the_setter() -> None:
    for value in ("__import__('os')", [1.5], {}, (9, 8)):
        with pytest.raises(InvalidOptionError, match=r"^length_config is "):
            adapt_lengths(build(length_config=value))
        with pytest.raises(InvalidOptionError, match=r"^length_config is "):
            adapt_lengths(build()).set_length_config(value)
    with pytest.raises(InvalidOptionError, match=r"^layer_config is "):
        adapt_lengths(build(layer_config="(7,)"))
    with pytest.raises(InvalidOptionError, match=r"^always_keep_cls_token is "):
        adapt_lengths(build(always_keep_cls_token="yes"))
    with pytest.raises(InvalidOptionError, match=r"^selection is "):
        adapt_lengths(build(), selection="sort")  # type: ignore[arg-type]


def test_models_that_can_not_drop_tokens_are_refused() -> None:
    config = transformers.ElectraConfig(**SIZES)
    with pytest.raises(UnsupportedModelError, match="electra"):
        adapt_lengths(transformers.ElectraModel(config))
    decoder = adapt_lengths(build("BertLMHeadModel", is_decoder=True, use_cache=False))
    outputs(decoder, call())
    with pytest.raises(UnsupportedFeatureError, match="is_decoder"):
        outputs(decoder, call(), length_config=(10, 8, 5, 3))
    with pytest.raises(UnsupportedFeatureError, match="is_decoder"):
        decoder.base_model.set_length_config((10, 8, 5, 3))
    outputs(decoder, call(), layer_config=(0, 2))


def test_configurations_are_scaled_to_rows_of_another_length() -> None:
    keeping = Keeping(length_config=(10, 8, 5, 3), sequence_length=12)
    assert keeping.lengths_for(4, 12) == (10, 8, 5, 3)
    assert keeping.lengths_for(4, 6) == (5, 4, 3, 2)
    model = adapt_lengths(build())
    model.keeping = keeping
    outputs(model, call(tokens=8))
    assert [int((model.passed > layer).sum()) // 3 for layer in range(4)] == [7, 6, 4, 2]
