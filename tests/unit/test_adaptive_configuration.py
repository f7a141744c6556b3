from __future__ import annotations

import ast
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuronbert.adaptive.configuration import check, check_layers, parse, scale, spell
from neuronbert.adaptive.cost import EncoderSize
from neuronbert.errors import InvalidOptionError

BERT = EncoderSize(12, 768, 3072)
TINYBERT = EncoderSize(6, 768, 3072)
MINILM = EncoderSize(6, 384, 1536)
PUBLISHED = (
    (BERT, None, "35.3"),
    (TINYBERT, None, "17.7"),
    (MINILM, None, "4.76"),
    (MINILM, (269, 253, 252, 202, 104, 34), "2.49"),
    (MINILM, (315, 251, 242, 159, 142, 33), "2.55"),
)
"""What dynamic BERT's authors print of rows of 384 tokens, in billions."""


def non_increasing(most: int = 512) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(2, most), min_size=1, max_size=12).map(lambda found: tuple(sorted(found, reverse=True)))


@pytest.mark.parametrize(("size", "lengths", "printed"), PUBLISHED, ids=lambda value: str(value))
def test_the_five_published_costs(size: EncoderSize, lengths: tuple[int, ...] | None, printed: str) -> None:
    products = size.macs(384, lengths)
    # Theirs were counted by a profiler, which takes a LayerNorm for a multiply-add a value, and sees the span head.
    widths = [384, *(lengths or (384,) * size.layers)]
    norms = 384 + sum(before + after for before, after in pairwise(widths))
    counted = products + norms * size.hidden + 384 * size.hidden * 2
    assert f"{counted / 1e9:.{len(printed.partition('.')[2])}f}" == printed
    assert products == pytest.approx(counted, rel=1e-3)


@given(non_increasing())
def test_what_is_spelled_is_read_again_and_is_a_literal(lengths: tuple[int, ...]) -> None:
    assert parse("length_config", spell(lengths)) == lengths == ast.literal_eval(spell(lengths))
    assert parse("length_config", str(list(lengths))) == lengths
    assert parse("length_config", " , ".join(map(str, lengths))) == lengths


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "()",
            "[]",
            "(96",
            "96)",
            "[96)",
            "([96])",
            "(96,,80)",
            ",",
            "(,96)",
            "(96 80)",
            "(96; 80)",
            "96.0",
            "1e2",
        ),
        *(
            "(-96, 80)",
            "(+96,)",
            "(0x10,)",
            "(1_000,)",
            "(True, True)",
            "None",
            "('96',)",
            "((96,), 80)",
            "(96, 80)\n(1,)",
        ),
        *("__import__('os').system('id')", "(9**9**9,)", "(96, 80) if 1 else 0", "{96, 80}", "(96, \x00)", "(٣٢, ٣٢)"),
        *("(" * 9000, "(99999999, 2)", "(" + "9" * 5000 + ",)", "(" + "2, " * 9000 + ")", "\x1b[31m(96,)"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_literal_tuple_of_numbers_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"^length_config is ") as caught:
        parse("length_config", text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(99999999, 2)", "numbers of at most 9999999"),
        ("9" * 5000, "numbers of at most 9999999"),
        ("(-96, 80)", "each 2 or more"),
        ("-96", "each 2 or more"),
        ("(96, 80", "whole numbers"),
        ("96-80", "whole numbers"),
    ],
    ids=lambda text: text[:20],
)
def test_numbers_of_another_size_are_called_numbers(text: str, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        parse("length_config", text)


@given(st.text(max_size=40))
@example("(96, 80, 64)")
def test_a_text_is_read_as_python_would_or_refused(text: str) -> None:
    try:
        found = parse("length_config", text)
    except InvalidOptionError:
        return
    assert found == tuple(
        int(part) for part in text.strip("()[] \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85").split(",") if part.strip()
    )


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ((96, 80), "one number for each of the model's 3 layers, not 2"),
        ((96, 80, 64, 48), "one number for each of the model's 3 layers, not 4"),
        ((64, 80, 48), "80 follows 64"),
        ((96, 80, 1), "each 2 or more"),
        ((96, 80, 0), "each 2 or more"),
        ((129, 80, 64), "no longer than the 128 tokens"),
        ((96, 80.0, 64), "whole numbers"),
        ((96, True, True), "whole numbers"),
        ([96, 80, 64], "whole numbers"),
        ("(96, 80, 64)", "whole numbers"),
        ((), "whole numbers"),
        (None, "whole numbers"),
    ],
    ids=str,
)
def test_what_is_no_configuration_of_the_model_is_refused_and_says_why(lengths: Any, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"^length_config is ") as caught:
        check(lengths, 3, 128)
    assert said in str(caught.value)


def test_a_configuration_of_the_model_is_taken() -> None:
    check((128, 128, 2), 3, 128)
    check_layers((0, 2), 3)
    check_layers((0, 1, 2), 3)


@pytest.mark.parametrize("chosen", [(), (3,), (-1,), (0, 0), (2, 1), (0, True), [0, 1], (0, 1, 2, 3), "all"], ids=str)
def test_what_is_no_choice_of_layers_is_refused(chosen: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"^layer_config is "):
        check_layers(chosen, 3)


@given(non_increasing(), st.integers(2, 512))
def test_a_scaled_configuration_is_one_for_its_length(lengths: tuple[int, ...], length: int) -> None:
    scaled = scale(lengths, 512, length)
    check(scaled, len(lengths), length)
    assert scale(lengths, 512, 512) == lengths
    assert all(kept * 512 >= before * length for kept, before in zip(scaled, lengths, strict=True))


def test_rows_of_one_token_have_no_scaled_configuration() -> None:
    with pytest.raises(InvalidOptionError, match="sequence_length"):
        scale((4, 2), 16, 1)


@given(non_increasing(128), st.data())
def test_keeping_less_costs_less_and_skipped_layers_cost_nothing(lengths: tuple[int, ...], data: st.DataObject) -> None:
    size = EncoderSize(len(lengths), 32, 64)
    assert size.macs(128, lengths) <= size.macs(128)
    assert size.macs(128, (128,) * len(lengths)) == size.macs(128)
    layer = data.draw(st.integers(0, len(lengths) - 1))
    less = tuple(min(length, lengths[layer] - 1) if index >= layer else length for index, length in enumerate(lengths))
    assert size.macs(128, less) < size.macs(128, lengths)
    assert size.macs(128, lengths, range(layer)) < size.macs(128, lengths)
    assert size.macs(128, lengths, range(len(lengths))) == size.macs(128, lengths)
