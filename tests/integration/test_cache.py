"""The compile cache under real exports: what is copied answers as what was compiled, and what changed is compiled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from neuronbert import (
    Artifact,
    Cache,
    ExportSpec,
    NeuronBertForMaskedLM,
    NeuronBertModel,
    StaticShape,
    export,
    modeling,
    validate,
)
from tests.conftest import Done, save_tiny
from tests.unit.builders import names
from tests.unit.jobs import same_stat

SHAPE = StaticShape(1, 16)


@dataclass
class Place:
    """A checkpoint of its own, a cache of its own, and how often something was compiled."""

    folder: Path
    checkpoint: Path
    cache: Cache
    compiled: int = 0

    def export(self, output: str, **options: Any) -> Artifact:
        given = {"model": str(self.checkpoint), "shapes": (SHAPE,), "task": "fill-mask", "auto_cast": "none", **options}
        return export(ExportSpec(**given), self.folder / output, cache=self.cache)


@pytest.fixture
def place(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, save_tiny(tmp_path / "bert", minilm, "fill-mask"), Cache(tmp_path / "cache", 1 << 30))
    load = modeling.load

    def counted(*arguments: Any, **options: Any) -> modeling.LoadedHead:
        made.compiled += 1
        return load(*arguments, **options)

    monkeypatch.setattr(modeling, "load", counted)
    return made


def retrain(checkpoint: Path) -> None:
    """One weight changes; the file keeps its name, its size and its time."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.embeddings.word_embeddings.weight"][:, 0] += 1
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    same_stat(path, lambda: save_file(tensors, path, metadata))


def test_an_artifact_from_the_cache_passes_its_validation(place: Place) -> None:
    made, copied = place.export("made"), place.export("copied")
    assert place.compiled == 1
    Artifact.open(copied.path)
    assert validate(copied.path).passed
    assert (made.path / "model.neuron").read_bytes() == (copied.path / "model.neuron").read_bytes()


def test_a_retrained_checkpoint_never_gets_the_old_program(place: Place) -> None:
    before = place.export("before")
    retrain(place.checkpoint)
    after = place.export("after")
    assert place.compiled == 2
    ids = torch.tensor([[101, 2023, 102]])
    old, new = (NeuronBertForMaskedLM.from_pretrained(artifact.path)(ids).logits for artifact in (before, after))
    assert (old - new).abs().max() > 0.01
    assert place.export("once-more").manifest.source.weights_sha256 == after.manifest.source.weights_sha256
    assert place.compiled == 2
    assert validate(after.path).passed  # against the weights that lie there now


def test_an_artifact_from_the_cache_tells_of_its_own_export(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = place.export("made")
    moved = place.checkpoint.rename(place.folder / "moved")
    copied = place.export("copied", model=str(moved))
    assert place.compiled == 1
    assert (made.manifest.source.model, copied.manifest.source.model) == ("bert", "moved")
    assert copied.manifest.source.path == str(moved)
    assert "# moved, compiled by neuronbert" in (copied.path / "README.md").read_text()
    alike = {"created", "source", "files"}
    assert copied.manifest.model_dump(exclude=alike) == made.manifest.model_dump(exclude=alike)


@pytest.mark.parametrize(
    "options",
    [{"auto_cast": "all"}, {"shapes": (StaticShape(2, 16),)}, {"task": "feature-extraction"}, {"dynamic_batch": True}],
    ids=str,
)
def test_another_program_is_compiled(place: Place, options: dict[str, Any]) -> None:
    place.export("made")
    place.export("other", **options)
    assert place.compiled == 2


def test_what_the_export_warned_of_is_said_again(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for output in ("made", "copied"):
        caplog.clear()
        place.export(output, task="text-generation")
        assert ["is_decoder" in message for message in caplog.messages] == [True]
    assert place.compiled == 1


def test_random_weights_are_drawn_anew(place: Place) -> None:
    for output in ("one", "two"):
        place.export(output, task="question-answering", allow_random_weights=True)
    assert place.compiled == 2
    assert place.cache.entries() == []


def test_it_can_be_left_out(place: Place) -> None:
    spec = ExportSpec(model=str(place.checkpoint), shapes=(SHAPE,), task="fill-mask")
    for output in ("one", "two"):
        export(spec, place.folder / output, cache=False)
    assert place.compiled == 2


def test_models_that_are_exported_when_they_are_loaded_use_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", str(place.folder / "mine"))
    monkeypatch.delenv("NEURONBERT_CACHE_LIMIT")
    for _ in range(2):
        NeuronBertModel.from_pretrained(place.checkpoint, export=True, batch_size=1, sequence_length=16)
    assert place.compiled == 1
    assert len(Cache().entries()) == 1
    NeuronBertModel.from_pretrained(place.checkpoint, export=True, batch_size=1, sequence_length=16, cache=False)
    assert place.compiled == 2


# The command line.


@pytest.fixture
def command(
    run: Callable[..., Done], tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Runs a command line with a cache in the test's folder; CHECKPOINT is a small checkpoint."""
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NEURONBERT_CACHE_LIMIT")
    return lambda *given: run(*(tiny("fill-mask") if word == "CHECKPOINT" else word for word in given))


EXPORT = ("export", "--model", "CHECKPOINT", "--sequence-length", "16")


def test_a_copy_imports_no_framework(command, tiny, tmp_path: Path) -> None:
    assert command(*EXPORT, tmp_path / "made").code == 0
    line = [sys.executable, "-X", "importtime", "-m", "cli", "export", "--model", str(tiny("fill-mask"))]
    arguments = [*line, "--sequence-length", "16", str(tmp_path / "copied")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "pydantic" in imported
    assert imported & {"torch", "transformers", "optimum", "huggingface_hub"} == set()
    Artifact.open(tmp_path / "copied")


def test_the_command_line_lists_checks_and_clears_it(command, tmp_path: Path) -> None:
    done = command("cache", "ls")
    assert (done.code, done.out) == (0, "")
    assert done.err == f"entries: 0, 0 B of 20 GiB, in {tmp_path / 'cache'}\n"
    command(*EXPORT, tmp_path / "made")
    (row,) = json.loads(command("cache", "ls", "--json").out)["entries"]
    assert (row["task"], row["target"], row["shapes"]) == ("fill-mask", "cpu", ["1x16"])
    assert row["size"] > (tmp_path / "made" / "model.neuron").stat().st_size
    assert row["key"][:12] in command("cache", "ls").out
    assert command("cache", "verify").out == "entries: 1, each as it was written\n"
    (program,) = (tmp_path / "cache").glob("*/*/files/model.neuron")
    os.truncate(program, 1000)
    done = command("cache", "verify")
    assert done.code == 1
    assert "model.neuron was altered" in done.out
    assert done.err.startswith("Error: 1 entry is damaged")
    assert command("cache", "verify", "--repair").code == 0
    assert command("cache", "verify").out == "entries: 0, each as it was written\n"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_program_is_compiled_anew_and_said_so(
    command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command(*EXPORT, tmp_path / "made")
    (program,) = (tmp_path / "cache").glob("*/*/files/model.neuron")
    os.truncate(program, 1000)
    done = command(*EXPORT, tmp_path / "again")
    assert done.code == 0
    assert "compiling anew: the cached program " in caplog.text
    Artifact.open(tmp_path / "again")


def test_entries_are_removed_by_key_by_age_or_all(command, tmp_path: Path) -> None:
    def keys() -> list[str]:
        return [path.name for path in (tmp_path / "cache").glob("*/*")]

    for number in (1, 2, 3):
        command(*EXPORT, "--batch-size", number, tmp_path / f"made{number}")
    first, old, _ = sorted(keys())
    assert command("cache", "rm", first[:20]).out.startswith("removed: 1, ")
    (record,) = (tmp_path / "cache").glob(f"*/{old}/entry.json")
    os.utime(record, (1, 1))
    body = json.loads(command("cache", "rm", "--older-than", "12h", "--json").out)
    assert body["removed"] == [old]
    assert body["size"] > 0
    assert len(keys()) == 1
    assert old not in keys()
    command("cache", "rm", "--all")
    assert keys() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rm"], "KEY, --all or --older-than is missing"),
        (["rm", "--all", "abc"], "KEY, --all or --older-than is missing"),
        (["rm", "abc"], "No entry of the cache begins with 'abc'"),
        (["rm", "--older-than", "old"], "--older-than is 'old'"),
    ],
    ids=str,
)
def test_wrong_use_is_one_line(command, arguments: list[str], said: str) -> None:
    done = command("cache", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: {said}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("part", ["ls", "rm", "verify"])
def test_every_help_has_an_example(command, part: str) -> None:
    assert f"Example: neuronbert cache {part}" in command("cache", part, "--help").out


def test_no_cache_leaves_it_alone(command, tmp_path: Path) -> None:
    assert command(*EXPORT, "--no-cache", tmp_path / "made").code == 0
    assert not (tmp_path / "cache").exists()


def test_an_interrupted_export_leaves_nothing_behind(tiny, tmp_path: Path) -> None:
    code = (
        "import sys; from neuronbert.backends import cpu\n"
        "def compile(*arguments):\n    print('compiling', flush=True); import time; time.sleep(60)\n"
        "cpu.CpuCompiler.compile = compile; import cli.app; cli.app.main()"
    )
    line = [sys.executable, "-c", code, "export", "--model", str(tiny("fill-mask")), str(tmp_path / "out")]
    place = {**os.environ, "NEURONBERT_CACHE_DIR": str(tmp_path / "cache"), "NEURONBERT_CACHE_LIMIT": "1G"}
    arguments = [*line, "--sequence-length", "16"]
    with subprocess.Popen(arguments, env=place, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "compiling\n", "what a compiler prints is no data"
        assert list((tmp_path / "cache").glob("*/*/lock"))
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == "Interrupted.\n"
    assert process.returncode == 130
    assert names(tmp_path) == ["cache"]
    assert names(tmp_path / "cache") == []
