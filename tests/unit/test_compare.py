from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuronbert.compare import Tolerance, measure, problem, tolerance
from neuronbert.manifest import OutputSpec
from neuronbert.spec import AUTO_CAST_TYPES, AUTO_CASTS

LIMITS = Tolerance(cosine=0.999, embedding_error=0.01, logit_error=0.02, reason="by hand")
EMBEDDING = OutputSpec(name="h", dims=("batch", "sequence", "hidden"), size=8, answer="embedding")
LABELS = OutputSpec(name="logits", dims=("batch", "labels"), size=4, answer="argmax")
TOKEN_LABELS = OutputSpec(name="logits", dims=("batch", "sequence", "labels"), size=4, answer="argmax")
SPAN = OutputSpec(name="start_logits", dims=("batch", "sequence"), answer="span")


def reference_of(*dims: int) -> Tensor:
    """Values from -1 to 1, both of which occur, so that the range is 2."""
    values = torch.rand(dims, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values.view(-1)[0], values.view(-1)[-1] = -1.0, 1.0
    return values


def measured(output: Tensor, reference: Tensor, spec: OutputSpec, mask: Tensor | None = None) -> dict[str, float]:
    return {m.name: m.value for m in measure(output, reference, mask, spec, LIMITS)}


def passed(output: Tensor, reference: Tensor, spec: OutputSpec, mask: Tensor | None = None) -> bool:
    return all(m.passed for m in measure(output, reference, mask, spec, LIMITS))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_values_that_are_not_finite_are_counted(bad: float) -> None:
    output = torch.zeros(2, 4)
    output[1, 2:] = bad
    assert problem(output, torch.zeros(2, 4)) == "2 of 8 values are not finite"


def test_another_shape_or_dtype_is_named_with_both() -> None:
    assert problem(torch.zeros(2, 4), torch.zeros(2, 3)) == "its shape is [2, 4], the reference's [2, 3]"
    said = problem(torch.zeros(2, dtype=torch.float16), torch.zeros(2))
    assert said == "its dtype is torch.float16, the reference's torch.float32"
    assert problem(torch.zeros(2, 4), torch.ones(2, 4)) == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_reference_that_is_not_finite_is_a_problem(bad: float) -> None:
    reference = torch.tensor([0.0, bad])
    for output in (torch.zeros(2), reference):
        assert problem(output, reference) == "the reference's own values are not finite"


def test_the_largest_of_finite_differences_is_measured() -> None:
    output, reference = torch.tensor([[3e38, -3e38]]), torch.tensor([[-3e38, 3e38]])
    assert measured(output, reference, LABELS) == {"error": 1.0, "agreement": 0.0}
    assert passed(reference, reference, LABELS)


@pytest.mark.parametrize("spec", [EMBEDDING, TOKEN_LABELS], ids=["embedding", "logits"])
def test_an_equal_output_passes_with_no_error_at_all(spec: OutputSpec) -> None:
    reference = reference_of(3, 5, 4)
    found = measured(reference.clone(), reference, spec)
    assert found.pop("error") == 0.0
    assert found.popitem()[1] == pytest.approx(1.0)
    assert passed(reference.clone(), reference, spec)


@given(st.integers(0, 59), st.sampled_from([-1.0, 1.0]), st.sampled_from([EMBEDDING, TOKEN_LABELS]))
def test_a_single_wrong_value_beyond_the_limit_fails_wherever_it_stands(
    place: int, sign: float, spec: OutputSpec
) -> None:
    reference = reference_of(3, 5, 4)
    limit = LIMITS.embedding_error if spec is EMBEDDING else LIMITS.logit_error
    for share, expected in ((0.9, True), (1.1, False)):
        output = reference.clone()
        output.view(-1)[place] += sign * share * limit * 2
        [error, _] = measure(output, reference, None, spec, LIMITS)
        assert error.value == pytest.approx(share * limit, rel=1e-4)
        assert error.passed is expected


@given(st.floats(2**-20, 2**20))
def test_the_error_does_not_depend_on_the_unit(factor: float) -> None:
    reference = reference_of(3, 5, 4)
    output = reference + 0.01
    expected = measured(output, reference, TOKEN_LABELS)["error"]
    assert measured(output * factor, reference * factor, TOKEN_LABELS)["error"] == pytest.approx(expected, rel=1e-3)


def test_of_values_of_one_sign_the_size_counts_and_not_their_distance() -> None:
    reference = torch.tensor([[10.0, 10.1]])
    assert measured(reference + 0.1, reference, LABELS)["error"] == pytest.approx(0.1 / 10.1, rel=1e-3)


@given(st.integers(0, 14))
def test_the_cosine_is_that_of_the_worst_vector(row: int) -> None:
    reference = reference_of(3, 5, 8)
    output = reference.clone()
    output.view(15, 8)[row] *= -1
    assert measured(output, reference, EMBEDDING)["cosine"] == pytest.approx(-1.0, abs=1e-5)


@given(st.sampled_from([EMBEDDING, TOKEN_LABELS]), st.floats(-(2.0**99), 2.0**99, width=32))
def test_masked_padding_is_ignored(spec: OutputSpec, rubbish: float) -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1] * 5]).bool()
    reference = reference_of(3, 5, 4)
    output = reference + 0.001
    expected = measured(output, reference, spec, mask)
    output[~mask] = rubbish
    assert measured(output, reference, spec, mask) == expected
    reference[~mask] = -rubbish
    assert measured(output, reference, spec, mask) == expected


@given(st.integers(0, 2))
def test_real_tokens_beside_padding_are_not_ignored(row: int) -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1] * 5]).bool()
    reference = reference_of(3, 5, 4)
    output = reference.clone()
    output[row, int(mask[row].sum()) - 1, 0] += 1.0
    assert not passed(output, reference, TOKEN_LABELS, mask)


def test_agreement_is_the_share_of_rows_with_the_same_answer() -> None:
    reference = torch.eye(4) * 4
    output = reference.clone()
    output[0] = torch.tensor([0.0, 0.0, 0.0, 4.0])
    assert measured(reference.clone(), reference, LABELS)["agreement"] == 1.0
    assert measured(output, reference, LABELS)["agreement"] == 0.75
    assert not passed(output, reference, LABELS)


@pytest.mark.parametrize(("margin", "agreement"), [(0.0, 1.0), (0.039, 1.0), (0.041, 0.0)])
def test_another_answer_agrees_only_within_what_both_values_may_be_off(margin: float, agreement: float) -> None:
    # The range is 1 and each of the two values may be off by 0.02 of it.
    reference = torch.tensor([[1.0, 1.0 - margin, 0.0]])
    output = torch.tensor([[0.9, 1.0, 0.0]])
    assert measured(output, reference, LABELS)["agreement"] == agreement


def test_a_tie_in_the_program_is_judged_by_the_answer_it_gives() -> None:
    reference = torch.tensor([[0.0, 1.0]])
    assert measured(torch.tensor([[1.0, 1.0]]), reference, LABELS)["agreement"] == 0.0
    assert measured(torch.tensor([[1.0, 1.0]]), reference.flip(-1), LABELS)["agreement"] == 1.0


def test_the_answer_of_a_span_is_sought_among_the_real_tokens_of_its_row() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    reference = torch.tensor([[0.0, 1.0, 9.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
    same = torch.tensor([[0.0, 1.0, -9.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0, -9.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
    assert measured(same, reference, SPAN, mask) == {"error": 0.0, "agreement": 1.0}
    assert measured(other, reference, SPAN, mask) == {"error": 1.0, "agreement": 0.5}


def test_a_span_of_negative_logits_is_not_lost_to_the_padding() -> None:
    mask = torch.tensor([[1, 1, 0]]).bool()
    reference = torch.tensor([[-5.0, -6.0, 0.0]])
    assert measured(torch.tensor([[-6.0, -5.0, 0.0]]), reference, SPAN, mask)["agreement"] == 0.0
    assert measured(reference.clone(), reference, SPAN, mask)["agreement"] == 1.0


def test_each_kind_of_answer_has_its_own_measures_and_limits() -> None:
    reference = reference_of(2, 3, 4)
    found = {spec.answer: measure(reference, reference, None, spec, LIMITS) for spec in (EMBEDDING, TOKEN_LABELS)}
    assert {m.name: m.limit for m in found["embedding"]} == {"error": 0.01, "cosine": 0.999}
    assert {m.name: m.limit for m in found["argmax"]} == {"error": 0.02, "agreement": 1.0}


def test_fp32_is_held_to_the_order_of_additions_whatever_the_type_says() -> None:
    assert {tolerance("none", kind) for kind in AUTO_CAST_TYPES} == {tolerance("none", "bf16")}
    assert tolerance("none", "bf16").logit_error <= 1e-5


@pytest.mark.parametrize("kind", AUTO_CAST_TYPES)
def test_what_rounds_more_is_allowed_more_and_never_anything_goes(kind: str) -> None:
    none, matmul, everything = (tolerance(cast, kind) for cast in AUTO_CASTS)
    assert none.logit_error < matmul.logit_error <= everything.logit_error <= 0.5
    assert none.cosine >= matmul.cosine >= everything.cosine >= 0.9


def test_fewer_bits_are_allowed_a_larger_error() -> None:
    fine, coarse, coarsest = (tolerance("matmul", kind) for kind in ("fp16", "bf16", "fp8_e4m3"))
    assert fine.logit_error < coarse.logit_error < coarsest.logit_error
    assert coarse.cosine == 0.999
