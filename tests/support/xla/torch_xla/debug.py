"""The counters of the stand-in: what it was told that torch_xla computed on the CPU."""

from __future__ import annotations

import os


class metrics:  # noqa: N801  a module of torch_xla
    @staticmethod
    def clear_counters() -> None: ...

    @staticmethod
    def counter_names() -> list[str]:
        return ["xla::add", *os.environ.get("DOUBLE_COMPUTES", "").split()]
