from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.inputs import SAMPLE_TEXTS, Batch, example, validation_batches
from neuronbert.shapes import StaticShape
from tests.unit.builders import INPUTS

shapes = st.builds(StaticShape, st.integers(1, 4), st.integers(1, 20), st.none() | st.integers(1, 3))
SHAPE = StaticShape(4, 16)


def batches_of(shape: StaticShape, seed: int = 0) -> dict[str, Batch]:
    return {batch.name: batch for batch in validation_batches(INPUTS, shape, None, seed)}


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(value, other.inputs[name]) for name, value in one.inputs.items())


@given(shapes)
def test_an_example_fills_its_shape_with_values_that_the_inputs_take(shape: StaticShape) -> None:
    tensors = example(INPUTS, shape)
    assert len(tensors) == len(INPUTS)
    for tensor, spec in zip(tensors, INPUTS, strict=True):
        assert tensor.shape == shape.dims
        assert tensor.dtype == torch.int64
        assert int(tensor.min()) >= 0
        assert int(tensor.max()) <= spec.maximum


def test_an_example_is_the_same_each_time_and_leaves_torchs_own_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = example(INPUTS, SHAPE), example(INPUTS, SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_example_has_a_second_segment_and_attends_everywhere() -> None:
    _, mask, segments = example(INPUTS, StaticShape(1, 5))
    assert mask.tolist() == [[1] * 5]
    assert segments.tolist() == [[0, 0, 0, 1, 1]]


def test_a_model_of_one_segment_gets_only_that_one() -> None:
    single = [spec.model_copy(update={"maximum": 0}) if "type" in spec.name else spec for spec in INPUTS]
    assert int(example(single, SHAPE)[2].max()) == 0


@given(shapes)
def test_every_batch_fits_its_shape_and_every_row_has_a_token(shape: StaticShape) -> None:
    for batch in batches_of(shape).values():
        assert list(batch.inputs) == [spec.name for spec in INPUTS]
        for spec in INPUTS:
            tensor = batch.inputs[spec.name]
            assert all(have <= room for have, room in zip(tensor.shape, shape.dims, strict=True))
            assert int(tensor.min()) >= 0
            assert int(tensor.max()) <= spec.maximum
        assert int(batch.inputs["attention_mask"].sum(dim=-1).min()) >= 1


@given(shapes)
def test_the_mixed_rows_are_padded_at_the_end_and_one_of_them_is_full(shape: StaticShape) -> None:
    inputs = batches_of(shape)["mixed"].inputs
    mask = inputs["attention_mask"]
    assert torch.equal(mask.cummin(dim=-1).values, mask)
    assert int(mask.sum(dim=-1).max()) == shape.sequence_length
    for spec in INPUTS:
        assert (inputs[spec.name][mask == 0] == spec.padding).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("full", (4, 2, 16)), ("short", (4, 2, 5)), ("single-row", (1, 2, 8)), ("mixed", (4, 2, 16))],
)
def test_the_batches_are_of_all_the_sizes_that_a_loader_pads(name: str, expected: tuple[int, ...]) -> None:
    batch = batches_of(StaticShape(4, 16, 2))[name]
    assert {tuple(tensor.shape) for tensor in batch.inputs.values()} == {expected}


def test_batches_repeat_under_a_seed_and_differ_between_seeds() -> None:
    first, again, other = batches_of(SHAPE, 1), batches_of(SHAPE, 1), batches_of(SHAPE, 2)
    assert all(equal(first[name], again[name]) for name in first)
    assert not any(equal(first[name], other[name]) for name in first)


def test_the_mixed_rows_are_of_different_lengths() -> None:
    lengths = batches_of(StaticShape(8, 64))["mixed"].inputs["attention_mask"].sum(dim=-1)
    assert len(set(lengths.tolist())) > 3


def test_texts_come_last_and_as_they_are() -> None:
    texts = {"input_ids": torch.ones(1, 2).long()}
    *_, last = validation_batches(INPUTS, SHAPE, texts)
    assert last.name == "text"
    assert last.inputs == texts


@pytest.mark.parametrize("measure", [len, lambda text: text.count(" ")], ids=["letters", "words"])
def test_the_sample_texts_are_of_mixed_lengths(measure: Callable[[str], int]) -> None:
    sizes = sorted(map(measure, SAMPLE_TEXTS))
    assert sizes[0] * 4 < sizes[-1]
