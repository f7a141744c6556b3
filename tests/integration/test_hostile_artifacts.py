"""Artifacts with a valid seal that want more than to be run: refused before they get it."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig

from neuronbert import Artifact, NeuronAutoModel, Predictor
from neuronbert.artifact import seal
from neuronbert.errors import ArtifactCorruptError


def plant(artifact: Path, module: nn.Module) -> None:
    """Put a scripted program in the place of the artifact's, and seal it."""
    torch.jit.save(torch.jit.script(module), artifact / "model.neuron")
    seal(artifact, Artifact.open(artifact, verify=False).manifest)


class ActsWhenLoaded(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        return (ids.float(),)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.target = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])


class Writes(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        torch.save(ids, self.target)
        return (ids.float(),)


class Prints(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        print("\x1b[2J")  # noqa: T201
        return (ids.float(),)


@torch.jit.interface
class Hidden(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        pass


class WritesWhenCalled(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, ids: Tensor) -> Tensor:
        torch.save(ids, self.target)
        return ids


class CallsHidden(nn.Module):
    """What is called through an interface isn't in the inlined graph."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.inner = WritesWhenCalled(target)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        return (self.inner.forward(ids).float(),)


CallsHidden.__annotations__["inner"] = Hidden  # TorchScript takes no annotation that is a string


class Draws(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        torch.manual_seed(1)
        return (ids.float(),)


class Loops(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        while int(ids.sum()) < 10**9:
            ids = ids + 0
        return (ids.float(),)


class Raises(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor]:
        return (ids.float().view(7, 7, 7),)


def replant(artifact: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a member of the artifact's program, and seal it."""
    path = artifact / "model.neuron"
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, change(content) if member.endswith(name) else content)
    seal(artifact, Artifact.open(artifact, verify=False).manifest)


@pytest.fixture
def artifact(exported: Callable[..., Path], copied: Callable[[Path], Path]) -> Path:
    return copied(exported("fill-mask"))


def test_code_that_runs_while_a_program_is_loaded_never_runs(artifact: Path, tmp_path: Path) -> None:
    target = tmp_path / "written"
    plant(artifact, ActsWhenLoaded(str(target)))
    target.unlink(missing_ok=True)  # making the program has written it already
    with pytest.raises(ArtifactCorruptError, match="run while it is loaded"):
        NeuronAutoModel.from_pretrained(artifact)
    assert not target.exists()


@pytest.mark.parametrize(
    "module",
    [Writes("/tmp/never"), Prints(), CallsHidden("/tmp/never"), Draws(), Loops()],
    ids=["writes", "prints", "calls what is not shown", "draws", "loops"],
)
def test_a_program_that_acts_outside_itself_is_refused(artifact: Path, module: nn.Module) -> None:
    plant(artifact, module)
    with pytest.raises(ArtifactCorruptError, match="which no encoder needs"):
        NeuronAutoModel.from_pretrained(artifact)


def test_a_native_class_that_only_the_pickle_names_is_never_built(artifact: Path) -> None:
    built = b"c__torch__.torch.classes.quantized\nLinearPackedParamsBase\n)\x81Nb0"
    replant(artifact, "/data.pkl", lambda content: content[:2] + built + content[2:])
    with pytest.raises(ArtifactCorruptError, match=r"names __torch__\.torch\.classes\.quantized"):
        NeuronAutoModel.from_pretrained(artifact)


def test_brackets_without_end_do_not_end_the_process(artifact: Path) -> None:
    deep = b"(" * 100_000 + b")" * 100_000
    replant(artifact, ".py", lambda code: code + b"\n# " + deep)
    with pytest.raises(ArtifactCorruptError, match="can't be read"):
        NeuronAutoModel.from_pretrained(artifact)


def test_a_program_that_fails_when_it_runs_is_one_clear_error(artifact: Path) -> None:
    plant(artifact, Raises())
    model = NeuronAutoModel.from_pretrained(artifact)
    with pytest.raises(ArtifactCorruptError, match="can't be run"):
        model(input_ids=torch.ones(2, 32, dtype=torch.int64))


@pytest.mark.parametrize("content", [b"", b"PK", b"not a program at all" * 100])
def test_a_file_that_is_no_program_is_refused(artifact: Path, content: bytes) -> None:
    (artifact / "model.neuron").write_bytes(content)
    seal(artifact, Artifact.open(artifact, verify=False).manifest)
    with pytest.raises(ArtifactCorruptError, match="is not a TorchScript archive"):
        NeuronAutoModel.from_pretrained(artifact)


def test_an_archive_whose_code_is_damaged_is_refused(artifact: Path) -> None:
    with zipfile.ZipFile(artifact / "model.neuron", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/code/head.py", b"def forward(self):\n  pass\n" * 100)
    content = bytearray((artifact / "model.neuron").read_bytes())
    start = content.index(b"head.py") + len(b"head.py")
    content[start : start + 20] = b"\xff" * 20
    (artifact / "model.neuron").write_bytes(content)
    seal(artifact, Artifact.open(artifact, verify=False).manifest)
    with pytest.raises(ArtifactCorruptError, match="is not a TorchScript archive"):
        NeuronAutoModel.from_pretrained(artifact)


def test_an_archive_with_two_members_of_one_name_is_refused(artifact: Path) -> None:
    with zipfile.ZipFile(artifact / "model.neuron", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], b"another")
    seal(artifact, Artifact.open(artifact, verify=False).manifest)
    with pytest.raises(ArtifactCorruptError, match="two members"):
        NeuronAutoModel.from_pretrained(artifact)


def test_code_that_a_config_names_is_never_run(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = artifact / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "nope", "auto_map": {"AutoConfig": "evil.C"}}))
    (artifact / "evil.py").write_text(f"open({str(artifact / 'executed')!r}, 'w')\nclass C: pass\n")
    seal(artifact, Artifact.open(artifact, verify=False).manifest)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    model = NeuronAutoModel.from_pretrained(artifact)  # the verified manifest says which config it is
    assert type(model.config) is BertConfig
    Predictor(model.session)
    assert not (artifact / "executed").exists()


@pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"num_labels": -1, "id2label": 3}], ids=str)
def test_a_config_that_makes_none_is_refused(artifact: Path, changes: dict[str, object]) -> None:
    path = artifact / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    seal(artifact, Artifact.open(artifact, verify=False).manifest)
    with pytest.raises(ArtifactCorruptError, match="makes no config"):
        NeuronAutoModel.from_pretrained(artifact)
