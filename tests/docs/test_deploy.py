"""What deploy/ holds is what Kubernetes, the SDK's table and our command line take; the commands run, on the CPU."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli.app import app
from neuronbert import sdk
from neuronbert.releases import RELEASES

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
NEURON_RESOURCES = {"aws.amazon.com/neuroncore", "aws.amazon.com/neuron"}
"""deploy/includes/k8s-neuron-device-plugin of the SDK's documentation."""


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    for body in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if body["kind"] == "Job":
            yield body["spec"]["template"]["spec"]


def containers(path: Path) -> list[dict[str, Any]]:
    return [each for job in jobs(path) for each in (*job.get("initContainers", ()), *job["containers"])]


def command_lines(path: Path) -> Iterator[tuple[list[str], str | None]]:
    """Every command of ours in a manifest, and the file that its output goes to."""
    for container in containers(path):
        words = [*container["command"], *container.get("args", ())]
        if words[:2] != ["sh", "-c"]:
            yield words, None
            continue
        line, _, move = words[2].partition(" && mv ")
        line, _, output = line.partition(" > ")
        assert shlex.split(move)[0] == output, "what is moved is what was written"
        yield shlex.split(line), shlex.split(move)[1]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_volume_that_is_mounted_is_there(path: Path) -> None:
    for job in jobs(path):
        names = {volume["name"] for volume in job["volumes"]}
        for container in (*job.get("initContainers", ()), *job["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= names
        assert job["restartPolicy"] in ("Never", "OnFailure"), "all that Kubernetes takes for a Job"


def test_neuron_resources_are_the_documented_ones() -> None:
    for path in MANIFESTS:
        for container in containers(path):
            for asked in container["resources"].values():
                assert set(asked) <= {"cpu", "memory"} | NEURON_RESOURCES
            # Kubernetes takes an extended resource in whole numbers, and as a limit.
            for name in NEURON_RESOURCES & set(container["resources"].get("requests", ())):
                assert name in container["resources"]["limits"]
            for name in NEURON_RESOURCES & set(container["resources"].get("limits", ())):
                assert type(container["resources"]["limits"][name]) is int


def test_what_runs_on_the_device_asks_for_it_and_what_compiles_does_not() -> None:
    asking = {
        words[1]: bool(NEURON_RESOURCES & set(container["resources"].get("limits", ())))
        for path in MANIFESTS
        for container, (words, _) in zip(containers(path), command_lines(path), strict=True)
    }
    assert asking == {"export": False, "doctor": True, "validate": True, "predict": True}


@pytest.fixture
def volume(tmp_path: Path, tiny: Callable[..., Path]) -> Path:
    checkpoint = tiny("text-classification", max_position_embeddings=128)
    (tmp_path / "my-bert").symlink_to(checkpoint)
    (tmp_path / "rows.jsonl").write_text('{"text": "What a fine day."}\n{"text": "It rains."}\n')
    return tmp_path


def test_the_commands_run_one_after_the_other(volume: Path) -> None:
    for name in ("export.yaml", "batch.yaml"):
        for words, output in command_lines(DEPLOY / "kubernetes" / name):
            assert words[0] == "neuronbert"
            local = [word.replace("/data", str(volume)).replace("inf2", "cpu") for word in words[1:]]
            done = CliRunner().invoke(app, local)
            assert done.exit_code == 0, done.output
            if output:
                Path(output.replace("/data", str(volume))).write_text(done.stdout)
    assert json.loads((volume / "report.json").read_bytes())["passed"]
    assert len(json.loads((volume / "answers.json").read_bytes())) == 2


def test_the_image_has_versions_that_were_tested_together() -> None:
    given = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, flags=re.MULTILINE))
    named = re.search(r"Neuron SDK (\S+),", DOCKERFILE)
    assert named is not None
    release = next(release for release in RELEASES if release.sdk == named[1])
    assert given == {
        "TORCH_NEURONX": release.libraries[0],
        "NEURONX_CC": release.compiler,
        "RUNTIME": release.runtime,
        "TOOLS": release.tools,
    }
    assert sdk.ADDRESS in DOCKERFILE
    assert release.python[0] <= "3.12" <= release.python[1], "the Python of Ubuntu 24.04"


def test_the_image_is_made_of_what_is_installed() -> None:
    root = DEPLOY.parent
    for names in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, flags=re.MULTILINE):
        assert all((root / name).exists() for name in names.split())
    for name in set(re.findall(r"\$\{(\w+)\}", DOCKERFILE)):
        assert f"ARG {name}=" in DOCKERFILE
