"""Windows over long texts, beside those that the tokenizer itself would make."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.errors import InvalidOptionError, QuestionTooLongError
from neuronbert.windows import Window, cut

WORDS = "ada lives in lisbon, unbelievably, with 3 dogs"


@given(words=st.integers(1, 60), length=st.integers(8, 24), stride=st.integers(0, 2), pair=st.booleans())
def test_windows_are_the_tokenizers_own(tokenizer: Any, words: int, length: int, stride: int, pair: bool) -> None:
    text = " ".join(WORDS.split()[place % 8] for place in range(words))
    texts = ("who?", text) if pair else (text,)
    encoding = tokenizer(*texts).encodings[0]
    cutting = {"truncation": "only_second" if pair else "only_first", "max_length": length, "stride": stride}
    expected = tokenizer(*texts, **cutting, return_overflowing_tokens=True).encodings
    windows = cut(encoding, int(pair), length, stride)
    for name in ("ids", "type_ids", "offsets", "special_tokens_mask"):
        assert [window.take(name) for window in windows] == [getattr(other, name) for other in expected]


@given(words=st.integers(1, 60), length=st.integers(8, 24), stride=st.integers(0, 4))
def test_every_token_is_in_a_window_and_neighbours_share_the_stride(
    tokenizer: Any, words: int, length: int, stride: int
) -> None:
    encoding = tokenizer("word " * words).encodings[0]
    windows = cut(encoding, 0, length, stride)
    stretches = [window.stretch(0) for window in windows]
    assert sorted({place for stretch in stretches for place in stretch}) == list(Window.whole(encoding).stretch(0))
    assert all(len(window) <= length for window in windows)
    for one, other in pairwise(stretches):
        assert len(set(one) & set(other)) == stride


def test_a_text_that_fits_is_one_window(tokenizer: Any) -> None:
    encoding = tokenizer("Ada lives in Lisbon.").encodings[0]
    (window,) = cut(encoding, 0, len(encoding), 100)
    assert window.take("ids") == encoding.ids


def test_a_question_without_room_for_its_context_is_refused(tokenizer: Any) -> None:
    encoding = tokenizer("why " * 20, "because " * 20).encodings[0]
    with pytest.raises(QuestionTooLongError, match="takes 23 of the 23 tokens"):
        cut(encoding, 1, 23, 0)
    assert len(cut(encoding, 1, 24, 0)) == 20


def test_windows_that_would_not_get_on_are_refused(tokenizer: Any) -> None:
    encoding = tokenizer("word " * 20).encodings[0]
    with pytest.raises(InvalidOptionError, match="stride is 6; it must be less than 6"):
        cut(encoding, 0, 8, 6)
    assert len(cut(encoding, 0, 8, 5)) == 15
