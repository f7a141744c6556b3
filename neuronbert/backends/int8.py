"""The steps of an 8-bit program with this machine's kernels.

Owns: putting oneDNN's products in the place of the calls that a program's file makes by name (quantization/kernels.py
has what they compute), and packing their weights. Knows nothing of files, shapes or devices. What is packed depends on
the machine, so it is done at every load and never written.

Between the kernels lie bytes. Those that a product takes are unsigned here, with zero at 128: oneDNN multiplies signed
ones by a reference kernel that takes seconds. A LayerNorm takes out what is added to all values of a row, so the sum
before it needs no zero points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_CALL: Final = "prim::CallFunction"
_PRODUCT: Final = "onednn::qlinear_pointwise"
_TENSOR: Final = torch._C.TensorType.get()


@torch.jit.script
def _quantize(values: Tensor, inverse: float) -> Tensor:
    # Half a step up and cut off: as rounding, but for values that lie exactly half-way.
    return (values * inverse).add_(128.5).clamp_(0.0, 255.5).to(torch.uint8)


@torch.jit.script
def _dequantize(values: Tensor, scale: float) -> Tensor:
    return values.to(torch.float32).sub_(128.0).mul_(scale)


@torch.jit.script
def _product(
    values: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    bias: Tensor,
    out: tuple[float, int, int],
    after: tuple[str, str],
) -> Tensor:
    # out: scale, zero and type of what comes out; after: the function that follows, and how it is computed.
    zeros = torch.zeros([weight.size(0)], dtype=torch.int32)
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        values, 1.0, 128, weight, multiplier, zeros, bias, out[0], out[1], out[2], after[0], [], after[1]
    )
    return product


@torch.jit.script
def _linear_float(values: Tensor, weight: Tensor, multiplier: Tensor, bias: Tensor) -> Tensor:
    product: Tensor = _product(values, weight, multiplier, bias, (1.0, 0, torch.float32), ("none", ""))
    return product


@torch.jit.script
def _linear(values: Tensor, weight: Tensor, multiplier: Tensor, bias: Tensor) -> Tensor:
    product: Tensor = _product(values, weight, multiplier, bias, (1.0, 0, torch.int8), ("none", ""))
    return product


@torch.jit.script
def _linear_gelu(
    values: Tensor, weight: Tensor, multiplier: Tensor, bias: Tensor, approximate: str, inverse: float
) -> Tensor:
    out = (1.0 / inverse, 128, torch.uint8)
    product: Tensor = _product(values, weight, multiplier, bias, out, ("gelu", approximate))
    return product


@torch.jit.script
def _add_norm_float(
    local: Tensor, residual: Tensor, scales: tuple[float, float], weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    total = residual.to(torch.float32).mul_(scales[1]).add_(local.to(torch.float32), alpha=scales[0])
    return torch.layer_norm(total, weight.shape, weight, bias, eps)


@torch.jit.script
def _add_norm(
    local: Tensor, residual: Tensor, scales: tuple[float, float], weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    normal: Tensor = _add_norm_float(local, residual, scales, weight, bias + 128.5, eps)
    return normal.clamp_(0.0, 255.5).to(torch.uint8)


_KERNELS: Final[Mapping[str, Any]] = {
    "int8_quantize": _quantize,
    "int8_dequantize": _dequantize,
    "int8_linear_float": _linear_float,
    "int8_linear": _linear,
    "int8_linear_gelu": _linear_gelu,
    "int8_add_norm_float": _add_norm_float,
    "int8_add_norm": _add_norm,
}
"""By the name of the call that each is put in the place of."""


def supported() -> bool:
    """Whether this machine multiplies bytes faster than oneDNN's reference does: x86-64 with VNNI."""
    return bool(torch._C._has_mkldnn and torch.cpu._is_vnni_supported())


def substitute(module: Any) -> None:
    """Put the kernels in the place of a loaded module's calls. Until it is frozen and packed it can't run.

    Args:
        module: What `torch.jit.load` gave.

    Raises:
        RuntimeError: a call has other arguments than its name says.
    """
    for graph in _graphs(module._c):
        for node in list(graph.nodes()):
            kernel = _KERNELS.get(_called(node))
            if kernel is None:
                continue
            given = list(node.inputs())[1:]
            if len(given) != len(list(kernel.graph.inputs())):
                raise RuntimeError(f"{_called(node)} has {len(given)} arguments")  # noqa: TRY003  worded by the caller
            graph.setInsertPoint(node)
            (result,) = graph.insertGraph(kernel.inlined_graph, given)
            node.output().replaceAllUsesWith(result)
            node.destroy()


def pack(module: Any, methods: Iterable[str]) -> None:
    """Pack the weights of the kernels of a frozen module, each once.

    Args:
        module: What `torch.jit.freeze` gave.
        methods: The names of its methods.

    Raises:
        RuntimeError: a weight doesn't fit.
    """
    known: list[tuple[Tensor, str]] = []
    for method in methods:
        graph = module._c._get_method(method).graph
        for node in list(graph.nodes()):
            if node.kind() != _PRODUCT:
                continue
            weight = list(node.inputs())[3].toIValue()
            if not isinstance(weight, Tensor):
                raise RuntimeError("a weight of it is computed in the call")  # noqa: TRY003, TRY004  worded by the caller
            name = next((name for held, name in known if held is weight or torch.equal(held, weight)), None)
            if name is None:
                name = f"_int8_{len(known)}"
                packed = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
                module._c._register_attribute(name, _TENSOR, packed)
                known.append((weight, name))
            place = graph.create("prim::GetAttr", [next(graph.inputs())], 1)
            place.s_("name", name)
            place.output().setType(_TENSOR)
            place.insertBefore(node)
            node.replaceInput(3, place.output())
        torch._C._jit_pass_dce(graph)


def _called(node: Any) -> str:
    """The name of the function that a node calls, or an empty text."""
    if node.kind() != _CALL:
        return ""
    function = next(node.inputs()).node()
    return str(function.s("name")) if function.hasAttribute("name") else ""


def _graphs(module: Any) -> Iterator[Any]:
    for name in module._method_names():
        yield module._get_method(name).graph
    for _, child in torch._C.ModuleDict(module).items():
        yield from _graphs(child)
