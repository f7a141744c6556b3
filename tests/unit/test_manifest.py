from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuronbert.architectures import TASKS
from neuronbert.manifest import (
    FileInfo,
    FormatVersionError,
    InputSpec,
    Manifest,
    ManifestError,
    OutputSpec,
    ProgramSpec,
    Source,
    dump,
    parse,
)
from neuronbert.shapes import StaticShape
from tests.unit.builders import DIGEST, make_manifest, reseal

DUMPED = dump(make_manifest(files={"model.neuron": FileInfo(sha256=DIGEST, size=12)}))

words = st.text(st.characters(codec="utf-8"), max_size=12)
file_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,8}){0,2}", fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
numbers = st.integers(0, 2**40)
fillings = st.integers(0, 9)
inputs = st.builds(
    InputSpec, name=words, maximum=st.integers(9, 2**31 - 1), default=st.none() | fillings, padding=fillings
)
outputs = st.builds(
    OutputSpec,
    name=words,
    dims=st.lists(words, max_size=3).map(tuple),
    size=st.none() | st.integers(1, 9),
    answer=st.sampled_from(["embedding", "argmax", "span"]),
)


def some(specs: st.SearchStrategy[Any], key: str) -> st.SearchStrategy[tuple[Any, ...]]:
    """One to three of them, of which no two share what the key names."""
    return st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: getattr(spec, key)).map(tuple)


def programs_of(choices: st.SearchStrategy[int | None]) -> st.SearchStrategy[tuple[ProgramSpec, ...]]:
    method = st.from_regex(r"forward(_[0-9]{1,3}(x[0-9]{1,3}){1,2})?", fullmatch=True)
    sizes = st.integers(1, 9)
    program = st.builds(
        ProgramSpec, batch_size=sizes, sequence_length=sizes, num_choices=choices, file=file_names, method=method
    )
    return some(program, "shape")


sources = st.builds(
    Source,
    model=words,
    path=st.none() | words,
    revision=st.none() | words,
    weights_sha256=digests,
    class_name=words,
    random_weights=st.lists(words, max_size=2).map(tuple),
)
manifests = st.builds(
    make_manifest,
    task=st.sampled_from(sorted(TASKS)),
    created=words,
    target=words,
    dynamic_batch=st.booleans(),
    inputs=some(inputs, "name").map(lambda specs: (specs[0].model_copy(update={"default": None}), *specs[1:])),
    outputs=some(outputs, "name"),
    programs=programs_of(st.none()) | programs_of(st.integers(1, 9)),
    source=sources,
    files=st.dictionaries(file_names, st.builds(FileInfo, sha256=digests, size=numbers), max_size=4),
)
any_text = st.text(st.characters(), max_size=8)  # lone surrogates too, which JSON can spell
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)


def refused(content: bytes) -> bool:
    """Whether the content is refused as it should be; any other exception fails the test."""
    try:
        parse(content)
    except ManifestError:
        return True
    return False


@given(manifests)
def test_dump_then_parse_is_identity(manifest: Manifest) -> None:
    assert parse(dump(manifest)) == manifest


@given(manifests, st.data())
@settings(max_examples=150)
def test_any_byte_changed_in_any_manifest_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    content = bytearray(dump(manifest))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert refused(bytes(content))


def test_every_byte_is_covered_and_so_is_every_cut() -> None:
    for place in range(len(DUMPED)):
        flipped = bytes([*DUMPED[:place], DUMPED[place] ^ 1, *DUMPED[place + 1 :]])
        assert refused(flipped), place
        assert refused(DUMPED[:place]), place
        assert refused(DUMPED[:place] + DUMPED[place + 1 :]), place


@pytest.mark.parametrize("addition", [b"\n", b" ", b"\x00", b"{}"], ids=repr)
def test_anything_before_or_after_is_refused(addition: bytes) -> None:
    assert refused(DUMPED + addition)
    assert refused(addition + DUMPED)


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff\xfe{}")
@example(b"[" * 200_000)
@example(b'{"a":' * 5_000 + b"1" + b"}" * 5_000)
@example(b'{"format_version": 1, "x": "\\ud800"}')
@example(b'{"format_version": ' + b"1" * 5_000 + b"}")
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    assert refused(content)


@given(json_values)
def test_arbitrary_json_is_refused(value: Any) -> None:
    assert refused(json.dumps(value).encode())


@given(st.sampled_from(sorted(json.loads(DUMPED))).filter(lambda key: key != "seal"), json_values)
@settings(max_examples=150)
def test_a_field_of_another_kind_is_refused_under_a_seal_that_is_right(field: str, value: Any) -> None:
    try:
        forged = reseal(DUMPED, **{field: value})
    except UnicodeEncodeError:
        return  # no file can hold it
    try:
        found = parse(forged)
    except ManifestError:
        return
    assert found.model_dump(mode="json")[field] == value


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", ".hidden", "a//b", "a/", "", "a\n", "a\\b", "~"])
def test_a_file_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    program = {"batch_size": 2, "sequence_length": 8, "num_choices": None, "file": "a", "method": "forward"}
    assert not refused(reseal(DUMPED, programs=[program]))
    assert refused(reseal(DUMPED, programs=[{**program, "file": name}]))
    assert refused(reseal(DUMPED, files={name: {"sha256": DIGEST, "size": 1}}))


@pytest.mark.parametrize("field", sorted(set(json.loads(DUMPED)) - {"seal", "format_version"}))
def test_no_field_can_be_missing(field: str) -> None:
    body = json.loads(DUMPED)
    del body[field]
    assert refused(reseal(json.dumps(body).encode()))


def test_a_field_that_the_format_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match="wrong extra"):
        parse(reseal(DUMPED, extra=1))


@pytest.mark.parametrize("field", ["inputs", "outputs", "programs"])
def test_an_artifact_without_inputs_outputs_or_programs_is_refused(field: str) -> None:
    with pytest.raises(ManifestError, match=field):
        parse(reseal(DUMPED, **{field: []}))


@pytest.mark.parametrize("version", [0, 2, "1", None, [1], True, 1.0], ids=repr)
def test_another_format_is_told_from_a_broken_file(version: object) -> None:
    with pytest.raises(FormatVersionError) as caught:
        parse(reseal(DUMPED, format_version=version))
    assert caught.value.found == version
    assert type(caught.value.found) is type(version)


def test_the_text_is_canonical() -> None:
    body = json.loads(DUMPED)
    assert (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode() == DUMPED
    assert refused(json.dumps(body).encode())
    assert refused(json.dumps(dict(reversed(body.items())), indent=2).encode())


def test_what_is_published_does_not_say_where_the_checkpoint_lay() -> None:
    manifest = make_manifest()
    published = manifest.without_local_path()
    assert b"/home/me" in dump(manifest)
    assert b"/home/me" not in dump(published)
    assert published.model_copy(update={"source": manifest.source}) == manifest


def test_the_shapes_are_those_of_the_programs_in_order() -> None:
    programs = (
        ProgramSpec(batch_size=2, sequence_length=8, num_choices=3, file="a", method="forward"),
        ProgramSpec(batch_size=1, sequence_length=8, num_choices=3, file="a", method="forward_1x3x8"),
    )
    assert make_manifest(programs=programs).shapes == (StaticShape(2, 8, 3), StaticShape(1, 8, 3))


def program(**changes: object) -> dict[str, object]:
    return {"batch_size": 2, "sequence_length": 8, "num_choices": None, "file": "a", "method": "forward", **changes}


@pytest.mark.parametrize("size", [0, -1, 2**20 + 1, 2**20, 10**30])
def test_a_program_of_an_impossible_shape_is_refused(size: int) -> None:
    with pytest.raises(ManifestError, match=r"wrong programs\.0"):
        parse(reseal(DUMPED, programs=[program(batch_size=size)]))


@pytest.mark.parametrize(
    "second",
    [program(), program(method="forward_2x8"), program(num_choices=3), program(batch_size=1, num_choices=3)],
    ids=["the same", "the same shape", "another rank", "another shape and rank"],
)
def test_programs_that_no_call_could_choose_among_are_refused(second: dict[str, object]) -> None:
    with pytest.raises(ManifestError, match="shapes"):
        parse(reseal(DUMPED, programs=[program(), second]))
    parse(reseal(DUMPED, programs=[program(), program(batch_size=1)]))


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_a_name_can_not_be_given_twice(field: str) -> None:
    specs = json.loads(DUMPED)[field]
    other = {**specs[0], "name": "other"}
    with pytest.raises(ManifestError, match="names"):
        parse(reseal(DUMPED, **{field: [*specs, other, {**other, "dtype": specs[0]["dtype"]}]}))
    parse(reseal(DUMPED, **{field: [*specs, other]}))


def test_a_file_is_described_by_its_size_and_its_digest() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert FileInfo.of(b"") == FileInfo(sha256=empty, size=0)
    assert FileInfo.of(b"abc").size == 3


def test_a_refusal_is_one_line_whatever_the_field_is_called() -> None:
    with pytest.raises(ManifestError) as caught:
        parse(reseal(DUMPED, **{"a\nb": 1}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "no-such-task"},
        {"model_type": "no-such-model"},
        {"inputs": [{"name": "input_ids", "dtype": "int64", "maximum": 9, "default": 1, "padding": 0}]},
        {"inputs": [{"name": "input_ids", "dtype": "int64", "maximum": 9, "default": None, "padding": 10}]},
        {"inputs": [{"name": "input_ids", "dtype": "int64", "maximum": 2**31, "default": None, "padding": 0}]},
    ],
    ids=str,
)
def test_a_manifest_that_no_loader_could_serve_is_refused(changes: dict[str, object]) -> None:
    assert refused(reseal(dump(make_manifest()), **changes))
