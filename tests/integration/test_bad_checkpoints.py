"""Checkpoints and outputs that can't be used: one clear error, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronbert import Artifact, ExportSpec, NeuronAutoModel, StaticShape, errors, export

SHAPE = (StaticShape(1, 16),)


@pytest.fixture
def checkpoint(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("fill-mask"), tmp_path / "checkpoint"))


def edit(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refuse(checkpoint: Path | str, error: type[errors.NeuronBertError], out: Path, **options: Any) -> str:
    """Export, expect an error of one line, and expect nothing to be left at the output or beside it."""
    options = {"shapes": SHAPE, "task": "fill-mask", **options}
    before = set(out.parent.iterdir())
    with pytest.raises(error) as caught:
        export(ExportSpec(model=str(checkpoint), **options), out)
    assert set(out.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"position_embedding_type": "relative_key"}, errors.UnsupportedFeatureError),
        ({"position_embedding_type": "relative_key_query"}, errors.UnsupportedFeatureError),
        ({"model_type": "gpt2"}, errors.UnsupportedModelError),
        ({"model_type": 3}, errors.CheckpointCorruptError),
        ({"model_type": None}, errors.CheckpointCorruptError),
        ({"vocab_size": "many"}, errors.CheckpointCorruptError),
        ({"vocab_size": 0}, errors.CheckpointCorruptError),
        ({"max_position_embeddings": -1}, errors.CheckpointCorruptError),
        ({"type_vocab_size": None}, errors.CheckpointCorruptError),
        ({"hidden_size": 64}, errors.CheckpointCorruptError),
        ({"hidden_size": "wide"}, errors.CheckpointCorruptError),
        ({"num_attention_heads": 5}, errors.CheckpointCorruptError),
        ({"num_attention_heads": 0}, errors.CheckpointCorruptError),
        ({"num_hidden_layers": 3}, errors.CheckpointCorruptError),
        ({"num_hidden_layers": 1}, errors.CheckpointCorruptError),
        ({"num_hidden_layers": 0}, errors.CheckpointCorruptError),
        ({"num_hidden_layers": 10**9}, errors.CheckpointCorruptError),
        ({"chunk_size_feed_forward": 4}, errors.UnsupportedFeatureError),
        ({"hidden_act": "no-such-function"}, errors.CheckpointCorruptError),
        ({"layer_norm_eps": "small"}, errors.CheckpointCorruptError),
    ],
    ids=str,
)
def test_a_config_that_makes_no_program_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], error: type
) -> None:
    edit(checkpoint, **changes)
    refuse(checkpoint, error, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"a":' * 3000, b"[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(checkpoint: Path, tmp_path: Path, content: bytes) -> None:
    (checkpoint / "config.json").write_bytes(content)
    refuse(checkpoint, errors.CheckpointCorruptError, tmp_path / "out")


def test_truncated_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refuse(checkpoint, errors.CheckpointCorruptError, tmp_path / "out")
    weights.write_bytes(b"\xff" * 64)
    refuse(checkpoint, errors.CheckpointCorruptError, tmp_path / "out")
    weights.unlink()
    refuse(checkpoint, errors.MissingFileError, tmp_path / "out")


def test_pickled_weights_are_never_loaded(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    torch.save(Payload(), checkpoint / "pytorch_model.bin")
    assert "safetensors" in refuse(checkpoint, errors.UnsafeWeightsError, tmp_path / "out")
    assert not marker.exists()


def test_shards_outside_the_folder_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"weight": "../outside.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(checkpoint, errors.CheckpointCorruptError, tmp_path / "out")


def test_a_sharded_checkpoint_is_exported(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import transformers

    model = transformers.BertForMaskedLM.from_pretrained(tiny("fill-mask"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="1MB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    export(ExportSpec(model=str(tmp_path / "sharded"), shapes=SHAPE, auto_cast="none"), tmp_path / "out")
    given = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = model.eval()(given).logits
    # fp32 on both sides
    torch.testing.assert_close(NeuronAutoModel.from_pretrained(tmp_path / "out")(given).logits, expected)


def test_a_head_that_the_checkpoint_lacks_is_refused_unless_asked_for(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    said = refuse(tiny("feature-extraction"), errors.HeadWeightsMissingError, tmp_path / "out")
    assert "--allow-random-weights" in said
    spec = ExportSpec(model=str(tiny("feature-extraction")), shapes=SHAPE, task="fill-mask", allow_random_weights=True)
    artifact = export(spec, tmp_path / "out")
    assert "cls.predictions.bias" in artifact.manifest.source.random_weights


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"task": "summarization"}, errors.UnknownTaskError),
        ({"task": "no-such-task"}, errors.UnknownTaskError),
        ({"shapes": (StaticShape(1, 65),)}, errors.SequenceExceedsPositionsError),
        ({"shapes": (StaticShape(1, 16, 2),)}, errors.InvalidShapeError),
        ({"task": "multiple-choice"}, errors.InvalidShapeError),
        ({"target": "gpu"}, errors.InvalidOptionError),
        ({"target": "inf2"}, errors.BackendUnavailableError),
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_met_is_refused(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], error: type
) -> None:
    refuse(checkpoint, error, tmp_path / "out", **options)


@pytest.mark.parametrize("name", ["masked-lm", "fill-mask", "auto"])
def test_a_task_may_be_named_as_optimum_names_it(checkpoint: Path, tmp_path: Path, name: str) -> None:
    artifact = export(ExportSpec(model=str(checkpoint), shapes=SHAPE, task=name), tmp_path / "out")
    assert artifact.manifest.task == "fill-mask"


def test_pretraining_is_not_taken_for_feature_extraction(tiny: Callable[..., Path], tmp_path: Path) -> None:
    spec = ExportSpec(model=str(tiny("pre-training")), shapes=SHAPE, task="pretraining")
    assert export(spec, tmp_path / "out").manifest.task == "pre-training"


@pytest.mark.parametrize("model", ["/no/such/folder", "no/such/model/at/all", "no-such/model", "..", "a b"])
def test_a_model_that_is_nowhere_is_refused(model: str, tmp_path: Path) -> None:
    wanted = errors.MissingFileError if model == ".." else errors.ModelNotFoundError
    refuse(model, wanted, tmp_path / "out")


def test_an_output_that_is_there_needs_force(checkpoint: Path, tmp_path: Path) -> None:
    spec = ExportSpec(model=str(checkpoint), shapes=SHAPE)
    out = tmp_path / "out"
    out.mkdir()
    export(spec, out)  # an empty folder may be there
    with pytest.raises(errors.OutputExistsError, match="--force"):
        export(spec, out)
    longer = ExportSpec(model=str(checkpoint), shapes=(StaticShape(1, 32),))
    assert export(longer, out, overwrite=True).manifest.shapes == (StaticShape(1, 32),)
    Artifact.open(out)


def test_what_is_not_an_artifact_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.OutputExistsError, match="never replaced"):
        export(ExportSpec(model=str(checkpoint), shapes=SHAPE), mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_failed_export_leaves_the_old_artifact(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(ExportSpec(model=str(checkpoint), shapes=SHAPE), out)
    digest = Artifact.open(out).manifest
    (checkpoint / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(errors.CheckpointCorruptError):
        export(ExportSpec(model=str(checkpoint), shapes=SHAPE), out, overwrite=True)
    assert Artifact.open(out).manifest == digest
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "out"}


FULL_DISK = """
import resource, sys
from neuronbert import ExportSpec, StaticShape, errors, export
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # writing more fails, as on a full disk
try:
    export(ExportSpec(model=sys.argv[1], shapes=(StaticShape(1, 16),)), sys.argv[2])
except errors.StorageError as error:
    print(error)
"""


def test_a_full_disk_is_one_error_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = [sys.executable, "-W", "ignore", "-c", FULL_DISK, str(checkpoint), str(out)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "can't be written" in done.stdout, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}


SLOW_EXPORT = """
import sys, time
from neuronbert.backends import torchscript
save = torchscript.save
def slow(module, path):
    save(module, path)
    print("saved", file=sys.stderr, flush=True)
    time.sleep(60)
torchscript.save = slow
sys.argv = ["neuronbert", "export", "--model", sys.argv[1], "--sequence-length", "16", "--no-cache", sys.argv[2]]
from cli.app import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_export_leaves_no_output(checkpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    run = [sys.executable, "-W", "ignore", "-c", SLOW_EXPORT, str(checkpoint), str(out)]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "saved\n" in iter(process.stderr.readline, "")  # reads up to it, no further
        time.sleep(0.1)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=30)
    assert not out.exists()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert complaint.strip() == "Interrupted."
        assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}
    # What a killed process leaves is hidden, and the next export takes it away.
    export(ExportSpec(model=str(checkpoint), shapes=SHAPE), out)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "out"}


def test_random_weights_never_stand_in_for_the_encoder(checkpoint: Path, tmp_path: Path) -> None:
    edit(checkpoint, num_hidden_layers=3)
    said = refuse(checkpoint, errors.CheckpointCorruptError, tmp_path / "out", allow_random_weights=True)
    assert "not of a head" in said


def test_an_export_from_inside_its_own_folder_works(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    artifact = export(ExportSpec(model=str(checkpoint), shapes=SHAPE), ".")
    assert artifact.path == tmp_path / "here"
    assert NeuronAutoModel.from_pretrained(artifact.path)(torch.ones(1, 2, dtype=torch.int64)).logits.shape[1] == 2
