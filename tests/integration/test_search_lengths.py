"""A search over a real head and real rows: deterministic, resumable, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
import torch
from neuronbert_cli.app import app
from typer.testing import CliRunner

from neuronbert import SearchSpec, search_lengths
from neuronbert.adaptive.search import Search, read_front, read_search
from neuronbert.errors import DataFileError, InvalidOptionError, SearchChangedError, UnsupportedModelError
from neuronbert.tuning import search as tuning

Make = Callable[..., Path]
TEXTS = ("The harbour was quiet at six in the morning.", "Bread.", "Is there a train to Lisbon tonight?", "No.") * 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": at % 2}) + "\n" for at, text in enumerate(TEXTS)))
    return path


@pytest.fixture
def spec(tiny: Make, data: Path) -> SearchSpec:
    small: dict[str, Any] = {"generations": 2, "children": 4, "population": 3, "rows": 3, "final_rows": 5}
    return SearchSpec(str(tiny("text-classification")), str(data), sequence_length=12, **small)


def with_(spec: SearchSpec, **changes: Any) -> SearchSpec:
    from dataclasses import replace

    return replace(spec, **changes)


def test_a_search_writes_its_front_as_json_and_as_a_picture(spec: SearchSpec, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = search_lengths(spec, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert read_front(folder / "front.json") == found
    assert found.tried == 3 + 2 * 4
    assert found.rows == 5
    assert found.full.length_config == (12, 12)
    assert found.full.score == pytest.approx(0, abs=1e-6), "at full length nothing differs from it"
    assert all(point.score <= 1e-6 for point in found.front)
    picture = Xml.fromstring((folder / "front.svg").read_text())
    assert "script" not in " ".join(str(part.tag) for part in picture.iter())
    assert "(12, 12)" in (folder / "front.svg").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["front.json", "front.svg", "search.json"]
    assert torch.get_num_threads() == threads


def test_a_search_gives_the_same_again_and_with_any_number_of_jobs(spec: SearchSpec, tmp_path: Path) -> None:
    found = [search_lengths(with_(spec, jobs=jobs), tmp_path / str(jobs)) for jobs in (1, 2)]
    assert found[0] == found[1]
    assert read_search(tmp_path / "1" / "search.json") == read_search(tmp_path / "2" / "search.json")
    other = search_lengths(with_(spec, seed=1), tmp_path / "other")
    assert other.plan.seed == 1
    assert other.front != found[0].front


def test_a_search_that_was_interrupted_goes_on(
    spec: SearchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search_lengths(spec, tmp_path / "whole")
    advanced = Search.advanced

    def interrupted(self: Search, trials: Any) -> Search:
        if self.generation == 1:
            raise KeyboardInterrupt
        return advanced(self, trials)

    monkeypatch.setattr(Search, "advanced", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search_lengths(spec, tmp_path / "broken")
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["search.json"]
    monkeypatch.undo()
    scored: list[Any] = []
    monkeypatch.setattr(tuning, "_tried", lambda *given, real=tuning._tried: scored.append(given[2]) or real(*given))
    assert search_lengths(spec, tmp_path / "broken") == whole
    assert len(scored) == 2, "what was done isn't done again"
    more = search_lengths(with_(spec, generations=3), tmp_path / "broken")
    assert more.generations == 3
    assert len(scored) == 3


def test_another_search_in_the_same_folder_is_refused(spec: SearchSpec, tmp_path: Path) -> None:
    search_lengths(with_(spec, generations=0), tmp_path)
    with pytest.raises(SearchChangedError, match="differs in rows, seed"):
        search_lengths(with_(spec, seed=5, rows=2), tmp_path)
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(DataFileError, match="the state of a search"):
        search_lengths(spec, tmp_path)


def test_a_time_budget_ends_it_after_a_generation(spec: SearchSpec, tmp_path: Path) -> None:
    found = search_lengths(with_(spec, time_budget=1e-9, generations=1000), tmp_path)
    assert found.generations == 0
    assert found.tried == 3


@pytest.mark.parametrize(("task", "metric", "cost"), [("text-classification", "accuracy", "latency")])
def test_the_tasks_own_metric_and_measured_time(
    task: str, metric: str, cost: str, spec: SearchSpec, tmp_path: Path
) -> None:
    found = search_lengths(with_(spec, metric=metric, cost=cost, generations=1), tmp_path)
    assert found.plan.cost == "latency"
    assert all(0 <= point.score <= 1 for point in found.front)
    assert found.full.speedup == 1.0


@pytest.mark.parametrize("task", ["question-answering", "token-classification", "sentence-embedding", "fill-mask"])
def test_fidelity_of_other_heads(task: str, tiny: Make, tmp_path: Path) -> None:
    row = {"text": "A [MASK] is quiet.", "question": "Where?", "context": "She lives in Lisbon by the sea."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    spec = SearchSpec(
        str(tiny(task)), str(tmp_path / "rows.jsonl"), task, sequence_length=12, generations=1, children=4, population=3
    )
    found = search_lengths(spec, tmp_path / "found")
    best = 1.0 if task == "sentence-embedding" else 0.0
    assert found.full.score == pytest.approx(best, abs=1e-5)
    assert found.front[0].score < best - 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "f1"}, "'fidelity', 'accuracy'"),
        ({"sequence_length": 65}, "at most 64"),
        ({"sequence_length": 1}, "2 or more"),
        ({"drop": 1.0}, "less than 1"),
        ({"cost": "watts"}, "'macs' or 'latency'"),
        ({"rows": 0}, "1 or more"),
        ({"jobs": 0}, "1 or more"),
        ({"time_budget": 0.0}, "more than 0"),
        ({"population": 1}, "2 or more"),
    ],
    ids=str,
)
def test_what_can_not_be_searched_is_refused(
    changes: dict[str, Any], said: str, spec: SearchSpec, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        search_lengths(with_(spec, **changes), tmp_path / "out")


def test_other_models_and_rows_are_refused(spec: SearchSpec, tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="electra"):
        search_lengths(
            with_(spec, model=str(tiny("replaced-token-detection")), task="replaced-token-detection"), tmp_path / "out"
        )
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "Bread."}\n{"words": 1}\n')
    with pytest.raises(DataFileError, match="line 2"):
        search_lengths(with_(spec, data=str(rows)), tmp_path / "out")
    with pytest.raises(DataFileError, match="line 1: label"):
        search_lengths(with_(spec, data=str(rows), metric="accuracy"), tmp_path / "out")


def test_who_interrupts_a_search_is_told_that_it_goes_on(
    spec: SearchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuronbert.search_lengths", interrupted)
    given = ["search-lengths", spec.model, "--data", spec.data, "--output", str(tmp_path)]
    before = CliRunner().invoke(app, given).stderr
    assert "goes on" not in before, "nothing was written yet"
    (tmp_path / "search.json").write_text("{}")
    assert f"The same command goes on from {tmp_path}/search.json." in CliRunner().invoke(app, given).stderr


def test_the_command_line(spec: SearchSpec, tmp_path: Path) -> None:
    given = ["search-lengths", spec.model, "--data", spec.data, "--sequence_length", "12", "--generations", "1"]
    given += ["--children", "4", "--population", "3", "--rows", "2", "--final-rows", "3", "--output", str(tmp_path)]
    found = CliRunner().invoke(app, given)
    assert found.exit_code == 0, found.stderr
    assert "(12, 12)" in found.stdout
    assert "7 tried in 1 generations; scores are over 3 rows" in found.stdout
    assert f"--search {tmp_path}/front.json" in found.stderr
    as_json = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert as_json["tried"] == 7
    refused = CliRunner().invoke(app, [*given, "--seed", "9"])
    assert refused.exit_code == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("Error: ")
