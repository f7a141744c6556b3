"""A frozen program's matrix products, with weights packed once for the kernel that multiplies by them.

Owns: rewriting a TorchScript graph for oneDNN. Knows nothing of files, shapes or devices. What is packed depends on the
machine, so it is done at every load and never written. Three rewrites, each of which saves passes over memory: products
of one input become one (query, key and value), a GELU goes into the product before it, and weights lie as the kernel
reads them, once for all the methods that use them. Rounding the weights before freezing keeps them to one copy, too.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

_X86: Final = frozenset({"x86_64", "AMD64"})
_TENSOR: Final = torch._C.TensorType.get()
_NARROW: Final = {5: torch.float16, 15: torch.bfloat16}
_FP32: Final = 6
"""The numbers of dtypes in TorchScript (c10/core/ScalarType.h)."""
_SCALARS: Final = torch._C.ListType(torch._C.OptionalType(torch._C.NumberType.get()))


def supported() -> bool:
    """Whether this machine has the kernels: oneDNN on x86-64. Elsewhere programs run as they were frozen."""
    return torch._C._has_mkldnn and platform.machine() in _X86


def round_weights(module: Any, methods: Iterable[str]) -> None:
    """Round the weights that a loaded module rounds in every call, in place, once for all of its methods.

    Freezing would do it as well, but for each method anew, with a copy of every weight.

    Args:
        module: What `torch.jit.load` gave.
        methods: Their names.
    """
    known: dict[tuple[str, int], str] = {}
    for method in methods:
        graph = module._c._get_method(method).graph
        for node in list(graph.nodes()):
            if node.kind() != "prim::GetAttr":
                continue
            for use in list(node.output().uses()):
                narrow, wide = use.user, _only_user(use.user)
                dtype = _cast_to(narrow)
                if dtype not in _NARROW or _cast_to(wide) != _FP32:
                    continue
                name = known.get((node.s("name"), dtype))
                if name is None:
                    name = known[node.s("name"), dtype] = f"_rounded_{len(known)}"
                    weight = module._c.getattr(node.s("name")).detach()
                    module._c._register_attribute(name, _TENSOR, weight.to(_NARROW[dtype]).to(torch.float32))
                rounded = _Site(graph, wide).attribute(name)
                wide.output().replaceAllUsesWith(rounded)
        torch._C._jit_pass_dce(graph)


def pack(module: Any, methods: Iterable[str], rows: int) -> None:
    """Rewrite the methods of a frozen module in place.

    Args:
        module: What `torch.jit.freeze` gave.
        methods: Their names.
        rows: How many rows a product usually has: the layout of packed weights may depend on it, the result doesn't.

    Raises:
        RuntimeError: the weights don't fit what they are multiplied by.
    """
    weights = _Weights(module._c, rows)
    for method in methods:
        graph = module._c._get_method(method).graph
        for products in _by_input(graph):
            _Site(graph, products[0]).replace(products, weights)
        torch._C._jit_pass_dce(graph)
        graph.lint()


class _Weights:
    """The packed weights of a module, each set of matrices once.

    Args:
        module: The scripted module that they become attributes of.
        rows: See `pack`.
    """

    def __init__(self, module: Any, rows: int) -> None:
        self._module = module
        self._rows = rows
        self._known: dict[tuple[tuple[int, ...], ...], list[tuple[list[Tensor], str]]] = {}

    def attribute(self, matrices: list[Tensor]) -> str:
        """The name of the attribute that holds these matrices, one below the other, packed."""
        # By value: where auto-cast rounded them, freezing made a copy for each method.
        same_sizes = self._known.setdefault(tuple(tuple(matrix.shape) for matrix in matrices), [])
        for known, name in same_sizes:
            if all(map(torch.equal, known, matrices)):
                return name
        name = f"_packed_{sum(map(len, self._known.values()))}"
        together = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
        packed = torch.ops.mkldnn._reorder_linear_weight(together.detach().contiguous(), self._rows)
        self._module._register_attribute(name, _TENSOR, packed)
        same_sizes.append((matrices, name))
        return name


class _Site:
    """A place in a graph where a packed product is put.

    Args:
        graph: The graph.
        before: The node that it is put before.
    """

    def __init__(self, graph: Any, before: Any) -> None:
        self._graph = graph
        self._before = before

    def attribute(self, name: str) -> Any:
        """A tensor of the module."""
        return self._node("prim::GetAttr", [next(self._graph.inputs())], name=name)

    def replace(self, products: list[Any], weights: _Weights) -> None:
        """Put one packed product in the place of some that have their input in common."""
        (given, _, bias), matrices = list(products[0].inputs()), [_constant(node, 1) for node in products]
        if len(products) > 1:
            bias = self._value(torch.cat([_constant(node, 2).detach() for node in products]))
        gelu = _gelu_after(products[0]) if len(products) == 1 else None
        packed = self.attribute(weights.attribute(matrices))
        scalars = self._node("prim::ListConstruct", [], kind=_SCALARS)
        how = "gelu" if gelu else "none"
        approximation = list(gelu.inputs())[1].toIValue() if gelu else ""
        inputs = [given, packed, bias, self._value(how), scalars, self._value(approximation)]
        result = self._node("mkldnn::_linear_pointwise", inputs)
        replaced = [gelu or products[0]] if len(products) == 1 else products
        for node, part in zip(replaced, self._split(result, matrices), strict=True):
            node.output().replaceAllUsesWith(part)
            node.destroy()
        if gelu:
            products[0].destroy()

    def _split(self, result: Any, matrices: list[Tensor]) -> list[Any]:
        if len(matrices) == 1:
            return [result]
        parts, start = [], 0
        for matrix in matrices:
            stop = start + matrix.shape[0]
            bounds = [self._value(number) for number in (-1, start, stop, 1)]
            parts.append(self._node("aten::slice", [result, *bounds]))
            start = stop
        return parts

    def _value(self, value: object) -> Any:
        inserted = self._graph.insertConstant(value)
        inserted.node().moveBefore(self._before)
        return inserted

    def _node(self, kind_of_node: str, inputs: list[Any], *, kind: Any = _TENSOR, name: str = "") -> Any:
        node = self._graph.create(kind_of_node, inputs, 1)
        if name:
            node.s_("name", name)
        node.output().setType(kind)
        node.insertBefore(self._before)
        return node.output()


def _by_input(graph: Any) -> list[list[Any]]:
    """The products by constant matrices; those that belong together in one list."""
    found: dict[tuple[str, bool], list[Any]] = {}
    alone: list[list[Any]] = []
    for node in graph.nodes():
        if node.kind() != "aten::linear" or not _is_matrix(_constant(node, 1)):
            continue
        if isinstance(_constant(node, 2), torch.Tensor) and _gelu_after(node) is None:
            found.setdefault(next(node.inputs()).debugName(), []).append(node)
        else:
            alone.append([node])
    return [*found.values(), *alone]


def _constant(node: Any, place: int) -> Any:
    value = list(node.inputs())[place]
    return value.toIValue() if value.node().kind() == "prim::Constant" else None


def _is_matrix(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 2 and value.dtype is torch.float32


def _gelu_after(node: Any) -> Any:
    """The GELU that alone takes a product's result, or None."""
    user = _only_user(node)
    return user if user is not None and user.kind() == "aten::gelu" else None


def _cast_to(node: Any) -> int | None:
    """The number of the dtype that a node casts to, or None."""
    return _constant(node, 1) if node is not None and node.kind() == "aten::to" else None


def _only_user(node: Any) -> Any:
    uses = list(node.output().uses()) if node.outputsSize() == 1 else []
    return uses[0].user if len(uses) == 1 else None
