"""Attention that tells what each token receives, with a compiled kernel, where it was built on this machine.

Owns: finding it in a frozen program, and putting the kernel (attention_kernels.cpp) there. Knows nothing of why a
program wants to know. In the file stand operators that every build of torch has: they write all probabilities down, for
the sums of their columns. The kernel's stay in the processor's first cache; its values differ in the last bits. A
program without it answers the same, only later.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.backends import integer_kernels

if TYPE_CHECKING:
    from collections.abc import Iterable

_TENSOR: Final = torch._C.TensorType.get()
_FP32: Final = 6
"""What a graph has for torch.float32."""
_UNKNOWN: Final = object()


def substitute(module: Any, methods: Iterable[str]) -> None:
    """Put the kernel into the methods of a frozen module, in place, if it was built.

    Args:
        module: What `torch.jit.freeze` gave.
        methods: Their names.
    """
    for method in methods:
        graph = module._c._get_method(method).graph
        found = [read for node in graph.findAllNodes("aten::softmax") if (read := _read(node)) is not None]
        if not found or not integer_kernels.available():
            continue
        for inputs, context, received in found:
            _replace(graph, inputs, context, received)
        torch._C._jit_pass_dce(graph)
        graph.lint()


def _read(softmax: Any) -> tuple[list[Any], Any, Any] | None:
    """An attention whose probabilities are summed up, and else only weigh values; None if it is anything else.

    A program file may be anybody's: it is the same attention only if each step is along the same dimensions.

    Returns:
        Query, key and value by head, the mask, the scaling, and how probabilities are counted (numbers are no values of
        the graph yet); the product that gives the context; and the sum.
    """
    scores = next(softmax.inputs()).node()
    given = (_of_floats(scores, softmax) or _of_bytes(scores, softmax)) if len(scores.output().uses()) == 1 else None
    by_head = _after(softmax, "aten::view") or softmax
    readers = {use.user.kind(): use.user for use in by_head.output().uses() if use.user.kind() != "aten::size"}
    received = _sum_of(readers.pop("aten::flatten", None))
    if given is None or received is None or len(readers) != 1:
        return None
    (weighing,) = readers.values()
    found = _counted(weighing) if weighing.kind() == "aten::mul" else (by_head, weighing, (0.0, 0.0))
    if found is None:
        return None
    weights, product, counting = found
    if product.kind() != "aten::matmul" or not _first_of(product, weights) or not _first_of(weighing, by_head):
        return None
    query, key, mask, scaling = given
    value = list(product.inputs())[1]
    return [query, key, value, mask, scaling, *counting], product, received


def _sum_of(flattened: Any) -> Any | None:
    """The sum, in fp32, of what each key receives from all heads and queries; None if it isn't that."""
    received = None if flattened is None or not _holds(flattened, (1,), (2,)) else _after(flattened, "aten::sum")
    right = received is not None and _holds(received, ([1],), (False,), (None, _FP32))
    return received if right else None


def _counted(weighing: Any) -> tuple[Any, Any, tuple[float, float]] | None:
    """Probabilities as whole numbers: the node that gives them, the product they go into, and how they are made."""
    counted = _after(weighing, "aten::round", "aten::clamp")
    product = None if counted is None else _after(counted, "aten::matmul")
    if product is None or len(list(next(counted.inputs()).node().inputs())) != 1:  # rounded to decimals
        return None
    least, highest = list(counted.inputs())[1:]
    inverse, most = _number(list(weighing.inputs())[1]), _number(highest)
    if inverse is None or most is None or min(inverse, most) <= 0 or _constant(least) not in (None, 0):
        return None
    return counted, product, (inverse, most)


def _of_floats(scores: Any, softmax: Any) -> tuple[Any, Any, Any, float] | None:
    """Query, key, mask and scaling of scores that are scaled and masked in their product: rows and heads in one."""
    if scores.kind() != "aten::baddbmm" or not _holds(softmax, (2, -1), (None, _FP32)):
        return None
    added, left, right, beta, scaling = scores.inputs()
    heads = ("aten::flatten", (0,), (1,))
    mask, query = _before(added, heads, ("aten::expand",)), _before(left, heads)
    key = _before(right, ("aten::transpose", (1, -2), (2, -1)), heads)
    factor = _number(scaling)
    if mask is None or query is None or key is None or factor is None or _number(beta) != 1:
        return None
    return query, key, mask, factor


def _of_bytes(scores: Any, softmax: Any) -> tuple[Any, Any, Any, float] | None:
    """Those of an 8-bit program: bytes in fp32, scaled before."""
    if scores.kind() != "aten::add" or not _holds(softmax, (3, -1), (None, _FP32)):
        return None
    left, mask, factor = scores.inputs()
    product = left.node()
    if product.kind() != "aten::matmul" or len(left.uses()) != 1 or _number(factor) != 1:
        return None
    query, across = product.inputs()
    key = _before(across, ("aten::transpose", (2, -2), (3, -1)))
    return None if key is None else (query, key, mask, 1.0)


def _replace(graph: Any, inputs: list[Any], context: Any, received: Any) -> None:
    kernel = graph.create("neuronbert::attend", [_value(graph, given, context) for given in inputs], 2)
    kernel.insertBefore(context)
    for node, output in zip((context, received), kernel.outputs(), strict=True):
        output.setType(_TENSOR)
        node.output().replaceAllUsesWith(output)


def _value(graph: Any, given: Any, before: Any) -> Any:
    if not isinstance(given, float):
        return given
    inserted = graph.insertConstant(given)
    inserted.node().moveBefore(before)
    return inserted


def _before(value: Any, *steps: tuple[Any, ...]) -> Any:
    """What a value was made of, by nodes of these kinds and constants, the last first; None if it wasn't."""
    for kind, *allowed in steps:
        if value.node().kind() != kind or (allowed and not _holds(value.node(), *allowed)):
            return None
        value = next(value.node().inputs())
    return value


def _after(node: Any, *kinds: str) -> Any:
    """The last of nodes of these kinds that follow one another, each the first's only reader but for its size."""
    for kind in kinds:
        readers = [use.user for use in node.output().uses() if use.user.kind() != "aten::size"]
        if [reader.kind() for reader in readers] != [kind] or not _first_of(readers[0], node):
            return None
        (node,) = readers
    return node


def _first_of(node: Any, given: Any) -> bool:
    """Whether what a node gives is the first that another one takes."""
    return bool(next(node.inputs()).debugName() == given.output().debugName())


def _holds(node: Any, *allowed: tuple[Any, ...]) -> bool:
    """Whether what a node takes after its first value are constants, each one of those that are allowed."""
    given = [_constant(value) for value in list(node.inputs())[1:]]
    return len(given) == len(allowed) and all(one in some for one, some in zip(given, allowed, strict=True))


def _constant(value: Any) -> Any:
    """A constant of the graph, which may be None; _UNKNOWN if it is computed."""
    return value.toIValue() if value.node().kind() == "prim::Constant" else _UNKNOWN


def _number(value: Any) -> float | None:
    """A constant number, or a tensor of one; None if it is anything else."""
    held = _constant(value)
    if isinstance(held, torch.Tensor) and held.dim() == 0:
        held = held.item()
    return float(held) if isinstance(held, int | float) and math.isfinite(held) else None
