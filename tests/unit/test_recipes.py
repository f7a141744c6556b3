from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from neuronbert.errors import MissingFileError, RecipeError
from neuronbert.recipes import Recipe, load
from neuronbert.shapes import StaticShape
from neuronbert.spec import ExportSpec, shapes_of
from tests.unit.builders import ROOT

FULL = """
model = "bert-base-uncased"
task = "fill-mask"
batch_sizes = [1, 4]
sequence_lengths = [32, 128]
num_choices = 2
revision = "main"
target = "cpu"
auto_cast = "all"
auto_cast_type = "fp16"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "recipe.toml"


def test_every_field_is_read_as_an_export_takes_it(recipe: Path) -> None:
    recipe.write_text(FULL)
    options = load(recipe)
    assert options["batch_sizes"] == (1, 4)
    shapes = shapes_of(options.pop("batch_sizes"), options.pop("sequence_lengths"), options.pop("num_choices"))
    spec = ExportSpec(shapes=shapes, **options)
    assert (spec.auto_cast, spec.auto_cast_type, spec.revision, len(spec.shapes)) == ("all", "fp16", "main", 4)


def test_a_recipe_has_the_fields_of_a_spec_with_sizes_in_place_of_shapes() -> None:
    fields = {field.name for field in dataclasses.fields(ExportSpec)} - {"shapes"}
    assert set(Recipe.model_fields) - fields == {"batch_sizes", "sequence_lengths", "num_choices", "buckets"}


def test_buckets_are_whole_shapes(recipe: Path) -> None:
    recipe.write_text('buckets = ["8x32", "1x4x128"]')
    assert load(recipe) == {"buckets": (StaticShape(8, 32), StaticShape(1, 128, 4))}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('buckets = ["8x32"]\nbatch_sizes = [1]\nnum_choices = 2', "batch_sizes, num_choices can't be given as well"),
        ('buckets = ["8x32", "8"]', "bucket is '8'"),
        ("buckets = []", "buckets: "),
        ("buckets = [[8, 32]]", "buckets"),
    ],
)
def test_buckets_that_are_no_shapes_are_refused(recipe: Path, line: str, said: str) -> None:
    recipe.write_text(line)
    with pytest.raises(RecipeError, match=said):
        load(recipe)


def test_what_a_recipe_leaves_out_stays_out(recipe: Path) -> None:
    recipe.write_text('task = "fill-mask"\n')
    assert load(recipe) == {"task": "fill-mask"}
    recipe.write_text("")
    assert load(recipe) == {}


def test_every_problem_is_named_at_once(recipe: Path) -> None:
    recipe.write_text('task = 1\nbatch_size = 4\nauto_cast = "most"\n')
    with pytest.raises(RecipeError, match=r"recipe\.toml") as caught:
        load(recipe)
    for field in ("task", "batch_size", "auto_cast"):
        assert f"{field}: " in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "batch_sizes = []",
        "batch_sizes = [0]",
        "batch_sizes = [true]",
        "batch_sizes = true",
        "batch_sizes = [1.5]",
        'batch_sizes = ["1"]',
        "sequence_lengths = [-1]",
        "num_choices = 0",
        'auto_cast_type = "bf17"',
        "target = []",
        "[task]\nname = 1",
    ],
)
def test_a_value_that_no_export_takes_is_refused_by_field(recipe: Path, line: str) -> None:
    recipe.write_text(line)
    with pytest.raises(RecipeError, match=line.strip("[").split()[0].strip("]")):
        load(recipe)


@pytest.mark.parametrize(
    "content",
    [b"x", b"a = 1\na = 2", b"\xff", b"a = ", b"a = " + b"[" * 5_000, b'model = "\xed\xa0\x80"'],
    ids=["word", "twice", "bytes", "no value", "deep", "surrogate"],
)
def test_what_is_not_toml_is_a_recipe_error_of_one_line(recipe: Path, content: bytes) -> None:
    recipe.write_bytes(content)
    with pytest.raises(RecipeError, match="it is not TOML") as caught:
        load(recipe)
    assert "\n" not in str(caught.value)


def test_a_refusal_is_one_line_whatever_the_field_is_called(recipe: Path) -> None:
    recipe.write_text('"a\\nb" = 1')
    with pytest.raises(RecipeError) as caught:
        load(recipe)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(MissingFileError):
            load(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_in_configs_makes_a_spec(path: Path) -> None:
    options = {"model": "m", **load(path)}
    sizes = {name: options.pop(name) for name in ("batch_sizes", "sequence_lengths", "num_choices") if name in options}
    assert ExportSpec(shapes=shapes_of(**sizes), **options).shapes
