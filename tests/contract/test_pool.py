"""A pool on a Neuron target, through the double: one process to a NeuronCore, told before the library starts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neuronbert import Artifact, Pool
from neuronbert.backends.base import Placement
from neuronbert.errors import InvalidOptionError
from neuronbert.runtime import Session
from neuronbert.workers.crew import Health

INPUTS = {"input_ids": torch.tensor([[101, 2000, 2001, 102]])}


@pytest.fixture
def artifact(
    host: Any, exporting: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An artifact for inf2 on a machine that has one device of two cores, in other processes as well."""
    host("inf2")
    device = """
        from neuronbert import sdk
        sdk.find_device = lambda *_: sdk.Device("inf2", 1)
    """
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(device))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.delenv("NEURON_RT_VISIBLE_CORES", raising=False)
    monkeypatch.delenv("NEURON_RT_NUM_CORES", raising=False)
    return exporting().path


def environment(worker: Health) -> dict[str, str]:
    entries = Path(f"/proc/{worker.pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def test_each_worker_has_a_core_of_its_own(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Session.open(artifact).run(INPUTS)
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "2")  # it would be at odds with the list of cores
    with Pool.open(artifact, workers=2) as pool:
        environments = [environment(worker) for worker in pool.health()]
        assert [given["NEURON_RT_VISIBLE_CORES"] for given in environments] == ["0", "1"]
        assert not any("NEURON_RT_NUM_CORES" in given for given in environments)
        assert torch.equal(pool.run(INPUTS)["logits"], expected["logits"])


def test_the_cores_are_those_of_the_parent_from_where_it_is_told(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "0-1")
    with Pool.open(artifact, workers=1, placement=Placement(first_core=1)) as pool:
        assert environment(pool.health()[0])["NEURON_RT_VISIBLE_CORES"] == "1"


@pytest.mark.parametrize(
    ("workers", "placement", "said"),
    [
        (3, Placement(), r"workers is 3; it must be 2 or less: .* this process sees 2"),
        (2, Placement(first_core=1), r"workers is 2; it must be 1 or less: .* this process sees 2"),
        (1, Placement(cores=2), r"placement.cores is 2"),
    ],
)
def test_more_workers_than_cores_are_refused(artifact: Path, workers: int, placement: Placement, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        Pool.open(artifact, workers=workers, placement=placement)


def test_what_the_device_refuses_is_the_pools_error(artifact: Path, host: Any) -> None:
    host.set_machine(device="inf2", busy=True)
    with pytest.raises(Exception, match="Neuron") as caught:
        Pool.open(artifact, workers=1)
    assert type(caught.value).__name__ == "DeviceLoadError"
