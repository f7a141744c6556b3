"""The re-orderings of packed attention weights and the joining of tensor-parallel parts, over drawn shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.megatron.merging import VERSIONS, Division, extract, merge, part_shape
from tests.support.megatron import pack_rows

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.booleans())
PACKED: tuple[Division, ...] = ("query", "key", "value")


def numbered(rows: int, columns: int | None, start: int) -> torch.Tensor:
    dims = (rows,) if columns is None else (rows, columns)
    return torch.arange(torch.Size(dims).numel()).view(dims) + start


@given(shape=SHAPES, version=st.sampled_from(VERSIONS))
def test_packed_rows_of_any_version_come_apart_as_they_were(shape: tuple[int, int, int, bool], version: float) -> None:
    size, per_part, parts, is_bias = shape
    heads = per_part * parts
    whole = [numbered(heads * size, None if is_bias else 3, 10_000 * part) for part in range(3)]
    packed = [
        pack_rows(*(tensor.chunk(parts)[rank] for tensor in whole), per_part, version)  # type: ignore[call-arg]
        for rank in range(parts)
    ]
    for division, expected in zip(PACKED, whole, strict=True):
        assert torch.equal(merge(packed, division, heads, version), expected)
        assert packed[0].shape == part_shape(expected.shape, division, parts)


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), parts=st.integers(1, 4))
def test_rows_and_columns_are_joined_in_the_order_of_the_ranks(rows: int, columns: int, parts: int) -> None:
    for division, axis, shape in (("rows", 0, (rows * parts, columns)), ("columns", 1, (rows, columns * parts))):
        whole = numbered(*shape, 0)
        divided = whole.chunk(parts, dim=axis)
        assert torch.equal(merge(divided, division, 1, 3.0), whole)
        assert divided[0].shape == part_shape(shape, division, parts)


def test_copies_are_taken_from_the_first_rank() -> None:
    first, second = numbered(3, 2, 0), numbered(3, 2, 7)
    assert merge([first, second], "none", 1, 3.0) is first
    assert part_shape((3, 2), "none", 2) == (3, 2)


def test_parts_of_version_0_one_after_the_other_would_be_no_matrix() -> None:
    whole = [numbered(8, 3, 1000 * part) for part in range(3)]
    parts = [pack_rows(*(tensor.chunk(2)[rank] for tensor in whole), 2, 0) for rank in range(2)]
    joined = torch.cat(parts)
    assert not torch.equal(extract(joined, "query", 4, 0.0), whole[0])
    assert torch.equal(merge(parts, "query", 4, 0.0), whole[0])


@pytest.mark.parametrize(("version", "other"), [(0.0, 1.0), (1.0, 2.0), (0.0, 3.0)])
def test_another_versions_order_gives_other_weights(version: float, other: float) -> None:
    packed = numbered(24, 2, 0)
    assert not torch.equal(extract(packed, "key", 4, version), extract(packed, "key", 4, other))
