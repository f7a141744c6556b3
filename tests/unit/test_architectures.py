from __future__ import annotations

import inspect

import pytest

from neuronbert.architectures import (
    ARCHITECTURES,
    TASKS,
    find_architecture,
    find_head,
    find_task,
    infer_task,
)
from neuronbert.errors import TaskNotInferableError, UnknownTaskError, UnsupportedHeadError, UnsupportedModelError
from neuronbert.families import Architecture

HEADS = [(name, task) for name, row in ARCHITECTURES.items() for task in row.heads]
DIMS = {"batch", "sequence", "choices", "hidden", "labels", "vocabulary", "relation", "embedding"}
HALF = Architecture("half", ("input_ids",), {"fill-mask": "HalfForMaskedLM", "question-answering": "HalfForQA"})


@pytest.mark.parametrize(("model_type", "task"), HEADS)
def test_every_head_is_a_class_of_transformers_that_takes_the_inputs(model_type: str, task: str) -> None:
    import transformers

    row = find_architecture(model_type)
    head = getattr(transformers, find_head(row, task))
    assert head.config_class.model_type == model_type
    assert set(row.inputs) <= set(inspect.signature(head.forward).parameters)


def test_no_class_of_transformers_for_texts_is_left_out() -> None:
    import importlib

    import transformers

    for name, row in ARCHITECTURES.items():
        home = importlib.import_module(getattr(transformers, row.heads["feature-extraction"]).__module__)
        classes = {
            found
            for found, kind in vars(home).items()
            if inspect.isclass(kind) and kind.__module__ == home.__name__ and hasattr(transformers, found)
            if issubclass(kind, transformers.PreTrainedModel) and not found.endswith("PreTrainedModel")
        }
        folding = {"EsmForProteinFolding"}  # in a module of its own
        assert classes - folding == (set(row.heads.values()) | set(row.refused)) - folding, name


@pytest.mark.parametrize("task", TASKS)
def test_every_output_is_a_field_of_the_class_that_a_call_returns(task: str) -> None:
    from neuronbert.outputs import named

    fields = named(TASKS[task].output_class).__dataclass_fields__
    assert [output.name for output in TASKS[task].outputs if output.name not in fields] == []


def test_every_task_is_under_its_own_name_with_known_dimensions() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert task.outputs
        for output in task.outputs:
            assert output.dims[0] == "batch"
            assert set(output.dims) <= DIMS


def test_the_answer_is_read_off_a_dimension_that_is_there() -> None:
    last = {
        "embedding": {"hidden", "embedding"},
        "argmax": {"labels", "vocabulary", "relation", "choices"},
        "span": {"sequence"},
        "sign": {"sequence"},
    }
    for task in TASKS.values():
        for output in task.outputs:
            assert output.dims[-1] in last[output.answer]


def test_every_row_of_the_table_is_under_its_own_model_type_and_has_known_tasks() -> None:
    for model_type, row in ARCHITECTURES.items():
        assert row.model_type == model_type
        assert row.inputs[0] == "input_ids"
        assert set(row.heads) <= set(TASKS)
        assert len(set(row.heads.values())) == len(row.heads)


@pytest.mark.parametrize(("model_type", "task"), HEADS)
def test_the_task_of_a_head_is_read_off_its_class_name(model_type: str, task: str) -> None:
    row = find_architecture(model_type)
    assert infer_task(row, [find_head(row, task)]) == task


def test_the_first_class_name_that_is_known_decides() -> None:
    assert infer_task(HALF, ["Other", "HalfForQA", "HalfForMaskedLM"]) == "question-answering"


@pytest.mark.parametrize("names", [(), ("BertForMaskedLM",)], ids=["none", "unknown"])
def test_a_checkpoint_that_names_no_known_class_must_be_told_its_task(names: tuple[str, ...]) -> None:
    with pytest.raises(TaskNotInferableError, match="--task, one of: fill-mask, question-answering"):
        infer_task(HALF, names)


def test_what_the_tables_lack_is_refused_with_what_they_have() -> None:
    with pytest.raises(UnknownTaskError, match=r"'translation'.*fill-mask"):
        find_task("translation")
    with pytest.raises(UnsupportedModelError, match=r"'gpt2'.*bert"):
        find_architecture("gpt2")
    with pytest.raises(UnsupportedHeadError, match=r"half has no head for text-generation.*fill-mask"):
        find_head(HALF, "text-generation")
