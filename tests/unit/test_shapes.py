from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.errors import InvalidShapeError
from neuronbert.shapes import MAX_TOKENS, StaticShape

pairs = st.builds(StaticShape, st.integers(1, 12), st.integers(1, 40))
triples = st.builds(StaticShape, st.integers(1, 6), st.integers(1, 20), st.integers(1, 5))


@given(st.one_of(pairs, triples))
def test_tokens_are_the_product_of_the_dimensions_and_the_name_lists_them(shape: StaticShape) -> None:
    product = 1
    for dim in shape.dims:
        product *= dim
    assert shape.tokens == product
    assert tuple(map(int, shape.name.split("x"))) == shape.dims


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
