from __future__ import annotations

import importlib
import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli._errors import exit_code
from neuronbert import errors
from neuronbert.errors import (
    ArtifactError,
    CheckpointError,
    DataError,
    InputError,
    NeuronBertError,
    TextError,
    UnavailableError,
    UsageError,
    ValidationFailedError,
)
from tests.unit.builders import ROOT, make_check, make_measure, make_report

# A value for each kind of argument; new errors are covered by what they annotate.
SAMPLES = {
    "str": "name",
    "int": 401,
    "bool": True,
    "object": "/place/of/it",
    "Path": "/place/of/it",
    "Sequence[str]": ("one", "two"),
    "Sequence[int]": (3, 200),
}
BASES = {
    NeuronBertError,
    UsageError,
    InputError,
    TextError,
    DataError,
    CheckpointError,
    ArtifactError,
    UnavailableError,
    errors.DeviceError,
    errors.WorkerError,
    errors.FailedCheckError,
}
ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, NeuronBertError)]
BRANCHES: dict[type[NeuronBertError], int] = {
    UsageError: 2,
    DataError: 2,
    UnavailableError: 3,
    errors.FailedCheckError: 1,
}
CONCRETE = [kind for kind in ALL if kind not in BASES]


def make(kind: type[NeuronBertError], **changes: object) -> NeuronBertError:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    values = {parameter.name: SAMPLES[str(parameter.annotation)] for parameter in parameters}
    return kind(**{**values, **changes})


def drawn() -> dict[type[NeuronBertError], str]:
    """Each branch of the tree at the top of the module, as it is drawn there."""
    tree = (errors.__doc__ or "").split("Owns:")[0]
    starts = [(tree.index(f"── {branch.__name__}"), branch) for branch in BRANCHES]
    ends = [*(start for start, _ in starts[1:]), len(tree)]
    return {branch: tree[start:end] for (start, branch), end in zip(starts, ends, strict=True)}


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.__name__)
def test_every_error_is_one_line_that_ends_as_a_sentence_does(kind: type[NeuronBertError]) -> None:
    for flag in (True, False):
        changes = {"replaceable": flag} if "replaceable" in inspect.signature(kind.__init__).parameters else {}
        text = str(make(kind, **changes))
        assert "\n" not in text
        assert re.search(r"\w[)\]'\"]*[.?]$", text), text


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.__name__)
def test_every_error_has_words_of_its_own_and_says_what_it_is_for(kind: type[NeuronBertError]) -> None:
    assert kind.__doc__ not in {None, *(base.__doc__ for base in BASES)}
    assert "__init__" in vars(kind)


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.__name__)
def test_the_exit_code_is_that_of_the_branch(kind: type[NeuronBertError]) -> None:
    [expected] = [code for branch, code in BRANCHES.items() if issubclass(kind, branch)]
    assert exit_code(make(kind)) == expected


def test_every_error_is_in_the_tree_at_the_top_in_its_own_branch() -> None:
    for branch, text in drawn().items():
        names = set(re.findall(r"\w+Error", text)) - {"ValueError", "ImportError"}
        assert names == {kind.__name__ for kind in ALL if issubclass(kind, branch)}
        assert f"exit code {BRANCHES[branch]}" in text


def test_a_call_that_can_not_be_run_is_also_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(errors.InputTypeError, TypeError)


def test_a_list_of_missing_weights_is_cut_short() -> None:
    text = str(errors.HeadWeightsMissingError("fill-mask", "Bert", [f"w{number}" for number in range(7)]))
    assert "needs w0, w1, w2, w3 and 3 more)" in text
    assert "more" not in str(errors.HeadWeightsMissingError("fill-mask", "Bert", ["w0"]))


def test_the_value_that_is_out_of_range_is_the_one_named() -> None:
    assert "holds -1;" in str(errors.InputRangeError("input_ids", -1, 99, 9))
    assert "holds 99;" in str(errors.InputRangeError("input_ids", 0, 99, 9))


def test_a_place_that_may_not_be_replaced_is_not_offered_for_it() -> None:
    assert "--force" in str(errors.OutputExistsError("x", replaceable=True))
    assert "--force" not in str(errors.OutputExistsError("x", replaceable=False))


def test_a_validation_that_failed_says_how_many_more_there_are() -> None:
    assert str(ValidationFailedError(["a", "b", "c"])) == "Validation failed: a (and 2 more)."
    assert str(ValidationFailedError(["a"])) == "Validation failed: a."


def test_a_class_name_of_two_lines_is_worded_in_one() -> None:
    assert "\n" not in str(errors.TaskNotInferableError(["a\nb"], ["fill-mask"]))


@given(st.text(st.characters()))
def test_whatever_a_message_quotes_it_is_one_printable_line(text: str) -> None:
    for error in (NeuronBertError(text), errors.ArtifactCorruptError(text, text), ValidationFailedError([text])):
        assert str(error).isprintable()
    if text.isprintable():
        assert str(NeuronBertError(text)) == text


def test_what_can_not_be_printed_is_spelled_out() -> None:
    assert str(NeuronBertError("a\nb\x1b[31m\ud800é")) == r"a\nb\x1b[31m\ud800é"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "ValueError"), (" \n ", "ValueError"), ("\n  first.\nsecond", "first"), ("one line", "one line")],
    ids=repr,
)
def test_the_first_line_of_another_librarys_error_is_what_it_says(text: str, expected: str) -> None:
    assert errors.first_line(ValueError(text)) == expected


def test_a_failure_that_is_an_errors_text_still_ends_with_one_full_stop() -> None:
    problem = f"the call failed: {make(errors.EmptyInputError)}"
    with pytest.raises(ValidationFailedError) as caught:
        make_report(make_check(make_measure(), problem=problem)).raise_if_failed()
    assert not str(caught.value).endswith("..")


def test_no_module_keeps_an_error_of_the_library_to_itself() -> None:
    for path in (ROOT / "neuronbert").glob("*.py"):
        importlib.import_module(f"neuronbert.{path.stem}")
    found = [*NeuronBertError.__subclasses__()]
    for kind in found:
        found += kind.__subclasses__()
    own = {kind for kind in found if kind.__module__.startswith("neuronbert")}
    assert {kind.__module__.rpartition(".")[0] for kind in own} == {"neuronbert.errors"}
    assert own | {NeuronBertError} == {*ALL}
