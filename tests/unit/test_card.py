from __future__ import annotations

import ast
import re
import shlex
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from neuronbert import card
from neuronbert.answers import READERS, encode
from neuronbert.architectures import TASKS
from neuronbert.manifest import Manifest, Source
from neuronbert.report import TaskMetric, ValidationReport
from tests.unit.builders import DIGEST, make_check, make_manifest, make_measure, make_report

ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}(/[A-Za-z0-9][A-Za-z0-9._-]{0,9})?", fullmatch=True)
PASSED = make_report(make_check(make_measure("error", 0.00125, 0.01), make_measure("cosine", 0.9999, 0.999)))
FAILED = make_report(make_check(make_measure("error", 0.5, 0.01)), make_check(problem="2 values are not finite"))


def render(manifest: Manifest, report: ValidationReport | None = None, place: str = "my-artifact") -> str:
    return card.render(manifest, report, place)


def from_hub(model: str, revision: str | None = "abc123") -> Source:
    return Source(model=model, revision=revision, weights_sha256=DIGEST, class_name="BertForMaskedLM")


def front_matter(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


@given(ids)
def test_the_front_matter_names_the_model_that_it_was_made_from(model: str) -> None:
    found = front_matter(render(make_manifest(source=from_hub(model))))
    assert found == {
        "library_name": "neuronbert",
        "pipeline_tag": "fill-mask",
        "base_model": model,
        "tags": ["neuronbert", "cpu"],
    }


def test_a_local_checkpoint_is_no_base_model_and_its_place_stays_private() -> None:
    text = render(make_manifest(), PASSED)
    assert "base_model" not in front_matter(text)
    assert "/home/me" not in text


def test_the_summary_holds_what_decides_the_program() -> None:
    text = render(make_manifest(source=from_hub("org/model")))
    assert "| Checkpoint | `org/model` at `abc123` |" in text
    assert "| Static shapes | 2x8 |" in text
    assert "| Auto-cast | matmul, bf16 |" in text
    assert "| Compiler | torch.jit.trace (torch 2.9) |" in text
    assert DIGEST in text


def test_no_type_is_named_where_nothing_is_cast() -> None:
    compiler = make_manifest().compiler.model_copy(update={"auto_cast": "none"})
    assert "| Auto-cast | none |" in render(make_manifest(compiler=compiler))


def test_random_weights_are_owned_up_to() -> None:
    source = from_hub("org/model").model_copy(update={"random_weights": ("classifier.weight", "classifier.bias")})
    text = render(make_manifest(source=source))
    assert "| Random weights | `classifier.weight`, `classifier.bias` |" in text
    assert "Random weights" not in render(make_manifest())


def test_an_artifact_that_was_not_validated_says_so_and_how_to() -> None:
    text = render(make_manifest())
    assert "Not validated. Do it with `neuronbert validate my-artifact`." in text
    assert "passed" not in text


def test_a_validation_that_passed_is_shown_with_its_numbers() -> None:
    text = render(make_manifest(), PASSED)
    assert "## Validation: passed" in text
    assert "| logits | error | 0.00125 | at most 0.01 | 1 | yes |" in text
    assert "| logits | cosine | 0.9999 | at least 0.999 | 1 | yes |" in text


@pytest.mark.parametrize("report", [FAILED, make_report(problem="the weights differ"), make_report()])
def test_a_validation_that_failed_can_not_be_overlooked(report: Any) -> None:
    text = render(make_manifest(), report)
    assert "## Validation: FAILED" in text
    assert not re.search(r"\| yes \||Validation: passed", text)
    for failure in report.failures:
        assert f"\n- {failure}\n" in text


def test_a_tasks_own_metric_is_shown_for_both_sides() -> None:
    metric = TaskMetric(name="accuracy", rows=8, program=0.875, reference=1.0)
    text = render(make_manifest(), PASSED.model_copy(update={"metrics": (metric,)}))
    assert "| accuracy | 8 | 0.8750 | 1.0000 |" in text


def examples(text: str) -> tuple[ast.Module, ast.Module]:
    """The card's two examples: of texts and of tensors."""
    with_texts, with_tensors = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return ast.parse(with_texts), ast.parse(with_tensors)


def values(shown: ast.Module) -> list[Any]:
    """What the calls of an example are given."""
    calls = [node for node in ast.walk(shown) if isinstance(node, ast.Call)]
    return [ast.literal_eval(call.args[0]) for call in calls if not isinstance(call.args[0], ast.Call)]


def imports(shown: ast.Module) -> list[str]:
    return [ast.unparse(node) for node in shown.body if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("task", TASKS)
def test_the_example_of_every_task_holds_a_row_that_the_task_takes(tokenizer: Any, task: str) -> None:
    with_texts, with_tensors = examples(render(make_manifest(task=task), place="org/model"))
    assert imports(with_texts) == ["from neuronbert import Predictor"]
    assert imports(with_tensors) == ["from neuronbert import NeuronAutoModel"]
    assert values(with_tensors) == ["org/model"]
    [rows] = [value for value in values(with_texts) if value != "org/model"]
    assert "org/model" in values(with_texts)
    call = encode(task, tokenizer, rows)
    assert len(call.rows) == 1
    masks = int((call.inputs["input_ids"] == tokenizer.mask_token_id).sum())
    assert masks == (task in ("fill-mask", "pre-training"))
    assert set(rows[0]) >= set(READERS[task].fields)


@given(st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=12))  # lone surrogates too
@example("\U0001f600")
@example("a```b")
def test_the_examples_open_the_place_whatever_it_is_called(place: str) -> None:
    text = render(make_manifest(), place=place)
    assert text.encode()
    for shown in examples(text):
        assert place in values(shown)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="`|/"), min_size=1))
@example("with space")
@example("$(date); it's")
def test_the_command_that_validates_names_the_place_to_any_shell(place: str) -> None:
    [command] = re.findall("Do it with `(.*)`", render(make_manifest(), place=place))
    assert shlex.split(command) == ["neuronbert", "validate", place]


@pytest.mark.parametrize("name", ["plain", "a|b\n# c", "a`b", "a\x1b[31mb", "a\u2028b"], ids=repr)
def test_a_folders_name_can_not_break_the_table(name: str) -> None:
    report = PASSED.model_copy(update={"reference": f"Bert of {name} in fp32"})
    text = render(make_manifest(source=from_hub(name, None)), report)
    [row] = [line for line in text.splitlines() if line.startswith("| Checkpoint |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert row.count("`") == 2
    [heading] = re.findall("^# (.*)$", text, flags=re.MULTILINE)
    assert heading.endswith(", compiled by neuronbert")
    assert all(line.isprintable() for line in text.split("\n"))
    assert name == "plain" or name not in text
