from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.errors import InvalidShapeError
from neuronbert.shapes import MAX_TOKENS, StaticShape, chunk, smallest_fit

pairs = st.builds(StaticShape, st.integers(1, 12), st.integers(1, 40))
triples = st.builds(StaticShape, st.integers(1, 6), st.integers(1, 20), st.integers(1, 5))
buckets = st.one_of(st.lists(pairs, max_size=8), st.lists(triples, max_size=8))
calls = st.one_of(
    st.tuples(st.integers(1, 14), st.integers(1, 44)),
    st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 22)),
)


def padded_up(dims: tuple[int, ...], shape: StaticShape) -> bool:
    """Whether padding, which only adds, leads from a call to a shape."""
    return len(dims) == len(shape.dims) and min(b - a for a, b in zip(dims, shape.dims, strict=True)) >= 0


@given(buckets, calls)
def test_the_chosen_shape_fits_and_none_that_fits_is_smaller(shapes: list[StaticShape], dims: tuple[int, ...]) -> None:
    chosen = smallest_fit(shapes, dims)
    fitting = [shape for shape in shapes if padded_up(dims, shape)]
    if chosen is None:
        assert not fitting
    else:
        assert chosen in fitting
        assert all(shape.tokens >= chosen.tokens for shape in fitting)


@given(buckets.flatmap(lambda shapes: st.tuples(st.just(shapes), st.permutations(shapes))), calls)
def test_the_choice_does_not_depend_on_the_order_of_the_shapes(
    orders: tuple[list[StaticShape], list[StaticShape]], dims: tuple[int, ...]
) -> None:
    first, second = (smallest_fit(order, dims) for order in orders)
    assert (first and first.tokens) == (second and second.tokens)


@given(st.one_of(pairs, triples))
def test_a_shape_fits_a_call_of_its_own_dimensions_and_none_that_is_one_larger(shape: StaticShape) -> None:
    assert shape.fits(shape.dims)
    for axis in range(len(shape.dims)):
        larger = tuple(dim + (place == axis) for place, dim in enumerate(shape.dims))
        assert not shape.fits(larger)


def test_of_equally_large_shapes_the_shorter_rows_win() -> None:
    assert smallest_fit([StaticShape(1, 8), StaticShape(2, 4)], (1, 3)) == StaticShape(2, 4)


def test_a_call_with_another_number_of_dimensions_fits_nowhere() -> None:
    assert not StaticShape(4, 8).fits((1, 1, 1))
    assert not StaticShape(4, 8, 2).fits((1, 1))


@given(st.one_of(pairs, triples))
def test_tokens_are_the_product_of_the_dimensions_and_the_name_lists_them(shape: StaticShape) -> None:
    product = 1
    for dim in shape.dims:
        product *= dim
    assert shape.tokens == product
    assert tuple(map(int, shape.name.split("x"))) == shape.dims


@given(st.one_of(pairs, triples))
def test_a_name_says_its_shape(shape: StaticShape) -> None:
    assert StaticShape.parse(shape.name) == shape


@pytest.mark.parametrize(
    "text", ["", "8", "8x", "x128", "8x4x2x1", "8X128", "8 x 128", "-8x128", "8x1.5", "٨x1", "8x128\n"]
)
def test_what_is_no_name_of_a_shape_is_refused(text: str) -> None:
    with pytest.raises(InvalidShapeError, match="8x4x128"):
        StaticShape.parse(text)


@pytest.mark.parametrize("text", ["0x8", "8x0", "1x0x8", "2049x512", "999999999x1"])
def test_a_name_of_a_shape_that_can_not_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidShapeError):
        StaticShape.parse(text)


def test_choices_stand_between_batch_and_sequence() -> None:
    assert StaticShape(1, 128).dims == (1, 128)
    assert StaticShape(1, 128, 4).dims == (1, 4, 128)
    assert StaticShape(1, 128, 4).name == "1x4x128"


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "4", float("nan")], ids=repr)
@pytest.mark.parametrize("name", ["batch_size", "sequence_length", "num_choices"])
def test_a_size_that_is_no_whole_number_of_one_or_more_is_refused_by_name(name: str, value: object) -> None:
    sizes: dict[str, object] = {"batch_size": 1, "sequence_length": 1, "num_choices": 1, name: value}
    with pytest.raises(InvalidShapeError, match=name):
        StaticShape(**sizes)  # type: ignore[arg-type]


def test_the_limit_on_tokens_is_the_last_one_allowed() -> None:
    assert StaticShape(2048, 512).tokens == MAX_TOKENS
    for shape in ((2049, 512, None), (2048, 513, None), (1024, 512, 3)):
        with pytest.raises(InvalidShapeError, match=str(MAX_TOKENS)):
            StaticShape(*shape)


def test_an_absurdly_large_size_is_refused_like_any_other() -> None:
    with pytest.raises(InvalidShapeError):
        StaticShape(10**5000, 1)


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 64)), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 64), max_size=40),
)
def test_rows_are_split_over_calls_that_fit(sizes: list[tuple[int, int]], lengths: list[int]) -> None:
    shapes = [StaticShape(*size) for size in sizes]
    chunks = chunk(shapes, lengths)
    assert [index for some in chunks for index in some] == list(range(len(lengths)))
    for some in chunks:
        dims = (len(some), max(lengths[index] for index in some))
        fitting = any(shape.fits(dims) for shape in shapes)
        assert fitting or len(some) == 1, "a row that fits nowhere stands alone, and is refused when it is run"


def test_a_call_takes_as_many_rows_as_fit() -> None:
    shapes = [StaticShape(4, 8), StaticShape(1, 32)]
    assert chunk(shapes, [5, 5, 5, 5, 5, 20, 5]) == [range(4), range(4, 5), range(5, 6), range(6, 7)]
