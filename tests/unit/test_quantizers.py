"""Rounding to integers and back, its gradients, and where the quantizers go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronbert.encoder.model import install
from neuronbert.errors import CheckpointCorruptError, InvalidOptionError, UncalibratedError
from neuronbert.quantization import placement
from neuronbert.quantization.qdq import QdqArithmetic
from neuronbert.quantization.quantizers import Quantizer, widest
from neuronbert.schemes import Descriptor, Scheme

NAMES_IN_THE_TOOLKIT = (
    "attention.self.query._input_quantizer",
    "attention.self.query._weight_quantizer",
    "attention.self.key._input_quantizer",
    "attention.self.key._weight_quantizer",
    "attention.self.value._input_quantizer",
    "attention.self.value._weight_quantizer",
    "attention.self.matmul_q_input_quantizer",
    "attention.self.matmul_k_input_quantizer",
    "attention.self.matmul_v_input_quantizer",
    "attention.self.matmul_a_input_quantizer",
    "attention.output.dense._input_quantizer",
    "attention.output.dense._weight_quantizer",
    "attention.output.add_local_input_quantizer",
    "attention.output.add_residual_input_quantizer",
    "intermediate.dense._input_quantizer",
    "intermediate.dense._weight_quantizer",
    "output.dense._input_quantizer",
    "output.dense._weight_quantizer",
    "output.add_local_input_quantizer",
    "output.add_residual_input_quantizer",
)


def quantizer(amax, **settings):
    made = Quantizer("layer.0.x", Descriptor(**settings))
    made.set_amax(torch.tensor(amax))
    return made


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(2, 16), st.booleans(), st.booleans())
def test_it_gives_what_torch_gives_for_the_same_scale(amax, bits, unsigned, narrow):
    made = quantizer(amax, num_bits=bits, unsigned=unsigned, narrow_range=narrow)
    least, most = made.descriptor.bounds
    values = torch.linspace(-1.5 * amax, 1.5 * amax, 401)
    scale = amax / most
    expected = torch.fake_quantize_per_tensor_affine(values, scale, 0, least, most)
    differ = (made(values) - expected).abs() / scale
    near_half = ((values / scale).frac().abs() - 0.5).abs() < 0.02
    assert float(differ[~near_half].max()) < 1e-2
    assert float(differ.max()) < 1.01


def test_bounds_are_those_of_the_toolkit():
    assert Descriptor().bounds == (-128, 127)
    assert Descriptor(narrow_range=True).bounds == (-127, 127)
    assert Descriptor(unsigned=True).bounds == (0, 255)
    assert Descriptor(num_bits=3).bounds == (-4, 3)


def test_ties_go_to_the_even_integer():
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert quantizer(127.0)(values).tolist() == [0, 2, 2, 0, -2]


def test_a_range_of_nothing_gives_zeros_and_no_nan():
    assert quantizer(0.0)(torch.tensor([1.0, -3.0, 0.0])).tolist() == [0, 0, 0]


def test_each_row_of_a_weight_has_a_range_of_its_own():
    weight = torch.tensor([[1.0, -0.5], [100.0, 3.0]])
    made = Quantizer("layer.0.x", Descriptor(axis=0))
    made.set_amax(widest(weight, made.descriptor))
    assert made.amax().tolist() == [[1.0], [100.0]]
    error = (made(weight) - weight).abs() / torch.tensor([[1.0], [100.0]])
    assert float(error.max()) <= 0.5 / 127 + 1e-6


def test_gradients_pass_where_nothing_is_clipped_and_a_learned_range_has_one():
    made = quantizer(1.0)
    values = torch.tensor([0.3, 2.0, -5.0, -0.9], requires_grad=True)
    made(values).sum().backward()
    assert values.grad.tolist() == [1, 0, 0, 1]
    made.learn()
    made(torch.tensor([0.3, 2.0])).sum().backward()
    step = 1 / 127  # d/d range: 1 for what is clipped, (rounded - value) in steps for the rest
    expected = (round(0.3 / step) - 0.3 / step) / 127 + 1.0
    assert float(made._amax.grad) == pytest.approx(expected, rel=1e-3)
    assert "_amax" in made.state_dict()


def test_the_largest_weight_of_a_row_has_a_gradient():
    torch.manual_seed(0)
    weight = (torch.randn(512, 8) * 3).requires_grad_()
    for descriptor in (Descriptor(axis=0), Descriptor(axis=0, narrow_range=True)):
        made = Quantizer("layer.0.x", descriptor)
        made.set_amax(widest(weight, descriptor))
        (found,) = torch.autograd.grad(made(weight).sum(), weight)
        assert float((found - 1).abs().max()) < 1e-5
    unsigned = quantizer(1.0, unsigned=True)
    (found,) = torch.autograd.grad(unsigned(values := torch.tensor([-1.0, 1.0], requires_grad=True)).sum(), values)
    assert found.tolist() == [0, 1]


def test_without_a_range_it_refuses_and_disabled_it_lets_through():
    made = Quantizer("layer.3.output.dense._input_quantizer", Descriptor())
    with pytest.raises(UncalibratedError, match=r"layer\.3\.output\.dense"):
        made(torch.ones(2))
    made.enabled = False
    assert made(torch.tensor([0.123])).tolist() == [pytest.approx(0.123)]


@pytest.fixture
def encoder(tiny):
    import transformers

    return install(transformers.BertModel.from_pretrained(tiny("feature-extraction")).eval(), QdqArithmetic())


def test_every_layer_has_the_twenty_of_the_toolkit(encoder):
    quantizers = placement.attach(encoder, Scheme(method="qdq"))
    assert len(quantizers) == 40
    for index in range(2):
        found = {name.removeprefix(f"layer.{index}.") for name in quantizers if name.startswith(f"layer.{index}.")}
        assert found == set(NAMES_IN_THE_TOOLKIT)
        for name in NAMES_IN_THE_TOOLKIT:  # where the toolkit's checkpoints have them
            assert isinstance(encoder.get_submodule(f"encoder.layer.{index}.{name}"), Quantizer)


def test_all_twenty_are_asked_in_a_call(encoder):
    asked = []
    for name, item in placement.attach(encoder, Scheme(method="qdq")).items():
        item.observer = lambda _, name=name: asked.append(name)
    encoder(torch.tensor([[5, 6, 7]]))
    assert sorted(asked) == sorted(placement.of(encoder))


def test_switched_off_they_change_nothing(encoder):
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = install_plain(encoder)(ids).last_hidden_state
    for item in placement.attach(encoder, Scheme(method="qdq")).values():
        item.enabled = False
    assert torch.equal(encoder(ids).last_hidden_state, expected)


def install_plain(encoder):
    from neuronbert.encoder.model import Encoder

    return Encoder(encoder)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("layer.0", 20),
        ("layer.*", 40),
        ("layer.*.output.dense", 4),
        ("encoder.layer.1.intermediate.dense", 2),
        ("layer.*.attention.self.matmul_?_input_quantizer", 8),
        ("layer.1.attention.self.query._weight_quantizer", 1),
    ],
)
def test_names_and_patterns_choose_quantizers(encoder, pattern, count):
    names = placement.attach(encoder, Scheme(method="qdq"))
    assert len(placement.select(names, [pattern], "keep_float")) == count


def test_a_name_that_matches_nothing_is_refused(encoder):
    names = placement.attach(encoder, Scheme(method="qdq"))
    with pytest.raises(InvalidOptionError, match=r"layer\.7"):
        placement.select(names, ["layer.0", "layer.7"], "keep_float")


@pytest.mark.parametrize(
    ("name", "amax"),
    [
        ("layer.0.output.dense._input_quantizer", torch.tensor(float("nan"))),
        ("layer.0.output.dense._input_quantizer", torch.tensor(-1.0)),
        ("layer.0.output.dense._input_quantizer", torch.tensor(0.0)),
        ("layer.0.output.dense._input_quantizer", torch.ones(2)),
        ("layer.0.output.dense._weight_quantizer", torch.ones(7, 1)),
        ("layer.9.output.dense._input_quantizer", torch.tensor(1.0)),
    ],
)
def test_ranges_that_cannot_be_are_refused(encoder, name, amax):
    placement.attach(encoder, Scheme(method="qdq"))
    with pytest.raises(CheckpointCorruptError, match="range"):
        placement.set_ranges(encoder, {name: amax}, "here")
