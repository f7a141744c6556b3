"""Publishing and fetching with the command line, a process of its own, against a server that speaks the Hub's API."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import neuronbert
from neuronbert import Artifact, Predictor
from neuronbert.manifest import parse
from tests.support.hub_server import HubServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.hub_server import Exchange, Reply

ROOT = Path(__file__).parents[2]
REPO = "tester/bert"
OURS = "checkpoint: feature-extraction, 2x32"
SIZES = ("--batch-size", "1", "--sequence-length", "16")


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Shell:
    """Starts `neuronbert` as a user would who set only what has to do with the Hub."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self.settings = {
            "PATH": os.environ["PATH"],
            "HF_HOME": str(home),
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": hub.token,
        }

    def start(self, *arguments: str | Path, **settings: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cli", *map(str, arguments)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env={**self.settings, **settings}, text=True, **streams)

    def finish(self, process: subprocess.Popen[str]) -> Done:
        with process:
            out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def __call__(self, *arguments: str | Path, **settings: str) -> Done:
        return self.finish(self.start(*arguments, **settings))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def shell(hub: HubServer, tmp_path: Path) -> Shell:
    return Shell(hub, tmp_path / "home")


@pytest.fixture(scope="module")
def artifact(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that passed its validation."""
    folder = tmp_path_factory.mktemp("validated") / "artifact"
    shutil.copytree(exported("feature-extraction"), folder)
    assert neuronbert.validate(folder).passed
    return folder


@pytest.fixture
def failed(artifact: Path, copied: Callable[[Path], Path], swapped: Callable[[Path], Path]) -> Path:
    """An artifact that did not."""
    folder = swapped(copied(artifact))
    assert not neuronbert.validate(folder).passed
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def titles(hub: HubServer, branch: str = "main") -> list[str]:
    return [commit.title for commit in hub.repos[REPO].branches[branch]]


def address(hub: HubServer, branch: str = "main") -> str:
    return f"{hub.endpoint}/{REPO}/commit/{hub.repos[REPO].branches[branch][-1].oid}"


def asked(hub: HubServer) -> list[tuple[str, str]]:
    """What was asked of the Hub, but for what the client asks on its own account."""
    return [request for request in hub.requests if request != ("GET", "/api/agent-harnesses")]


def one_line(text: str) -> bool:
    return text.startswith("Error: ") and text.endswith(".\n") and text.count("\n") == 1


def test_a_push_prints_the_address_of_its_only_commit(hub: HubServer, shell: Shell, artifact: Path) -> None:
    done = shell("push-to-hub", artifact, REPO)
    assert done == (0, address(hub) + "\n", "")
    assert titles(hub) == ["initial commit", OURS]
    assert not hub.repos[REPO].private
    files = hub.repos[REPO].branches["main"][-1].files
    assert parse(files["neuronbert.json"]).source.path is None
    assert b"## Validation: passed" in files["README.md"]
    assert shell("push-to-hub", artifact, REPO, "--json") == (0, f'{{\n  "commit": "{address(hub)}"\n}}\n', "")
    assert len(titles(hub)) == 2, "what hasn't changed isn't committed again"


def test_private_revision_and_token_reach_the_hub(hub: HubServer, shell: Shell, artifact: Path) -> None:
    options = ("--private", "--revision", "inf2/v1", "--token", hub.token)
    done = shell("push-to-hub", artifact, REPO, *options, HF_TOKEN="hf_wrong")
    assert done == (0, address(hub, "inf2/v1") + "\n", "")
    assert hub.repos[REPO].private
    assert titles(hub) == ["initial commit"], "the main branch is left alone"
    assert titles(hub, "inf2/v1") == ["initial commit", OURS]


def test_a_bare_name_is_the_users_and_what_else_lies_there_stays(hub: HubServer, shell: Shell, artifact: Path) -> None:
    hub.add_repo(REPO, {"README.md": b"old", "notes.txt": b"mine"})
    assert shell("push-to-hub", artifact, "bert") == (0, address(hub) + "\n", "")
    files = hub.repos[REPO].branches["main"][-1].files
    assert files["notes.txt"] == b"mine"
    assert f'Predictor.from_pretrained("{REPO}")'.encode() in files["README.md"]


def test_an_artifact_that_was_not_validated_is_pushed_with_a_note(
    hub: HubServer, shell: Shell, exported: Callable[..., Path]
) -> None:
    done = shell("push-to-hub", exported("feature-extraction"), REPO)
    assert done[:2] == (0, address(hub) + "\n")
    assert done.err.startswith("It was not validated")
    assert done.err.count("\n") == 1
    assert b"Not validated." in hub.repos[REPO].branches["main"][-1].files["README.md"]


def test_an_artifact_that_failed_is_pushed_by_force_only(hub: HubServer, shell: Shell, failed: Path) -> None:
    done = shell("push-to-hub", failed, REPO)
    assert done[:2] == (2, "")
    assert "failed its validation" in done.err
    assert one_line(done.err)
    assert asked(hub) == []
    assert shell("push-to-hub", failed, REPO, "--force") == (0, address(hub) + "\n", "")
    assert b"## Validation: FAILED" in hub.repos[REPO].branches["main"][-1].files["README.md"]


def test_a_damaged_artifact_is_refused_even_by_force(hub: HubServer, shell: Shell, failed: Path) -> None:
    with (failed / "model.neuron").open("r+b") as file:
        file.write(b"x")
    done = shell("push-to-hub", failed, REPO, "--force")
    assert done[:2] == (2, "")
    assert "was altered" in done.err
    assert one_line(done.err)
    assert asked(hub) == []


@pytest.mark.parametrize(
    ("name", "settings", "code", "words"),
    [
        (REPO, {"HF_TOKEN": "hf_wrong"}, 3, "HTTP 401"),
        (REPO, {"HF_TOKEN": ""}, 3, "HTTP 401"),
        (REPO, {"HF_TOKEN": "hf_read"}, 3, "HTTP 403"),
        (REPO, {"HF_TOKEN": "hf_two words"}, 2, "token is '***'"),
        (REPO, {"HF_HUB_OFFLINE": "1"}, 3, "offline mode is enabled"),
        ("a b/c", {}, 2, "repository_id is 'a b/c'"),
        ("a--b", {}, 2, "repository_id is 'a--b'"),
    ],
)
def test_a_refused_push_says_why_in_one_line(
    hub: HubServer, shell: Shell, artifact: Path, name: str, settings: dict[str, str], code: int, words: str
) -> None:
    hub.add_repo(REPO, {})
    done = shell("push-to-hub", artifact, name, **settings)
    assert done[:2] == (code, "")
    assert words in done.err
    assert "two words" not in done.err
    assert one_line(done.err)
    assert titles(hub) == ["initial commit"]


@pytest.mark.parametrize(("folder", "code"), [("nowhere", 3), ("home", 2)])
def test_what_is_no_artifact_is_not_pushed(
    hub: HubServer, shell: Shell, tmp_path: Path, folder: str, code: int
) -> None:
    (tmp_path / "home").mkdir()
    done = shell("push-to-hub", tmp_path / folder, REPO)
    assert done[:2] == (code, "")
    assert one_line(done.err)
    assert asked(hub) == []


def test_a_line_break_after_the_token_does_no_harm(hub: HubServer, shell: Shell, artifact: Path) -> None:
    done = shell("push-to-hub", artifact, REPO, HF_TOKEN=hub.token + "\n")
    assert done == (0, address(hub) + "\n", "")


def test_mishaps_with_the_real_waits_end_in_one_whole_commit(hub: HubServer, shell: Shell, artifact: Path) -> None:
    hub.cut("PUT", "/lfs-upload/", after_bytes=1_000_000)
    hub.lose_answer("POST", "/commit/")
    assert shell("push-to-hub", artifact, REPO) == (0, address(hub) + "\n", "")
    assert titles(hub) == ["initial commit", OURS]
    assert contents(artifact).keys() < hub.repos[REPO].branches["main"][-1].files.keys()


def test_a_hub_that_does_not_answer_is_told_in_one_line(shell: Shell, artifact: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        push = shell.start("push-to-hub", artifact, REPO, HF_ENDPOINT=endpoint)
        fetch = shell("predict", REPO, "Hello.", HF_ENDPOINT=endpoint)
        for done in (shell.finish(push), fetch):
            assert done[:2] == (3, "")
            assert "Connection refused" in done.err
            assert one_line(done.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_push_leaves_no_commit(
    hub: HubServer, shell: Shell, artifact: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    serve, started = hub.dispatch, []

    def dispatch(ask: Exchange) -> Reply:
        if ask.command == "PUT":
            started[0].send_signal(number)
        return serve(ask)

    monkeypatch.setattr(hub, "dispatch", dispatch)
    started.append(shell.start("push-to-hub", artifact, REPO))
    done = shell.finish(started[0])
    assert done[:2] == (130, "")
    assert done.err == "Interrupted.\n"
    assert titles(hub) == ["initial commit"]


def test_an_artifact_on_the_hub_answers_texts(hub: HubServer, shell: Shell, artifact: Path) -> None:
    repo = hub.add_repo(REPO, {}, private=True)
    repo.branches["v1"] = list(repo.branches["main"])
    repo.commit("v1", "artifact", "", contents(artifact))
    done = shell("predict", REPO, "Hello.", "--json", "--revision", "v1", HF_TOKEN=hub.read_only_token)
    assert (done.code, done.err) == (0, "")
    expected = Predictor.from_pretrained(str(artifact)).predict([{"text": "Hello."}])
    assert json.loads(done.out)[0]["embedding"] == pytest.approx(expected[0]["embedding"], abs=1e-6)


def test_an_export_from_the_hub_records_its_commit_and_its_card_names_it(
    hub: HubServer, shell: Shell, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    repo = hub.add_repo("org/checkpoint", {**contents(tiny("feature-extraction")), "huge.onnx": b"not asked for"})
    done = shell("export", "--model", "org/checkpoint", *SIZES, tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    oid = repo.branches["main"][-1].oid
    assert json.loads(done.out)["source"]["revision"] == oid
    assert Artifact.open(tmp_path / "out").manifest.source.model == "org/checkpoint"
    assert not any("huge.onnx" in path for _, path in hub.requests)
    assert shell("push-to-hub", tmp_path / "out", REPO).code == 0
    assert titles(hub)[-1] == "org/checkpoint: feature-extraction, 1x16"
    card = hub.repos[REPO].branches["main"][-1].files["README.md"].decode()
    assert 'base_model: "org/checkpoint"' in card
    assert f"`org/checkpoint` at `{oid}`" in card


@pytest.mark.parametrize(
    ("options", "settings", "words"),
    [
        (("--model", "org/none"), {}, "the Hub has no such model"),
        (("--model", REPO, "--revision", "v9"), {"HF_TOKEN": "hf_read"}, "the Hub has no revision 'v9'"),
        (("--model", REPO), {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_a_model_that_can_not_be_fetched_is_told_in_one_line(
    hub: HubServer, shell: Shell, tmp_path: Path, options: tuple[str, ...], settings: dict[str, str], words: str
) -> None:
    hub.add_repo(REPO, {})
    done = shell("export", *options, *SIZES, tmp_path / "work" / "out", **settings)
    assert done[:2] == (3, "")
    assert words in done.err
    assert one_line(done.err)
    assert not (tmp_path / "work").exists()
