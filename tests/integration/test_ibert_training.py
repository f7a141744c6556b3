"""What is trained for I-BERT, against the integers that it becomes: step by step, from the same integers."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
import transformers

from neuronbert import QuantizationPlan, modeling, quantize, trainable
from neuronbert.checkpoint import Checkpoint
from neuronbert.integers.training import gelu, rounded, softmax
from neuronbert.passages import sample

TEXTS = list(itertools.islice(sample(), 500, 516))
PLAN = QuantizationPlan(quantization="ibert", rows=16, sequence_length=32)


@pytest.fixture(scope="module")
def real(minilm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "minilm"
    quantize(str(minilm), folder, TEXTS, PLAN)
    return folder


def both(folder, kind):
    """The encoder that is trained and the reference, with a function in float or none."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "force_dequant": kind}))
    reference = modeling.load(Checkpoint.open(folder), "feature-extraction", quantization="ibert").head.model
    return trainable(folder, "feature-extraction").eval(), reference


class Steps:
    """The steps of a layer by both arithmetics: each of the trained one's is given what the reference's step gave."""

    def __init__(self, trained, reference):
        self.trained, self.reference = trained.arithmetic, reference.arithmetic
        self.layers = trained.encoder.layer[0], reference.encoder.layer[0]
        self.found = {}

    def alike(self, name, one, other):
        steps = ((one - self.reference.leave(other)) / other.scale).abs().round()
        self.found[name] = float((steps == 0).float().mean()), int(steps.max())
        return other

    def step(self, name, kind, place, *values):
        sites = [layer.get_submodule(place) for layer in self.layers]
        real = [self.reference.leave(value) for value in values]
        if kind != "scores":
            dense = getattr(sites[0], "dense", None)
            real[0] = real[0] if dense is None else self.trained.linear(dense, real[0])
        one, other = getattr(self.trained, kind)(sites[0], *real), getattr(self.reference, kind)(sites[1], *values)
        return self.alike(name, one, other)


@pytest.mark.parametrize("kind", ["none", "nonlinear"])
def test_every_step_that_is_trained_gives_the_integers_or_their_neighbours(real, kind):
    trained, reference = both(real, kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(real)
    ids = tokenizer(TEXTS[:2], return_tensors="pt", truncation=True, max_length=48, padding=True)["input_ids"]
    mask = torch.zeros(2, 1, 1, ids.shape[1])
    mask[1, ..., 30:] = torch.finfo(torch.float32).min
    steps = Steps(trained, reference)
    given = {"input_ids": ids, "token_type_ids": None, "position_ids": None, "inputs_embeds": None}
    with torch.no_grad():
        one, other = (e.arithmetic.embed(e.embeddings, given) for e in (trained, reference))
        hidden = steps.alike("embeddings", one, other)
        sites = [layer.attention.self for layer in steps.layers]
        projected = steps.reference.project(sites[1], hidden)
        for part, mine, theirs in zip(
            "qkv", steps.trained.project(sites[0], steps.reference.leave(hidden)), projected, strict=True
        ):
            steps.alike(part, mine, theirs)
        scores = steps.step("scores", "scores", "attention.self", *projected[:2])
        shares = steps.reference.softmax(sites[1], scores, mask)
        shares = steps.alike("softmax", steps.trained.softmax(sites[0], steps.reference.leave(scores), mask), shares)
        context = steps.step("context", "context", "attention.self", shares, projected[2])
        attended = steps.step("add_norm", "add_norm", "attention.output", context, hidden)
        inner = steps.step("gelu", "activate", "intermediate", attended)
        steps.step("output", "add_norm", "output", inner, attended)
    assert len(steps.found) == 10
    assert min(share for share, _ in steps.found.values()) > 0.98, steps.found
    assert max(most for _, most in steps.found.values()) <= 1, steps.found


def test_gradients_pass_the_rounding_by_and_stop_at_the_ends():
    values = torch.linspace(-3, 3, 61, requires_grad=True)
    rounded(values, torch.tensor(2.0)).sum().backward()
    inside = values.detach().abs() < 2.0
    assert torch.equal(values.grad[inside], torch.ones(int(inside.sum())))
    assert (values.grad[values.detach().abs() > 2.02] == 0).all()


def test_the_largest_weight_of_a_row_has_its_gradient():
    values = torch.tensor([[0.1, -0.2, 0.3], [-0.3, 0.1, 0.2]], requires_grad=True)
    rounded(values, values.detach().abs().amax(1, keepdim=True), weights=True).sum().backward()
    assert torch.equal(values.grad, torch.ones(2, 3))


def test_the_polynomials_have_gradients_near_those_of_what_they_stand_for():
    values = torch.linspace(-4, 4, 401, requires_grad=True)
    (ours,) = torch.autograd.grad(gelu(values).sum(), values)
    (real,) = torch.autograd.grad(torch.nn.functional.gelu(values).sum(), values)
    assert (ours - real).abs().max() < 0.12
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.zeros(3, 9)
    mask[0, 5:] = -1e9
    weights = torch.randn(3, 9, generator=torch.Generator().manual_seed(1))
    (ours,) = torch.autograd.grad((softmax(scores, mask) * weights).sum(), scores)
    (real,) = torch.autograd.grad((torch.softmax(scores + mask, -1) * weights).sum(), scores)
    assert (ours - real).abs().max() < 0.02
    assert (ours[0, 5:] == 0).all()
