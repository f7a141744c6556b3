"""Attention that tells what each token receives, with a compiled kernel, where it was built on this machine.

Owns: finding it in a frozen program, and putting the kernel (attention_kernels.cpp) there. Knows nothing of why a
program wants to know. In the file stand operators that every build of torch has: they write all probabilities down, for
the sums of their columns. The kernel's stay in the processor's first cache; its values differ in the last bits. A
program without it answers the same, only later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.backends import integer_kernels

if TYPE_CHECKING:
    from collections.abc import Iterable

_TENSOR: Final = torch._C.TensorType.get()


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

    Returns:
        Query, key and value by head, the mask, the scaling, and how probabilities are counted (numbers are no values of
        the graph yet); the product that gives the context; and the sum.
    """
    scores = next(softmax.inputs()).node()
    given = (_of_floats(scores) or _of_bytes(scores)) if len(list(scores.output().uses())) == 1 else None
    by_head = _after(softmax, "aten::view") or softmax
    readers = {use.user.kind(): use.user for use in by_head.output().uses() if use.user.kind() != "aten::size"}
    summed, weighing = readers.pop("aten::flatten", None), next(iter(readers.values()), None)
    received = None if summed is None else _after(summed, "aten::sum")
    if given is None or received is None or weighing is None or len(readers) != 1:
        return None
    counting = (0.0, 0.0)
    if weighing.kind() == "aten::mul":
        counted = _after(weighing, "aten::round", "aten::clamp")
        if counted is None or (product := _after(counted, "aten::matmul")) is None:
            return None
        counting = (list(weighing.inputs())[1].toIValue(), list(counted.inputs())[2].toIValue())
    elif weighing.kind() == "aten::matmul":
        product = weighing
    else:
        return None
    query, key, mask, scaling = given
    value = list(product.inputs())[1]
    return [query, key, value, mask, scaling, *map(float, counting)], product, received


def _of_floats(scores: Any) -> tuple[Any, Any, Any, float] | None:
    """Query, key, mask and scaling of scores that are scaled and masked in their product."""
    if scores.kind() != "aten::baddbmm":
        return None
    added, left, right, beta, scaling = scores.inputs()
    mask, query = _before(added, "aten::flatten", "aten::expand"), _before(left, "aten::flatten")
    key = _before(right, "aten::transpose", "aten::flatten")
    if mask is None or query is None or key is None or beta.toIValue() != 1:
        return None
    return query, key, mask, float(scaling.toIValue())


def _of_bytes(scores: Any) -> tuple[Any, Any, Any, float] | None:
    """Those of an 8-bit program: bytes in fp32, scaled before."""
    if scores.kind() != "aten::add":
        return None
    left, mask, _ = scores.inputs()
    product = left.node()
    if product.kind() != "aten::matmul" or len(list(left.uses())) != 1:
        return None
    query, across = product.inputs()
    key = _before(across, "aten::transpose")
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


def _before(value: Any, *kinds: str) -> Any:
    """What a value was made of, by nodes of these kinds, the last first; None if it wasn't."""
    for kind in kinds:
        if value.node().kind() != kind:
            return None
        value = next(value.node().inputs())
    return value


def _after(node: Any, *kinds: str) -> Any:
    """The last of nodes of these kinds that follow one another, each the first's only reader but for its size."""
    for kind in kinds:
        readers = [use.user for use in node.output().uses() if use.user.kind() != "aten::size"]
        if [reader.kind() for reader in readers] != [kind]:
            return None
        (node,) = readers
    return node
