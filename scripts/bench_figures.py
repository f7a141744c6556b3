"""Every figure of the benchmark by its name: a function that gives rows of its table.

Owns: the list. Every ratio is of things that are measured in turn in the same run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench_calibration import calibration
from bench_calls import call, choice, load
from bench_cpu import cpu
from bench_exports import cached, checks, exports, memory, size
from bench_int8 import int8
from bench_megatron import megatron
from bench_pool import pool
from bench_ray import ray
from bench_scheduler import scheduler
from bench_serving import servers, serving
from bench_starts import doctor, imports, neff
from bench_texts import texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench_tools import Models, Row

FIGURES: Final[Mapping[str, Callable[[Models, int], list[Row]]]] = {
    "call": call,
    "choice": choice,
    "load": load,
    "cpu": cpu,
    "int8": int8,
    "calibration": calibration,
    "texts": texts,
    "pool": pool,
    "scheduler": scheduler,
    "serving": serving,
    "servers": servers,
    "ray": ray,
    "import": imports,
    "doctor": doctor,
    "export": exports,
    "size": size,
    "memory": memory,
    "neff": neff,
    "cache": cached,
    "check": checks,
    "megatron": megatron,
}
