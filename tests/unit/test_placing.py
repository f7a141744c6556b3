"""What each worker of a pool gets of the machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neuronbert import sdk
from neuronbert.backends.base import Placement
from neuronbert.errors import InvalidOptionError
from neuronbert.variables import find_cores
from neuronbert.workers.placing import share

INF2 = sdk.Device("inf2", 2)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda count: monkeypatch.setattr(torch, "get_num_threads", lambda: count)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(device: sdk.Device | None, **variables: str) -> None:
        monkeypatch.setattr(sdk, "find_device", lambda: device)
        for name in ("NEURON_RT_VISIBLE_CORES", "NEURON_RT_NUM_CORES", "NEURON_LOGICAL_NC_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize(("given", "workers", "each"), [(2, 2, 1), (8, 3, 2), (1, 4, 1), (4, 1, 4)])
def test_the_threads_of_one_process_are_divided(threads: Any, given: int, workers: int, each: int) -> None:
    threads(given)
    assert [item.threads for item in share("cpu", workers, Placement())] == [each] * workers


def test_the_cpu_has_no_cores_to_place_on() -> None:
    with pytest.raises(InvalidOptionError, match="placement"):
        share("cpu", 1, Placement(first_core=0))


@pytest.mark.parametrize(
    ("variables", "first", "cores"),
    [
        ({}, None, ["0", "1"]),
        ({}, 2, ["2", "3"]),
        ({"NEURON_RT_VISIBLE_CORES": "1-3"}, None, ["1", "2"]),
        ({"NEURON_RT_VISIBLE_CORES": "1,2,3"}, 1, ["2", "3"]),
        ({"NEURON_RT_NUM_CORES": "2"}, None, ["0", "1"]),
    ],
)
def test_workers_get_cores_that_follow_one_another(
    machine: Any, variables: dict[str, str], first: int | None, cores: list[str]
) -> None:
    machine(INF2, **variables)
    shares = share("inf2", 2, Placement(first_core=first))
    assert [item.environment["NEURON_RT_VISIBLE_CORES"] for item in shares] == cores
    assert all(item.environment["NEURON_RT_NUM_CORES"] is None for item in shares)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"NEURON_RT_VISIBLE_CORES": "1-2"}, "workers is 3; it must be 2 or less"),
        ({"NEURON_RT_NUM_CORES": "1"}, "workers is 3; it must be 1 or less"),
        ({"NEURON_RT_VISIBLE_CORES": "3,1"}, "NEURON_RT_VISIBLE_CORES is '3,1'; it must be another"),
        ({"NEURON_RT_VISIBLE_CORES": "2-9"}, "NEURON_RT_VISIBLE_CORES is '2-9'; it must be another"),
        ({"NEURON_RT_NUM_CORES": "many"}, "NEURON_RT_NUM_CORES is 'many'; it must be another"),
    ],
)
def test_cores_that_are_not_there_are_refused(machine: Any, variables: dict[str, str], said: str) -> None:
    machine(INF2, **variables)
    with pytest.raises(InvalidOptionError, match=said):
        share("inf2", 3, Placement())


@pytest.mark.parametrize(
    ("device", "variables", "cores"),
    [
        (INF2, {}, range(4)),
        (sdk.Device("trn2", 1), {}, range(4)),
        (sdk.Device("trn2", 1), {"NEURON_LOGICAL_NC_CONFIG": "1"}, range(8)),
        (sdk.Device(None, 1), {}, None),
        (None, {}, None),
        (None, {"NEURON_RT_VISIBLE_CORES": "5"}, range(5, 6)),
        (INF2, {"NEURON_RT_NUM_CORES": "0"}, range(4)),
    ],
)
def test_how_many_cores_there_are(device: sdk.Device | None, variables: dict[str, str], cores: range | None) -> None:
    assert find_cores(variables, device) == cores
