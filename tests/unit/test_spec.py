from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.errors import InvalidOptionError, InvalidShapeError
from neuronbert.shapes import StaticShape
from neuronbert.spec import AUTO_CAST_TYPES, AUTO_CASTS, TARGET_OPTIONS, ExportSpec, shapes_of
from tests.unit.builders import run_python

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


BASE = ExportSpec("m", (SHAPE,), "fill-mask", target="inf2")
CHANGES: dict[str, Any] = {
    "task": "feature-extraction",
    "shapes": (StaticShape(2, 128),),
    "target": "trn1",
    "auto_cast": "all",
    "auto_cast_type": "fp16",
    "quantization": "qdq",
    "allow_random_weights": True,
    "dynamic_batch": True,
    "optlevel": "3",
    "lnc": 1,
    "compiler_args": ("--verbose", "info"),
    "inline_weights": False,
    "lazy_load": True,
    "async_load": True,
}
PLACES: dict[str, Any] = {"model": "n", "revision": "main", "compiler_workdir": "/tmp/work"}


def test_every_field_is_known_to_change_the_program_or_not() -> None:
    assert {field.name for field in dataclasses.fields(ExportSpec)} == {*CHANGES, *PLACES}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_changes_the_program_changes_the_fingerprint(name: str) -> None:
    """Random weights too: they are in no digest, and whoever didn't ask for them must not be given them."""
    assert dataclasses.replace(BASE, **{name: CHANGES[name]}).fingerprint() != BASE.fingerprint()


@pytest.mark.parametrize("name", sorted(PLACES))
def test_what_is_only_a_place_does_not(name: str) -> None:
    assert dataclasses.replace(BASE, **{name: PLACES[name]}).fingerprint() == BASE.fingerprint()


def test_no_two_changes_have_one_fingerprint() -> None:
    specs = [BASE, *(dataclasses.replace(BASE, **{name: value}) for name, value in CHANGES.items())]
    specs += [dataclasses.replace(BASE, lnc=2), dataclasses.replace(BASE, optlevel="1")]
    specs += [dataclasses.replace(BASE, compiler_args=words) for words in (("a", "b"), ("ab",), ("a,b",), ('a","b',))]
    specs += [dataclasses.replace(BASE, shapes=(SHAPE, StaticShape(2, 128)))]
    prints = [spec.fingerprint() for spec in specs]
    assert len(set(prints)) == len(prints)
    assert all(len(value) == 64 for value in prints)


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "from neuronbert import ExportSpec, StaticShape\n"
        "print(ExportSpec('other', (StaticShape(1, 128),), 'fill-mask', target='inf2').fingerprint())"
    )
    assert run_python(code).strip() == BASE.fingerprint()


def test_target_options_are_those_that_were_given() -> None:
    assert BASE.target_options() == {}
    assert ExportSpec("m", (SHAPE,), auto_cast="all", dynamic_batch=True).target_options() == {}
    given_options = {name: {**CHANGES, **PLACES}[name] for name in TARGET_OPTIONS}
    assert dataclasses.replace(BASE, **given_options).target_options() == given_options
    assert dataclasses.replace(BASE, optlevel="2", lnc=None).target_options() == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("optlevel", "4", "one of '1', '2', '3'"),
        ("optlevel", 2, "one of '1', '2', '3'"),
        ("lnc", 0, "1 or 2"),
        ("lnc", 3, "1 or 2"),
        ("lnc", True, "1 or 2"),
        ("lnc", "2", "1 or 2"),
        ("compiler_args", "--verbose info", "a tuple of words"),
        ("compiler_args", ["--verbose"], "a tuple of words"),
        ("compiler_args", ("--verbose info",), "a tuple of words"),
        ("compiler_args", ("",), "a tuple of words"),
        ("compiler_args", ("--verbose", None), "a tuple of words"),
    ],
)
def test_a_target_option_out_of_its_range_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"^{name} is ") as caught:
        dataclasses.replace(BASE, **{name: value})
    assert f"it must be {expected}" in str(caught.value)
