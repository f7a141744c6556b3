"""A stand-in of torch_xla for the process that lowers: the "device" is the CPU, and the HLO one dot a matrix product.

It offers what hlo_worker calls and nothing else, so it shows the way there and back: export, file, process, answer.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__version__ = "2.9.0+double"

assert os.environ["PJRT_DEVICE"] == "CPU"


class _Products(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.addmm.default:
            left, right = (",".join(map(str, value.shape)) for value in args[1:3])
            out = ",".join(map(str, result.shape))
            dims = "lhs_contracting_dims={1}, rhs_contracting_dims={0}"
            self.lines.append(f"  %d.{len(self.lines)} = f32[{out}] dot(f32[{left}] %a, f32[{right}] %b), {dims}")
        return result


class _XLAC:
    _mode: _Products

    @classmethod
    def _set_allow_execution(cls, allow: bool) -> None:
        assert allow is False
        cls._mode = _Products()
        cls._mode.__enter__()

    @classmethod
    def _get_xla_tensors_hlo(cls, outputs: list[torch.Tensor]) -> str:
        cls._mode.__exit__(None, None, None)
        if os.environ.get("DOUBLE_FAILS"):
            raise RuntimeError(os.environ["DOUBLE_FAILS"])
        if "x".join(map(str, outputs[0].shape[:2])) == os.environ.get("DOUBLE_DIES_OF"):
            raise SystemExit("torch_xla died")
        return "HloModule IrToHlo\n\nENTRY %IrToHlo () -> () {\n" + "\n".join(cls._mode.lines) + "\n}\n"


def device() -> str:
    return "cpu"
