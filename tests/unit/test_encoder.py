"""Our encoder gives, bit for bit, what transformers gives with eager attention."""

from __future__ import annotations

import pytest
import torch
import transformers

from neuronbert.architectures import ARCHITECTURES
from neuronbert.encoder.model import ENCODER_TYPES, Encoder, install
from neuronbert.errors import InvalidOptionError, UnsupportedFeatureError

HEADS = [(model_type, name) for model_type in ENCODER_TYPES for name in ARCHITECTURES[model_type].heads.values()]
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}


def build(name, model_type="bert", **settings):
    torch.manual_seed(0)
    kinds = {"type_vocab_size": 2, "attn_implementation": "eager", **SIZES, **settings}
    config = transformers.AutoConfig.for_model(model_type, **kinds)
    model = getattr(transformers, name)(config).eval()
    for parameter in model.parameters():  # biases and norms start at 0 and 1, which would hide a missing one
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def call(name, rows=3, tokens=12):
    generator = torch.Generator().manual_seed(1)
    shape = (rows, 2, tokens) if "MultipleChoice" in name else (rows, tokens)
    ids = torch.randint(5, 60, shape, generator=generator)
    mask = torch.ones_like(ids)
    mask[0, ..., 7:] = 0
    types = torch.randint(0, 2, shape, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def outputs(model, given):
    with torch.no_grad():
        result = model(**given, return_dict=True)
    return {name: value for name, value in result.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(("model_type", "name"), HEADS)
def test_every_head_answers_bit_for_bit_as_in_transformers(model_type, name):
    model, given = build(name, model_type), call(name)
    expected = outputs(model, given)
    found = outputs(install(model), given)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("given", [{}, {"is_decoder": True}, {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}])
def test_settings_are_kept(given):
    model = build("BertLMHeadModel" if given.get("is_decoder") else "BertForMaskedLM", use_cache=False, **given)
    expected = outputs(model, call(""))
    assert torch.equal(outputs(install(model), call(""))["logits"], expected["logits"])


def test_without_a_mask_and_types_it_fills_them_in_as_transformers_does():
    model, ids = build("BertModel"), call("")["input_ids"]
    expected = outputs(model, {"input_ids": ids})
    found = outputs(install(model), {"input_ids": ids})
    assert torch.equal(found["last_hidden_state"], expected["last_hidden_state"])
    assert torch.equal(found["pooler_output"], expected["pooler_output"])


def test_the_names_of_the_weights_are_those_of_transformers():
    model = build("BertForSequenceClassification")
    names = list(model.state_dict())
    assert list(install(model).state_dict()) == names


def test_states_and_attentions_are_given_when_asked_for():
    model, given = build("BertModel"), call("")
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = model(**given, **asked)
        found = install(model)(**given, **asked)
    for name in ("hidden_states", "attentions"):
        assert len(found[name]) == len(expected[name])
        assert all(map(torch.equal, found[name], expected[name]))


def test_training_drops_and_learns_as_transformers_does():
    labels = {"labels": torch.tensor([0, 1, 1])}
    gradients = []
    for change in (lambda model: model, install):
        model = change(build("BertForSequenceClassification").train())
        torch.manual_seed(3)
        model(**call(""), **labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # shapes are static
def test_it_traces_and_the_trace_follows_new_inputs():
    model = install(build("BertForQuestionAnswering"))
    first = tuple(call("").values())

    class Positional(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask, types):
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
            return self.model(**given, return_dict=True).start_logits

    traced = torch.jit.trace(Positional().eval(), first, check_trace=False, strict=False)
    other = (first[0].flip(0), first[1].flip(0), first[2].flip(0))
    given = dict(zip(("input_ids", "attention_mask", "token_type_ids"), other, strict=True))
    assert torch.equal(traced(*other), outputs(model, given)["start_logits"])


def test_what_it_would_leave_out_is_refused():
    with pytest.raises(UnsupportedFeatureError, match="add_cross_attention"):
        Encoder(build("BertModel", is_decoder=True, add_cross_attention=True))
    encoder = install(build("BertModel"))
    with pytest.raises(InvalidOptionError, match=r"^encoder_hidden_states is 'Tensor'; it must be left out"):
        encoder(**call(""), encoder_hidden_states=torch.zeros(1))


@pytest.mark.parametrize("name", ["BertModel", "BertForSequenceClassification", "RobertaForMaskedLM"])
def test_an_argument_that_it_does_not_know_is_refused_as_python_does(name):
    model = install(build(name, "roberta" if name.startswith("R") else "bert"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'lenght_config'"):
        model(**call(""), lenght_config=(9, 8, 7))


@pytest.mark.parametrize(("model_type", "name"), HEADS)
def test_all_that_transformers_heads_hand_on_is_known(model_type, name):
    settings = {"is_decoder": True} if "LMHead" in name or "CausalLM" in name else {}
    options = {"output_hidden_states": True, "output_attentions": True, "num_items_in_batch": torch.tensor(2)}
    install(build(name, model_type, use_cache=False, **settings))(**call(name), **options, return_dict=True)


@pytest.mark.parametrize(("model_type", "pooled"), [("bert", True), ("bert", False), ("roberta", True)])
def test_an_encoder_alone_is_saved_for_transformers(model_type, pooled, tmp_path):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, type_vocab_size=2, **SIZES)
    plain = getattr(transformers, "BertModel" if model_type == "bert" else "RobertaModel")
    encoder = install(plain(config, add_pooling_layer=pooled).eval())
    assert encoder.base_model is encoder
    expected, drawn = outputs(encoder, call("")), torch.get_rng_state()
    encoder.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), drawn)
    again = transformers.AutoModel.from_pretrained(tmp_path, add_pooling_layer=pooled, attn_implementation="eager")
    for model in (again.eval(), install(again.eval())):
        found = outputs(model, call(""))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert list(encoder.state_dict()) == list(again.state_dict())
