from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuronbert.errors import OutputsTooLargeError
from neuronbert.manifest import InputSpec, OutputSpec
from neuronbert.padding import allocate, pad, scatter, unpad
from tests.unit.builders import INPUTS

Dims = tuple[int, ...]


@st.composite
def calls(draw: st.DrawFn) -> tuple[Dims, Dims]:
    """A call's dimensions, and those of a static shape that it fits in."""
    given = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))
    return given, tuple(size + draw(st.integers(0, 4)) for size in given)


def make_inputs(dims: Dims) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, 60, dims, generator=generator), torch.ones(dims).long(), torch.ones(dims).long()]


def make_outputs(dims: Dims) -> tuple[list[OutputSpec], list[Tensor]]:
    """Every kind of output that a program of these dimensions gives, each value another one."""
    kinds: list[tuple[str, ...]] = [("batch", "sequence", "hidden"), ("batch", "hidden"), ("batch", "sequence")]
    sizes = {"batch": dims[0], "choices": dims[1], "sequence": dims[-1], "hidden": 3}
    kinds = [("batch", "choices")] if len(dims) == 3 else kinds
    specs = [OutputSpec(name="-".join(kind), dims=kind, answer="argmax") for kind in kinds]
    shapes = [[sizes[name] for name in kind] for kind in kinds]
    return specs, [torch.arange(float(torch.Size(shape).numel())).view(shape) for shape in shapes]


@given(calls())
def test_real_entries_are_untouched_and_the_rest_is_each_inputs_own_padding(call: tuple[Dims, Dims]) -> None:
    dims, room = call
    tensors = make_inputs(dims)
    for tensor, padded, spec in zip(tensors, pad(tensors, INPUTS, room), INPUTS, strict=True):
        assert padded.shape == room
        assert padded.dtype == torch.int64
        for place in product(*map(range, room)):
            real = all(index < size for index, size in zip(place, dims, strict=True))
            of_a_padded_row = not all(index < size for index, size in zip(place[:-1], dims[:-1], strict=True))
            if real:
                assert padded[place] == tensor[place]
            elif spec.name == "attention_mask" and of_a_padded_row:
                assert padded[place] == (place[-1] == 0)
            else:
                assert padded[place] == spec.padding


@given(calls())
def test_every_row_attends_to_something(call: tuple[Dims, Dims]) -> None:
    dims, room = call
    mask = pad(make_inputs(dims), INPUTS, room)[1]
    assert mask.sum(dim=-1).min() >= 1


@given(calls())
def test_the_callers_own_tensors_are_not_changed(call: tuple[Dims, Dims]) -> None:
    dims, room = call
    tensors = make_inputs(dims)
    before = [tensor.clone() for tensor in tensors]
    pad(tensors, INPUTS, room)
    assert all(torch.equal(tensor, held) for tensor, held in zip(tensors, before, strict=True))


def test_a_row_that_the_caller_masked_out_stays_masked_out() -> None:
    tensors = make_inputs((2, 3))
    tensors[1][1] = 0
    mask = pad(tensors, INPUTS, (4, 5))[1]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [0] * 5, [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_a_padded_choice_attends_to_its_first_token() -> None:
    mask = pad(make_inputs((1, 2, 2)), INPUTS, (2, 3, 3))[1]
    assert mask.tolist() == [[[1, 1, 0], [1, 1, 0], [1, 0, 0]], [[1, 0, 0]] * 3]


@given(calls())
def test_pad_then_unpad_is_identity(call: tuple[Dims, Dims]) -> None:
    dims, room = call
    names = ("batch", "sequence") if len(dims) == 2 else ("batch", "choices", "sequence")
    specs = [OutputSpec(name=spec.name, dims=names, answer="argmax") for spec in INPUTS]
    tensors = make_inputs(dims)
    back = unpad(pad(tensors, INPUTS, room), specs, dims)
    assert all(torch.equal(one, other) for one, other in zip(back, tensors, strict=True))


@given(calls())
def test_padding_rows_never_reach_the_caller(call: tuple[Dims, Dims]) -> None:
    dims, room = call
    specs, outputs = make_outputs(room)
    sizes = {"batch": dims[0], "choices": dims[1], "sequence": dims[-1], "hidden": 3}
    for spec, output, back in zip(specs, outputs, unpad(outputs, specs, dims), strict=True):
        assert torch.equal(back, output[tuple(slice(0, sizes[name]) for name in spec.dims)])


def test_a_full_call_is_passed_on_as_it_is() -> None:
    for dims in ((2, 3), (2, 3, 4)):
        tensors = make_inputs(dims)
        assert all(torch.equal(one, other) for one, other in zip(pad(tensors, INPUTS, dims), tensors, strict=True))


def test_a_dimension_that_only_happens_to_be_as_long_is_not_cut() -> None:
    spec = OutputSpec(name="pooled", dims=("batch", "hidden"), size=8, answer="embedding")
    [back] = unpad([torch.zeros(4, 8)], [spec], (2, 3))
    assert back.shape == (2, 8)


def test_an_input_without_a_mask_is_padded_too() -> None:
    spec = InputSpec(name="input_ids", maximum=9, padding=7)
    [padded] = pad([torch.zeros(1, 1).long()], [spec], (2, 2))
    assert padded.tolist() == [[0, 7], [7, 7]]


@given(calls(), st.permutations(range(5)))
def test_calls_are_put_together_where_their_rows_are(call: tuple[Dims, Dims], order: list[int]) -> None:
    dims, _ = call
    specs, outputs = make_outputs(dims)
    specs = [spec.model_copy(update={"size": 3 if spec.dims[-1] == "hidden" else None}) for spec in specs]
    places = [place for place in order if place < dims[0]]
    room = allocate(specs, dims, filled=True)
    for place in places:
        of_row = [output[place : place + 1] for output in outputs]
        scatter(of_row, specs, torch.tensor([place]), room)
    assert all(torch.equal(one, other) for one, other in zip(room, outputs, strict=True))


def test_room_is_zeros_or_the_lowest_number_where_the_largest_is_the_answer() -> None:
    kinds = ("batch", "sequence", "hidden"), ("batch", "sequence")
    specs = [
        OutputSpec(name="hidden", dims=kinds[0], size=2, answer="embedding"),
        OutputSpec(name="start", dims=kinds[1], answer="span"),
    ]
    hidden, start = allocate(specs, (2, 4), filled=True)
    assert hidden.eq(0).all()
    assert start.eq(torch.finfo(torch.float32).min).all()
    scatter([torch.ones(1, 3, 2), torch.ones(1, 3)], specs, torch.tensor([1]), [hidden, start])
    assert hidden.sum(dim=-1).tolist() == [[0] * 4, [2, 2, 2, 0]]
    assert (start == 1).tolist() == [[False] * 4, [True, True, True, False]]


def test_more_than_memory_holds_is_one_line() -> None:
    spec = OutputSpec(name="hidden", dims=("batch", "sequence", "hidden"), size=1024, answer="embedding")
    with pytest.raises(OutputsTooLargeError, match=r"The outputs of 1099511627776 rows take 2305843009\.2 GB"):
        allocate([spec], (1 << 40, 512), filled=False)
