"""The Neuron compiler's auto-cast, done in the graph on a CPU.

Owns: rounding fp32 values to what a lower type can hold, and where that happens. `matmul` rounds the operands of
every matrix product that is called as such and accumulates in fp32; `all` rounds every weight and the result of every
operation, while softmax and LayerNorm work in fp32 inside (the compiler's mixed-precision accumulation, its default).
Values stay in fp32 tensors throughout. Source: Neuron Compiler CLI reference, `--auto-cast` and `--auto-cast-type`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Rounding = Callable[[Tensor], Tensor]


def round_bf16(value: Tensor) -> Tensor:
    """To 8 exponent and 7 mantissa bits, to nearest even."""
    return value.to(torch.bfloat16).to(torch.float32)


def round_fp16(value: Tensor) -> Tensor:
    """To 5 exponent and 10 mantissa bits, to nearest even; beyond 65504 it overflows to infinity."""
    return value.to(torch.float16).to(torch.float32)


def round_tf32(value: Tensor) -> Tensor:
    """To 8 exponent and 10 mantissa bits, to nearest even."""
    mantissa, exponent = torch.frexp(value)  # 0.5 to 1, so 11 bits of it are the leading one and ten more
    # The power is taken one lower: 2**exponent itself can be out of fp32's range.
    return torch.ldexp(torch.round(mantissa * 2048) / 1024, exponent - 1)


def round_fp8_e4m3(value: Tensor) -> Tensor:
    """To 4 exponent and 3 mantissa bits, to nearest even; beyond 240 it overflows to infinity.

    This is the IEEE-like fp8_e4m3, whose top exponent is taken by infinity and NaN; below that its values are those
    of torch's float8_e4m3fn.
    """
    near = value.to(torch.float8_e4m3fn).to(torch.float32)
    infinite = torch.full_like(value, torch.inf).copysign(value)
    # 248 lies half-way between 240 and what would be 256, and a tie goes to the even one.
    return torch.where(value.abs() >= 248.0, infinite, near)


T = TypeVar("T")

ROUNDINGS: Mapping[str, Rounding] = {
    "bf16": round_bf16,
    "fp16": round_fp16,
    "tf32": round_tf32,
    "fp8_e4m3": round_fp8_e4m3,
}

_LOWEST: Mapping[str, float] = {
    "bf16": torch.finfo(torch.bfloat16).min,
    "fp16": torch.finfo(torch.float16).min,
    "tf32": -(2.0 - 2.0**-10) * 2.0**127,
    "fp8_e4m3": -240.0,
}

_ADDENDS: Mapping[Any, tuple[int, str] | None] = {
    **dict.fromkeys((torch.matmul, torch.bmm, torch.mm, torch.mv, torch.dot, torch.einsum, torch.tensordot)),
    **dict.fromkeys((Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm, Tensor.mv, Tensor.dot)),
    F.linear: (2, "bias"),
    **dict.fromkeys((torch.addmm, torch.baddbmm, torch.addmv, torch.addbmm), (0, "input")),
    **dict.fromkeys((Tensor.addmm, Tensor.baddbmm, Tensor.addmv, Tensor.addbmm), (0, "self")),
}
"""The matrix products, each with the argument (its place and its name) that is added and not multiplied."""

_MOVES = frozenset(
    {
        "view",
        "reshape",
        "transpose",
        "permute",
        "contiguous",
        "expand",
        "unsqueeze",
        "squeeze",
        "select",
        "slice",
    }
    | {
        "flatten",
        "__getitem__",
        "chunk",
        "split",
        "dropout",
        "detach",
        "to",
        "float",
        "dim",
        "size",
    }
)
"""Operations that only move values: what was rounded before stays so."""


class AutoCastMode(TorchFunctionMode):
    """While active, lowers fp32 operations as the compiler would; under a tracer, in the traced graph.

    Args:
        mode: "matmul" or "all".
        dtype: A key of ROUNDINGS.
    """

    def __init__(self, mode: str, dtype: str) -> None:
        super().__init__()
        self._all = mode == "all"
        self._round = ROUNDINGS[dtype]
        self._lowest = _LOWEST[dtype]

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of every torch function."""
        given = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **given)
        if func in _ADDENDS:
            place, name = (None, None) if self._all else _ADDENDS[func] or (None, None)
            operands = [value if number == place else self._lower(value) for number, value in enumerate(args)]
            named = {key: value if key == name else self._lower(value) for key, value in given.items()}
            result = func(*operands, **named)
            return self._lower(result) if self._all else result
        if not self._all or getattr(func, "__name__", "") in _MOVES:
            return func(*args, **given)
        named = {key: self._lower_parameter(value) for key, value in given.items()}
        return self._lower(func(*map(self._lower_parameter, args), **named))

    def _lower(self, value: T) -> T:
        if isinstance(value, list | tuple):  # einsum takes its operands in a list as well
            return type(value)(map(self._lower, value))
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            return self._round(value)  # type: ignore[return-value]  # a Tensor is what it was
        return value

    def _lower_parameter(self, value: T) -> T:
        return self._lower(value) if isinstance(value, torch.nn.Parameter) else value

    def _attention(  # noqa: PLR0913  torch's own signature
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,  # noqa: ARG002
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        # The fused kernel rounds nothing in between, so the two products are written out.
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(groups, dim=-3) for part in (key, value))
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = self._finish(torch.matmul(self._lower(query), self._lower(key).transpose(-1, -2)))
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # Added, it is the lowest number itself: no score is large enough to move it.
            hidden = torch.finfo(torch.float32).min
            attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, hidden)
        if self._all:
            scores = self._lower(scores * factor)
            # A row that is masked as a whole stays finite, as it does in fp32.
            scores = self._lower(scores if attn_mask is None else scores + attn_mask).clamp(min=self._lowest)
        else:
            # Scaled and masked in one pass over the scores.
            scores = scores * factor if attn_mask is None else torch.add(attn_mask, scores, alpha=factor)
        return self._finish(torch.matmul(self._lower(torch.softmax(scores, dim=-1)), self._lower(value)))

    def _finish(self, result: Tensor) -> Tensor:
        return self._lower(result) if self._all else result
