"""What each worker of a pool gets of the machine: NeuronCores, or threads.

Owns: how many workers there can be, and the environment of each. Knows nothing of processes.

A process keeps the NeuronCores that it has, and shares them with nobody (frameworks/torch/torch-neuronx/
programming-guide/inference/core-placement); so each worker is given one, by NEURON_RT_VISIBLE_CORES, before the runtime
starts in it (neuron-runtime/guides/configuration-guide).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from neuronbert import reference, sdk, variables
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.backends.base import Placement


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker gets.

    Attributes:
        threads: How many torch may use.
        environment: What differs from the parent's; None for a variable that must not be there.
    """

    threads: int
    environment: Mapping[str, str | None]


def share(target: str, workers: int, placement: Placement) -> tuple[Share, ...]:
    """A share for each worker.

    Args:
        target: What the programs were compiled for.
        workers: How many there are to be.
        placement: Which NeuronCore the first worker gets, counted among those that this process sees; the others get
            those that follow.

    Raises:
        InvalidOptionError: there can't be so many, or not there.
    """
    if type(workers) is not int or workers < 1:
        raise InvalidOptionError("workers", workers, "a whole number, 1 or more")
    # What one process would use is divided: more threads than that would only wait for each other.
    threads = max(1, torch.get_num_threads() // workers)
    if target == "cpu":
        if placement != ANYWHERE:
            raise InvalidOptionError("placement", placement, "left out: the cpu target has no NeuronCores")
        return (Share(threads, {}),) * workers
    return tuple(
        Share(threads, {reference.VISIBLE_CORES: str(core), reference.NUMBER_OF_CORES: None})
        for core in _cores(workers, placement)
    )


def _cores(workers: int, placement: Placement) -> range:
    if placement.cores != 1:
        raise InvalidOptionError("placement.cores", placement.cores, "left out: each worker has one core")
    first = placement.first_core or 0
    seen = variables.find_cores(os.environ, sdk.find_device())
    if seen is None:
        return range(first, first + workers)
    if first + workers > len(seen):
        expected = f"{max(0, len(seen) - first)} or less: a core goes to one worker, and this process sees {len(seen)}"
        raise InvalidOptionError("workers", workers, f"{expected} (of which the first {first} are left out)")
    return seen[first : first + workers]
