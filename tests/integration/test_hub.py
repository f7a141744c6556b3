"""Publishing and fetching with the real client, over real sockets, against a server that speaks the Hub's API."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

import neuronbert
from neuronbert import Artifact, ExportSpec, NeuronAutoModel, NeuronBertModel, StaticShape, publish
from neuronbert import hub as door
from neuronbert.errors import HubAccessError, HubError, InvalidOptionError, ModelNotFoundError, NotValidatedError
from neuronbert.manifest import FileInfo, parse
from tests.support.hub_server import HubServer, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.hub_server import Commit, Exchange, Reply

REPO = "tester/bert"
OURS = "checkpoint: feature-extraction, 2x32"
WRITES = ["/repos/create", "/branch/", "/preupload/", "/objects/batch", "/lfs-upload/", "/lfs-verify", "/commit/"]
STEPS = [*WRITES, "/validate-yaml", f"/api/models/{REPO}/revision/"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A server that this process takes for the Hub, and no waiting for it."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(door, "_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _seconds: None))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture(scope="module")
def plain(exported: Callable[..., Path]) -> Path:
    """An artifact that was not validated."""
    return exported("feature-extraction")


@pytest.fixture(scope="module")
def validated(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that passed."""
    folder = tmp_path_factory.mktemp("validated") / "artifact"
    shutil.copytree(plain, folder)
    assert neuronbert.validate(folder).passed
    return folder


@pytest.fixture
def failed(plain: Path, copied: Callable[[Path], Path], swapped: Callable[[Path], Path]) -> Path:
    """An artifact that did not."""
    folder = swapped(copied(plain))
    assert not neuronbert.validate(folder).passed
    return folder


def strike(hub: HubServer, step: str, mishap: str, times: int = 1) -> None:
    """Have something go wrong at a step: an answer of that status, a cut connection, or an answer that is lost."""
    verb = "PUT" if step == "/lfs-upload/" else "GET" if "/revision/" in step else "POST"
    if mishap == "cut":
        hub.cut(verb, step, after_bytes=1_000_000 if verb == "PUT" else 20, times=times)
    elif mishap.startswith("lost"):
        hub.lose_answer(verb, step, status=int(mishap[5:] or 0), times=times)
    else:
        hub.fail(verb, step, status=int(mishap), times=times)


def titles(hub: HubServer, branch: str = "main") -> list[str]:
    return [commit.title for commit in hub.repos[REPO].branches[branch]]


def assert_whole(commit: Commit, artifact: Path, repository: str = REPO) -> None:
    """What was committed is the artifact, but for where its checkpoint lay and what its card says to open."""
    local = {path.name: path.read_bytes() for path in artifact.iterdir()}
    pushed = {name: content for name, content in commit.files.items() if name != ".gitattributes"}
    card, manifest = pushed.pop("README.md"), parse(pushed.pop("neuronbert.json"))
    assert f'Predictor.from_pretrained("{repository}")' in card.decode()
    assert manifest.files["README.md"] == FileInfo.of(card)
    expected = parse(local.pop("neuronbert.json")).without_local_path()
    assert manifest == expected.model_copy(update={"files": {**expected.files, "README.md": FileInfo.of(card)}})
    assert pushed == {name: content for name, content in local.items() if name != "README.md"}


def after(monkeypatch: pytest.MonkeyPatch, hub: HubServer, path_part: str, act: Callable[[], object]) -> None:
    """Do something once, right after the server has served a request."""
    serve, pending = hub.dispatch, [act]

    def dispatch(ask: Exchange) -> Reply:
        reply = serve(ask)
        if path_part in ask.path and pending:
            pending.pop()()
        return reply

    monkeypatch.setattr(hub, "dispatch", dispatch)


def test_publishing_makes_one_commit_of_the_whole_artifact(hub: HubServer, validated: Path) -> None:
    address = publish(validated, REPO)
    commit = hub.repos[REPO].branches["main"][-1]
    assert_whole(commit, validated)
    assert address == f"{hub.endpoint}/{REPO}/commit/{commit.oid}"
    manifest = Artifact.open(validated).manifest
    assert list(hub.blobs) == [manifest.files["model.neuron"].sha256]
    assert parse(commit.files["neuronbert.json"]).source.path is None
    assert [name for name, content in commit.files.items() if str(manifest.source.path).encode() in content] == []
    assert publish(validated, REPO) == address, "nothing has changed, so there is nothing to commit"
    assert titles(hub) == ["initial commit", OURS]


def test_the_published_card_carries_the_verdict_and_the_table(hub: HubServer, validated: Path) -> None:
    report = Artifact.open(validated).report()
    publish(validated, REPO)
    card = hub.repos[REPO].branches["main"][-1].files["README.md"].decode()
    assert "## Validation: passed" in card
    assert "| output | measure | worst | limit | checks | passed |" in card
    assert len(report.worst()) >= 2
    for output, measure, count in report.worst():
        row = next(line for line in card.splitlines() if line.startswith(f"| {output} | {measure.name} |"))
        assert f"| {measure.value:.6g} |" in row
        assert row.endswith(f"{measure.limit:g} | {count} | yes |")


def test_an_artifact_that_failed_is_pushed_by_force_only(hub: HubServer, failed: Path) -> None:
    with pytest.raises(NotValidatedError, match="--force"):
        publish(failed, REPO)
    with pytest.raises(NotValidatedError):
        NeuronBertModel.from_pretrained(failed).push_to_hub(failed, REPO)
    assert hub.requests == [], "it is refused before the Hub is asked for anything"
    publish(failed, REPO, force=True)
    commit = hub.repos[REPO].branches["main"][-1]
    assert_whole(commit, failed)
    assert b"## Validation: FAILED" in commit.files["README.md"]
    place = str(Artifact.open(failed).manifest.source.path).encode()
    assert [name for name, content in commit.files.items() if place in content or str(failed).encode() in content] == []


def test_private_makes_a_repository_that_only_the_token_opens(hub: HubServer, plain: Path) -> None:
    publish(plain, REPO, private=True)
    publish(plain, "tester/open")
    assert [repo.private for repo in hub.repos.values()] == [True, False]
    with pytest.raises(ModelNotFoundError, match="no such model, or not for this token"):
        NeuronAutoModel.from_pretrained(REPO, token=False)
    assert NeuronAutoModel.from_pretrained(REPO, token=hub.read_only_token).task == "feature-extraction"


def test_revision_makes_the_branch_and_leaves_main_alone(hub: HubServer, plain: Path, validated: Path) -> None:
    publish(plain, REPO, revision="inf2/v1")
    publish(validated, REPO, revision="inf2/v1")
    assert titles(hub) == ["initial commit"]
    assert titles(hub, "inf2/v1") == ["initial commit", OURS, OURS]
    assert NeuronAutoModel.from_pretrained(REPO, revision="inf2/v1").session.artifact.report() is not None


def test_a_model_saves_and_pushes_itself(hub: HubServer, validated: Path, tmp_path: Path) -> None:
    model = NeuronBertModel.from_pretrained(validated)
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repository_id=REPO, private=True)
    assert_whole(hub.repos[REPO].branches["main"][-1], tmp_path / "saved")
    assert hub.repos[REPO].private
    address = model.push_to_hub(tmp_path / "saved", "tester/other", revision="v1", token=hub.token)
    commit = hub.repos["tester/other"].branches["v1"][-1]
    assert_whole(commit, validated, "tester/other")
    assert address.endswith(f"tester/other/commit/{commit.oid}")


def test_what_was_published_opens_and_runs_like_what_was_pushed(hub: HubServer, validated: Path) -> None:
    from huggingface_hub import snapshot_download

    publish(validated, REPO)
    fetched = Artifact.open(snapshot_download(REPO))
    assert fetched.report() == Artifact.open(validated).report()
    ids = torch.tensor([[101, 7592, 2088, 102]])
    expected = NeuronAutoModel.from_pretrained(validated)(input_ids=ids).last_hidden_state
    assert torch.equal(NeuronAutoModel.from_pretrained(REPO)(input_ids=ids).last_hidden_state, expected)


def test_an_export_is_validated_against_its_commit(hub: HubServer, tiny: Callable[..., Path], tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in tiny("feature-extraction").iterdir()}
    repo = hub.add_repo(REPO, first)
    oid = repo.branches["main"][-1].oid
    artifact = neuronbert.export(ExportSpec(model=REPO, shapes=(StaticShape(1, 16),)), tmp_path / "artifact")
    assert (artifact.manifest.source.revision, artifact.manifest.source.path) == (oid, None)
    other = tiny("feature-extraction", num_hidden_layers=1)
    repo.commit("main", "other weights", "", {**first, **{path.name: path.read_bytes() for path in other.iterdir()}})
    assert neuronbert.validate(artifact.path).passed


@pytest.mark.parametrize(("model", "revision"), [("tester/none", None), (REPO, "v9"), (REPO, "0" * 40)])
def test_what_the_hub_does_not_have_is_not_found(hub: HubServer, plain: Path, model: str, revision: str | None) -> None:
    publish(plain, REPO)
    with pytest.raises(ModelNotFoundError, match="the Hub has no") as caught:
        NeuronAutoModel.from_pretrained(model, revision=revision)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mishap", ["503", "cut", "lost", "lost 504"])
def test_one_mishap_at_any_step_makes_one_commit(hub: HubServer, plain: Path, step: str, mishap: str) -> None:
    strike(hub, step, mishap)
    address = publish(plain, REPO, revision="v1")
    assert titles(hub, "v1") == ["initial commit", OURS]
    assert_whole(hub.repos[REPO].branches["v1"][-1], plain)
    assert address.endswith(hub.repos[REPO].branches["v1"][-1].oid)
    assert not hub._faults, "the mishap struck"


@pytest.mark.parametrize("step", [step for step in STEPS if step != "/lfs-verify"])
@pytest.mark.parametrize("mishap", ["503", "cut"])
def test_a_mishap_that_does_not_end_leaves_nothing(hub: HubServer, plain: Path, step: str, mishap: str) -> None:
    hub.add_repo(REPO, {})
    strike(hub, step, mishap, times=99)
    with pytest.raises(HubError) as caught:
        publish(plain, REPO, revision="v1")
    assert "\n" not in str(caught.value)
    assert {title for branch in hub.repos[REPO].branches for title in titles(hub, branch)} == {"initial commit"}
    assert 4 <= sum(step in path for _, path in hub.requests) <= 30


@pytest.mark.parametrize("status", ["401", "403"])
@pytest.mark.parametrize("step", WRITES)
def test_a_refusal_at_any_step_is_not_tried_again(hub: HubServer, plain: Path, step: str, status: str) -> None:
    strike(hub, step, status, times=99)
    with pytest.raises(HubAccessError, match=status):
        publish(plain, REPO, revision="v1")
    assert sum(step in path for _, path in hub.requests) == 1
    assert all(len(titles(hub, branch)) == 1 for branch in (hub.repos[REPO].branches if hub.repos else ()))


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(("token", "status"), [("hf_read", 403), ("hf_wrong", 401), (False, 401)])
def test_a_token_that_may_not_write_changes_nothing(
    hub: HubServer, plain: Path, token: str | bool, status: int, there: bool
) -> None:
    before = [hub.add_repo(REPO, {})] if there else []
    with pytest.raises(HubAccessError, match=str(status)):
        publish(plain, REPO, token=token)
    assert list(hub.repos.values()) == before
    assert all(len(titles(hub)) == 1 for _ in before)


@pytest.mark.parametrize("token", ["hf_se\ncret", "hf_sécret", "hf_se cret", ""])
def test_a_token_that_no_request_can_carry_is_refused_and_not_repeated(hub: HubServer, plain: Path, token: str) -> None:
    for ask in (lambda: publish(plain, REPO, token=token), lambda: door.resolve(REPO, files=None, token=token)):
        with pytest.raises(InvalidOptionError, match="token") as caught:
            ask()
        assert "cret" not in str(caught.value)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "../x", "a--b/c", "a/b..c", "a/b.git", "bért", "a" * 97, "a/-b"])
def test_a_name_that_no_repository_can_have_is_refused(hub: HubServer, plain: Path, name: str) -> None:
    with pytest.raises(InvalidOptionError, match="repository_id"):
        publish(plain, name)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("moment", "mishap", "landed"),
    [("/lfs-verify", "", []), ("/lfs-verify", "503", []), ("/lfs-verify", "lost", []), ("/commit/", "lost", [OURS])],
)
def test_somebody_elses_commit_in_between_is_not_overwritten(
    hub: HubServer, plain: Path, monkeypatch: pytest.MonkeyPatch, moment: str, mishap: str, landed: list[str]
) -> None:
    repo = hub.add_repo(REPO, {})
    after(monkeypatch, hub, moment, lambda: repo.commit("main", "theirs", "", {"README.md": b"theirs"}))
    if mishap:
        strike(hub, "/commit/", mishap)
    with pytest.raises(HubError, match="A commit has happened since"):
        publish(plain, REPO)
    assert titles(hub) == ["initial commit", *landed, "theirs"]
    assert repo.branches["main"][-1].files == {"README.md": b"theirs"}
    publish(plain, REPO)
    assert titles(hub) == ["initial commit", *landed, "theirs", OURS]


def test_a_commit_that_lands_late_is_made_once(hub: HubServer, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve, held = hub.dispatch, []

    def dispatch(ask: Exchange) -> Reply:
        if "/commit/" in ask.path and not held:
            held.append(ask)
            after(monkeypatch, hub, "/preupload/", lambda: serve(ask))  # when the next attempt is under way
            return refusal(504, "it takes long")
        return serve(ask)

    monkeypatch.setattr(hub, "dispatch", dispatch)
    address = publish(plain, REPO)
    assert titles(hub) == ["initial commit", OURS]
    assert address.endswith(hub.repos[REPO].branches["main"][-1].oid)
    assert sum("/commit/" in path for _, path in hub.requests) == 2
