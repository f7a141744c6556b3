"""What docs/serving.md says of Ray, and the file in deploy/ for it. test_ray.py runs what is built here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuronbert import StaticShape

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Many machines: Ray") : PAGE.index("## Not there")]


@pytest.fixture
def artifact(exported: Callable[..., Path]) -> Path:
    return exported("sentence-embedding", StaticShape(4, 16))


def command(name: str) -> list[str]:
    (line,) = re.findall(rf"^({name} .*)$", SECTION, flags=re.MULTILINE)
    return shlex.split(line)


def build(given: dict[str, Any]) -> Any:
    from neuronbert.server.ray import app

    application: Any = app(given)
    return application._bound_deployment


def test_the_command_builds_an_application(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("minilm").symlink_to(artifact)
    words = command("serve run neuronbert.server.ray:app")
    built = build(dict(word.split("=", 1) for word in words[3:]))
    assert built.num_replicas == 2


def test_the_file_builds_an_application(artifact: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from neuronbert.server.ray import Arguments, app

    text = (
        (ROOT / "deploy" / "ray" / "serve.yaml").read_text(encoding="utf-8").replace("/data/my-artifact", str(artifact))
    )
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    assert application.import_path == f"{app.__module__}:{app.__name__}"
    assert application.route_prefix == "/"
    built = build(application.args)
    assert built._deployment_config.autoscaling_config.max_replicas == 4
    given = Arguments.model_validate(application.args)
    defaults = Arguments(artifact=["x"])
    assert {name for name in given.model_fields_set if getattr(given, name) != getattr(defaults, name)} == {
        "artifact",
        "max_replicas",
    }


def test_arguments_are_listed_with_their_defaults() -> None:
    from neuronbert.server.ray import KEY, Arguments

    listed: dict[str, Any] = {}
    for names, defaults in re.findall(r"^\| (`\w+`.*?) \| (.*?) \|", SECTION, flags=re.MULTILINE):
        values = [json.loads(value) for value in re.findall(r"`(\w+)`", defaults)]
        found = re.findall(r"`(\w+)`", names)
        listed.update(zip(found, values or [None] * len(found), strict=True))
    fields = Arguments.model_fields
    assert listed == {name: None if field.is_required() else field.default for name, field in fields.items()}
    assert f"`{KEY}`" in SECTION


def test_the_version_and_the_size_of_a_part_are_those_that_are_there() -> None:
    from neuronbert.dataset.job import Plan

    pinned = re.search(r"^ray==(\d+\.\d+)\.", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert f"Ray {pinned[1]} " in SECTION
    size = re.search(r"\(`--rows-per-part`, (\d+)\)", SECTION)
    assert size is not None
    assert int(size[1]) == Plan.__dataclass_fields__["rows_per_part"].default
