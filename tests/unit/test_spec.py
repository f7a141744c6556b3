from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.errors import InvalidOptionError, InvalidShapeError
from neuronbert.shapes import StaticShape
from neuronbert.spec import AUTO_CAST_TYPES, AUTO_CASTS, ExportSpec, shapes_of

SHAPE = StaticShape(1, 128)
sizes = st.lists(st.integers(1, 64), min_size=1, max_size=5).map(tuple)


def test_every_documented_auto_cast_is_taken() -> None:
    assert AUTO_CASTS == ("none", "matmul", "all")
    assert AUTO_CAST_TYPES == ("bf16", "fp16", "tf32", "fp8_e4m3")
    for cast in AUTO_CASTS:
        for kind in AUTO_CAST_TYPES:
            spec = ExportSpec(model="m", shapes=(SHAPE,), auto_cast=cast, auto_cast_type=kind)
            assert (spec.auto_cast, spec.auto_cast_type) == (cast, kind)


def test_matrix_products_in_bf16_are_the_default() -> None:
    spec = ExportSpec(model="m", shapes=(SHAPE,))
    assert (spec.auto_cast, spec.auto_cast_type) == ("matmul", "bf16")
    assert not spec.allow_random_weights


@pytest.mark.parametrize(
    ("option", "value"),
    [("model", ""), ("auto_cast", "matmult"), ("auto_cast", ["all"]), ("auto_cast_type", "BF16")],
    ids=str,
)
def test_an_option_out_of_its_range_is_refused_by_name_and_value(option: str, value: Any) -> None:
    given_options: dict[str, Any] = {"model": "m", "shapes": (SHAPE,), option: value}
    with pytest.raises(InvalidOptionError, match=f"^{option} is ") as caught:
        ExportSpec(**given_options)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("shapes", [(), (SHAPE, SHAPE), (SHAPE, StaticShape(2, 8), StaticShape(1, 128))])
def test_no_shape_and_a_shape_given_twice_are_refused(shapes: tuple[StaticShape, ...]) -> None:
    with pytest.raises(InvalidShapeError, match="shapes"):
        ExportSpec(model="m", shapes=shapes)


def test_a_spec_can_not_be_changed() -> None:
    spec = ExportSpec(model="m", shapes=(SHAPE,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.model = "other"  # type: ignore[misc]


@given(sizes, sizes, st.none() | st.integers(1, 4))
def test_every_pair_of_sizes_makes_one_shape_smallest_first(
    batches: tuple[int, ...], lengths: tuple[int, ...], choices: int | None
) -> None:
    shapes = shapes_of(batches, lengths, choices)
    made = [(shape.batch_size, shape.sequence_length) for shape in shapes]
    assert sorted(made) == sorted({(batch, length) for batch in batches for length in lengths})
    assert all(shape.num_choices == choices for shape in shapes)
    tokens = [shape.tokens for shape in shapes]
    assert tokens == sorted(tokens)


@given(sizes, sizes)
def test_the_order_in_which_sizes_are_named_does_not_matter(batches: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    assert shapes_of(batches, lengths) == shapes_of(batches[::-1], lengths[::-1])


@given(sizes, sizes)
def test_the_shapes_of_any_sizes_make_a_spec(batches: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    shapes = shapes_of(batches, lengths)
    assert ExportSpec(model="m", shapes=shapes).shapes == shapes
