from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuronbert.backends.batching import DynamicBatch


class Fixed:
    """A program of a fixed batch that knows what it was called with."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.rows: list[Tensor] = []

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        assert {tensor.shape[0] for tensor in inputs} == {self.batch_size}
        self.rows.append(inputs[0])
        return inputs[0] * 2.0, inputs[1].sum(dim=tuple(range(1, inputs[1].dim())))


dims = st.lists(st.integers(1, 4), min_size=1, max_size=2)


@given(rows=st.integers(1, 30), batch_size=st.integers(1, 9), dims=dims)
def test_any_rows_are_the_rows_one_by_one(rows: int, batch_size: int, dims: list[int]) -> None:
    program = Fixed(batch_size)
    ids = torch.randn(rows, *dims)
    mask = torch.randint(0, 9, (rows, *dims))
    doubled, summed = DynamicBatch(program, batch_size)(ids, mask)
    assert torch.equal(doubled, ids * 2)
    assert torch.equal(summed, mask.sum(dim=tuple(range(1, mask.dim()))))
    assert len(program.rows) == -(-rows // batch_size)


@given(rows=st.integers(1, 30), batch_size=st.integers(1, 9))
def test_what_fills_up_is_one_of_the_callers_rows(rows: int, batch_size: int) -> None:
    program = Fixed(batch_size)
    ids = torch.arange(1.0, rows + 1)[:, None]
    DynamicBatch(program, batch_size)(ids, ids)
    seen = torch.cat(program.rows)
    assert torch.equal(seen[:rows], ids)
    assert (seen[rows:] == rows).all()


def test_rows_of_the_compiled_batch_are_passed_as_they_are() -> None:
    program: Any = Fixed(3)
    ids = torch.ones(3, 2)
    DynamicBatch(program, 3)(ids, ids)
    assert program.rows[0] is ids
