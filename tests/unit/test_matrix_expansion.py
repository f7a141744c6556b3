from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.architectures import TASKS
from neuronbert.backends.registry import TARGETS
from neuronbert.errors import MatrixError, MissingFileError
from neuronbert.matrix.expansion import MAX_CELLS, expand, load
from neuronbert.matrix.schema import Definition
from neuronbert.shapes import StaticShape

CONFIG = {"model_type": "bert", "hidden_size": 32}
AXES = ("model", "task", "shape", "target", "auto_cast")


def cells_of(body: dict[str, Any]) -> list[tuple[str, ...]]:
    problems: list[str] = []
    cells = expand(Definition.model_validate(body), problems)
    assert not problems
    return [tuple(getattr(cell, axis) for axis in AXES) for cell in cells]


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


axes = st.fixed_dictionaries(
    {
        "tasks": some(sorted(set(TASKS) - {"multiple-choice"})),
        "shapes": some(["1x16", "2x16", "1x32", "1x16+2x32"]),
        "targets": some(list(TARGETS)),
        "auto_casts": some(["none", "matmul-bf16", "all-tf32"]),
    }
)
models = st.integers(1, 3).map(lambda count: [{"name": f"m{n}", "config": CONFIG} for n in range(count)])


@given(models, axes)
def test_without_exclude_and_include_it_is_the_product_in_the_order_of_the_file(models: Any, axes: Any) -> None:
    assert cells_of({**axes, "models": models}) == list(
        product([model["name"] for model in models], axes["tasks"], axes["shapes"], axes["targets"], axes["auto_casts"])
    )


@given(models, axes, st.data())
def test_exclude_takes_away_exactly_what_matches_all_its_values(models: Any, axes: Any, data: st.DataObject) -> None:
    whole = cells_of({**axes, "models": models})
    victim = data.draw(st.sampled_from(whole))
    named = data.draw(st.lists(st.sampled_from(range(5)), min_size=1, unique=True))
    selection = {AXES[number]: victim[number] for number in named}
    left = [cell for cell in whole if not all(cell[number] == victim[number] for number in named)]
    body = {**axes, "models": models, "exclude": [selection]}
    if left:
        assert cells_of(body) == left
    else:
        problems: list[str] = []
        expand(Definition.model_validate(body), problems)
        assert problems == ["no cell is left"]


@given(models, axes, st.data())
def test_include_adds_after_exclude_and_nothing_twice(models: Any, axes: Any, data: st.DataObject) -> None:
    whole = cells_of({**axes, "models": models})
    chosen = data.draw(st.sampled_from(whole))
    again = dict(zip(AXES, chosen, strict=True))
    more = {**again, "shape": ["3x8", chosen[2]]}
    found = cells_of({**axes, "models": models, "include": [again]})
    assert found == whole
    body = {**axes, "models": models, "exclude": [{"model": chosen[0]}], "include": [more]}
    found = cells_of(body)
    assert found == [
        *(cell for cell in whole if cell[0] != chosen[0]),
        (*chosen[:2], "3x8", *chosen[3:]),
        chosen,
    ]


def test_what_an_include_leaves_out_has_the_values_of_its_model() -> None:
    found = cells_of(
        {
            "tasks": "fill-mask",
            "targets": ["cpu", "inf2"],
            "models": [{"name": "a", "config": CONFIG, "shapes": ["1x8"]}],
            "include": [{"model": "a", "auto_cast": ["none"]}],
        }
    )
    assert found == [
        ("a", "fill-mask", "1x8", target, cast) for cast in ("matmul-bf16", "none") for target in ("cpu", "inf2")
    ]


def test_a_model_has_its_own_values_and_a_plain_name_is_a_checkpoint() -> None:
    found = cells_of({"models": ["org/bert-base", {"model": "some/folder/", "shapes": "2x8", "auto_casts": "all"}]})
    assert found == [
        ("bert-base", "auto", "1x128", "cpu", "matmul-bf16"),
        ("folder", "auto", "2x8", "cpu", "all-bf16"),
    ]


def test_options_go_to_the_target_that_they_are_for() -> None:
    body = {
        "models": [{"model": "a", "options": {"inf2": {"optlevel": 3, "compiler_args": ["--x"]}}}],
        "targets": ["cpu", "inf2", "trn2"],
        "options": {"trn2": {"lnc": 1}, "inf2": {"optlevel": "1", "inline_weights": False}},
    }
    cells = expand(Definition.model_validate(body), [])
    assert [cell.options.model_dump(exclude_none=True) for cell in cells] == [
        {},
        {"optlevel": "3", "compiler_args": ("--x",)},
        {"lnc": 1},
    ]


def test_choices_are_for_multiple_choice_and_for_what_may_turn_out_to_be_that() -> None:
    body = {"num_choices": 4, "shapes": "2x8+1x16", "models": [{"name": "a", "config": CONFIG}]}
    body["tasks"] = ["multiple-choice", "fill-mask"]
    multiple, fill = expand(Definition.model_validate(body), [])
    assert multiple.shapes("multiple-choice") == (StaticShape(2, 8, 4), StaticShape(1, 16, 4))
    assert fill.shapes("fill-mask") == (StaticShape(2, 8), StaticShape(1, 16))
    assert fill.num_choices is None
    (auto,) = expand(Definition.model_validate({"num_choices": 4, "models": ["a"]}), [])
    assert auto.shapes("multiple-choice") == (StaticShape(1, 128, 4),)
    assert auto.shapes("fill-mask") == (StaticShape(1, 128),)


GOOD = {"name": "a", "config": CONFIG, "tasks": ["fill-mask"]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([1], "input should be a valid dictionary"),
        ({}, "models: field required"),
        ({"models": []}, "models: value should have at least 1 item"),
        ({"models": [{}]}, "models.0: give either model or config"),
        ({"models": [{"model": "a", "config": CONFIG}]}, "models.0: give either model or config"),
        ({"models": [{"config": CONFIG}]}, "models.0: a model made from a config needs a name"),
        ({"models": [{"name": "a", "config": {}}]}, "config.model_type must be one of"),
        ({"models": [{**GOOD, "revision": "main"}]}, "revision and allow_random_weights are for a checkpoint"),
        ({"models": [{**GOOD, "tasks": None}]}, "a model made from a config has no task of its own"),
        ({"models": [{**GOOD, "config": {**CONFIG, "list": [1]}}]}, "models.0.config.list"),
        ({"models": [{**GOOD, "config": {**CONFIG, "x": float("nan")}}]}, "models.0.config.x"),
        ({"models": ["a\x1b[31m"]}, "a name is printable and not empty"),
        ({"models": [" "]}, "a name is printable and not empty"),
        ({"models": ["x/a", "y/a"]}, "several are called 'a'"),
        ({"models": [GOOD], "tasks": ["poetry"]}, "tasks.0: there is no task 'poetry'"),
        ({"models": [GOOD], "tasks": []}, "tasks: value should have at least 1 item"),
        ({"models": [GOOD], "tasks": ["auto", "auto"]}, "tasks: 'auto' is given twice"),
        ({"models": [GOOD], "auto_casts": ["all", "all-bf16"]}, "auto_casts: 'all-bf16' is given twice"),
        ({"models": [GOOD], "targets": "tpu"}, "targets.0: there is no target 'tpu'"),
        ({"models": [GOOD], "targets": "auto"}, "targets.0: there is no target 'auto'"),
        ({"models": [GOOD], "auto_casts": "bf16"}, "auto_casts.0: there is no auto-cast 'bf16'"),
        ({"models": [GOOD], "auto_casts": "none-bf16"}, "auto_casts.0: there is no auto-cast 'none-bf16'"),
        ({"models": [GOOD], "shapes": "0x16"}, "shapes.0: batch_size is 0"),
        ({"models": [GOOD], "shapes": 128}, "shapes.0: input should be a valid string"),
        ({"models": [GOOD], "shapes": "1x2x3"}, "rows x tokens"),
        ({"models": [GOOD], "shapes": "1x16+01x016"}, "has a shape twice"),
        ({"models": [GOOD], "shapes": "9999x9999"}, "at most 1048576 tokens"),
        ({"models": [GOOD], "num_choices": 0}, "num_choices: input should be greater"),
        ({"models": [{**GOOD, "tasks": "multiple-choice"}]}, "models.0: multiple-choice needs num_choices"),
        (
            {"models": [{**GOOD, "tasks": "multiple-choice"}], "num_choices": 1000, "shapes": "99x99"},
            "at most 1048576 tokens",
        ),
        ({"models": [GOOD], "speling": 1}, "speling: extra inputs are not permitted"),
        ({"models": [GOOD], "exclude": [{}]}, "exclude.0: name at least one axis"),
        ({"models": [GOOD], "exclude": [{"model": "b"}]}, "exclude.0: matches no cell"),
        ({"models": [GOOD], "exclude": [{"model": "a"}]}, "no cell is left"),
        ({"models": [GOOD], "include": [{"task": "fill-mask"}]}, "include.0: model must name models of this matrix"),
        ({"models": [GOOD], "include": [{"model": ["a", "b"]}]}, "include.0: model must name models of this matrix"),
        ({"models": [GOOD], "options": {"gpu": {}}}, "there is no target 'gpu'"),
        ({"models": [GOOD], "options": {"trn2": {"lnc": 3}}}, "options.trn2.lnc"),
        ({"models": [GOOD], 1: 2}, "keys should be strings"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_matrix_that_cannot_be_used_is_refused_with_the_place(tmp_path: Path, body: Any, said: str) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(body))
    with pytest.raises(MatrixError) as refused:
        load(path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_problem_is_named(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text("models: [{name: a}]\ntasks: poetry\ntargets: [tpu, gpu]\nmore: 1\n")
    with pytest.raises(MatrixError) as refused:
        load(path)
    for problem in ("models.0: give", "'poetry'", "'tpu'", "'gpu'", "more: extra"):
        assert problem in str(refused.value)
    path.write_text("models: [x/a, y/a]\nexclude: [{task: fill-mask}]\ninclude: [{model: z}]\n")
    with pytest.raises(MatrixError) as refused:
        load(path)
    for problem in ("several are called 'a'", "exclude.0", "include.0"):
        assert problem in str(refused.value)


def test_a_matrix_larger_than_anyone_means_is_refused_before_it_fills_the_memory() -> None:
    shapes = [f"{rows}x{tokens}" for rows in range(1, 17) for tokens in range(1, 17)]
    body = {"shapes": shapes, "targets": list(TARGETS), "models": [{**GOOD, "name": f"m{n}"} for n in range(200)]}
    problems: list[str] = []
    assert len(expand(Definition.model_validate(body), problems)) == MAX_CELLS
    assert f"models.2: more than {MAX_CELLS} cells" in problems


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(MissingFileError):
            load(path)


def test_an_empty_or_hostile_file_is_a_matrix_error(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    for text, said in (("", "it is empty"), ("a: !!python/name:os.system", "the tag")):
        path.write_text(text)
        with pytest.raises(MatrixError, match=said):
            load(path)
