"""What deploy/ holds is what Kubernetes, the SDK's table and our command line take; the commands run, on the CPU."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from cli.app import app
from neuronbert import StaticShape, sdk
from neuronbert.releases import RELEASES
from neuronbert.server.guard import OPEN
from neuronbert.server.settings import Settings
from tests.support.serving import PATIENCE, Process

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SAGEMAKER = ("model", "endpoint-config")
NEURON_RESOURCES = {"aws.amazon.com/neuroncore", "aws.amazon.com/neuron"}
"""deploy/includes/k8s-neuron-device-plugin of the SDK's documentation."""


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    for body in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if body["kind"] == "Job":
            yield body["spec"]["template"]["spec"]


def deployment() -> dict[str, Any]:
    (found,) = [
        body
        for body in yaml.safe_load_all((DEPLOY / "kubernetes" / "serve.yaml").read_text(encoding="utf-8"))
        if body["kind"] == "Deployment"
    ]
    return dict(found["spec"]["template"]["spec"])


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
    assert given.pop("DEVICE") in re.findall(r"^FROM base AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    cpu, neuron = DOCKERFILE.split("FROM base AS neuron")
    assert "--constraint /usr/src/neuronbert/constraints.txt" in cpu
    assert "--constraint" not in neuron  # the SDK has an older torch
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
    extras = {name for names in re.findall(r"neuronbert\[(.+?)\]", DOCKERFILE) for name in names.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_deployment_is_probed_and_ended_as_the_server_means_it() -> None:
    pod, settings = deployment(), Settings()
    (container,) = pod["containers"]
    assert {volume["name"] for volume in pod["volumes"]} >= {mount["name"] for mount in container["volumeMounts"]}
    assert {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")} == {
        "startupProbe": {"path": "/readyz", "port": "http"},
        "readinessProbe": {"path": "/health", "port": "http"},
        "livenessProbe": {"path": "/livez", "port": "http"},
    }
    assert {"/readyz", "/health", "/livez", "/metrics"} <= OPEN, "they have no key"
    assert container["readinessProbe"]["timeoutSeconds"] > settings.health_timeout
    assert pod["terminationGracePeriodSeconds"] >= settings.grace + settings.drain + 5
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    (variable,) = container["env"]
    assert variable["name"] == "NEURONBERT_API_KEY"


def bodies() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def test_replicas_on_several_nodes_can_mount_their_claim() -> None:
    claims = {body["metadata"]["name"]: body["spec"] for body in bodies() if body["kind"] == "PersistentVolumeClaim"}
    (serving,) = [body["spec"] for body in bodies() if body["kind"] == "Deployment"]
    assert serving["replicas"] > 1
    for volume in serving["template"]["spec"]["volumes"]:
        assert claims[volume["persistentVolumeClaim"]["claimName"]]["accessModes"] == ["ReadWriteMany"]


def test_without_its_key_the_deployment_does_not_start() -> None:
    (container,) = deployment()["containers"]
    (variable,) = container["env"]
    secret = variable["valueFrom"]["secretKeyRef"]
    assert "optional" not in secret
    text = (DEPLOY / "kubernetes" / "serve.yaml").read_text(encoding="utf-8")
    assert f"create secret generic {secret['name']} --from-literal={secret['key']}=" in text


def test_nothing_runs_as_root() -> None:
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, flags=re.MULTILINE)
    assert int(user) > 0
    assert f"useradd --uid {user} " in DOCKERFILE
    assert DOCKERFILE.index(f"USER {user}") > DOCKERFILE.index("FROM ${DEVICE}")
    for body in bodies():
        if body["kind"] in ("Job", "Deployment"):
            given = body["spec"]["template"]["spec"]["securityContext"]
            assert given == {"runAsNonRoot": True, **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), int(user))}


def test_every_core_of_the_endpoint_has_a_worker() -> None:
    """An inf2.xlarge has one Inferentia2, and that has two NeuronCores."""
    endpoint = json.loads((DEPLOY / "sagemaker" / "endpoint-config.json").read_bytes())
    assert endpoint["ProductionVariants"][0]["InstanceType"] == "ml.inf2.xlarge"
    dockerfile = (DEPLOY / "sagemaker" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"--workers (\d+)", dockerfile) == ["2"]


def test_the_server_starts_as_kubernetes_and_as_sagemaker_start_it(exported: Callable[..., Path]) -> None:
    artifact = exported("sentence-embedding", StaticShape(4, 16))
    (kubernetes,) = deployment()["containers"]
    assert kubernetes["command"][:2] == ["neuronbert", "serve"]
    options = [word for word in kubernetes["command"][3:] if word not in ("--host", "0.0.0.0")]
    with Process(artifact, *options) as server, server.client() as client:
        assert [client.get(path).status_code for path in ("/readyz", "/health", "/livez")] == [200] * 3

    dockerfile = (DEPLOY / "sagemaker" / "Dockerfile").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", dockerfile, flags=re.MULTILINE)
    shell, flag, line = json.loads(entry)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = line.replace("/opt/ml/model", str(artifact)).replace("0.0.0.0", f"127.0.0.1 --port {port}")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen([shell, flag, line, "serve"], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=6)) as client:
                end = time.monotonic() + PATIENCE
                while client.get("/ping").status_code != 200:
                    assert time.monotonic() < end
                    time.sleep(0.1)
                assert len(client.post("/invocations", json={"inputs": "a"}, timeout=PATIENCE).json()) == 1
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0


def test_sagemaker_is_given_what_it_takes() -> None:
    """The names are those of CreateModel and CreateEndpointConfig in SageMaker's API reference."""
    model, endpoint = (json.loads((DEPLOY / "sagemaker" / f"{name}.json").read_bytes()) for name in SAGEMAKER)
    (variant,) = endpoint["ProductionVariants"]
    assert model.keys() == {"ModelName", "ExecutionRoleArn", "PrimaryContainer"}
    assert model["PrimaryContainer"].keys() == {"Image", "ModelDataUrl"}
    assert variant["ModelName"] == model["ModelName"]
    assert 60 <= variant["ContainerStartupHealthCheckTimeoutInSeconds"] <= 3600
    dockerfile = (DEPLOY / "sagemaker" / "Dockerfile").read_text(encoding="utf-8")
    assert f"--tag {model['PrimaryContainer']['Image']} " in dockerfile
    assert f"--endpoint-config-name {endpoint['EndpointConfigName']}\n" in dockerfile
    (base,) = re.findall(r"^FROM (\S+)$", dockerfile, flags=re.MULTILINE)
    assert f"--tag {base} ." in DOCKERFILE
