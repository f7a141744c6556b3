from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert import columns, errors

NAMES = st.lists(st.text(max_size=3), unique=True, min_size=1, max_size=4)


@given(NAMES, st.integers(1, 5), st.data())
def test_rows_and_columns_are_each_others_inverse(names: list[str], size: int, data: st.DataObject) -> None:
    batch = {name: data.draw(st.lists(st.integers(), min_size=size, max_size=size)) for name in names}
    rows = columns.to_rows(batch)
    assert [[row[name] for row in rows] for name in names] == list(batch.values())
    assert columns.from_replies(rows, kept={"another name"}) == batch
    with pytest.raises(errors.InvalidOptionError, match="must be called otherwise"):
        columns.from_replies(rows, kept=names[-1:])


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ([{"text": "A."}], "batch=\\['list'\\]|list"),
        ({"text": "A."}, "a column"),
        ({"text": None}, "a column"),
        ({"text": ["A.", "B."], "idx": [0]}, "one length"),
    ],
)
def test_what_isnt_columns_is_refused(batch: Any, said: str) -> None:
    with pytest.raises(errors.InvalidOptionError, match=said):
        columns.to_rows(batch)
