"""How a matrix is run, and who is told how it goes.

Owns: Settings and Listener. Knows nothing of cells' insides.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuronbert.errors import InvalidOptionError
from neuronbert.matrix import memory
from neuronbert.matrix.pool import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuronbert.matrix.results import Result

logger = logging.getLogger("neuronbert")

_SHARE: Final = 0.8
"""Of the memory that is free, what a run takes unless it is told: the estimates are no promises."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a matrix is run.

    Attributes:
        jobs: Cells at once; None for one on every core. Of those that run on a Neuron device, it is one at a time.
        max_memory: Bytes that cells may be expected to take together; None for most of what is free.
        timeout: Seconds that a cell may take.
        require: Targets whose cells must be compiled, or with ":run" run as well; "all" for every target.
        only: Patterns; a cell whose id matches none of them is left out. Empty for all cells.
        fresh: Repeat what passed before.
        token: For the Hub.
    """

    jobs: int | None = None
    max_memory: int | None = None
    timeout: float | None = None
    require: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    fresh: bool = False
    token: str | bool | None = None

    def __post_init__(self) -> None:
        for name in ("jobs", "max_memory", "timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidOptionError(name, value, "more than 0")

    @property
    def limits(self) -> Limits:
        """The limits of the pool, from the machine where none were given."""
        jobs = self.jobs or len(os.sched_getaffinity(0))
        bound = self.max_memory or round(memory.available() * _SHARE)
        return Limits(jobs, bound, self.timeout)


def _ignore(_result: Result, _done: int, _total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how a run goes on.

    Attributes:
        progress: Told what is being done, a few words at a time.
        finished: Told of each cell: its result, how many have one, and of how many.
    """

    progress: Callable[[str], None] = logger.info
    finished: Callable[[Result, int, int], None] = _ignore
