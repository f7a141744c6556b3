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
        found = [read for node in graph.findAllNodes("aten::baddbmm") if (read := _read(node)) is not None]
        if not found or not integer_kernels.available():
            continue
        for inputs, context, received in found:
            _replace(graph, inputs, context, received)
        torch._C._jit_pass_dce(graph)
        graph.lint()


def _read(scores: Any) -> tuple[list[Any], Any, Any] | None:
    """What begins with the scores of all heads, to which a mask is added; None if it is anything else.

    Returns:
        Query, key and value by head, the mask and the scaling; the product that gives the context, and the sum of the
        probabilities, if they are summed.
    """
    added, left, right, beta, scaling = scores.inputs()
    mask, query = _before(added, "aten::flatten", "aten::expand"), _before(left, "aten::flatten")
    key = _before(right, "aten::transpose", "aten::flatten")
    by_head = _after(scores, "aten::softmax", "aten::view")
    if mask is None or query is None or key is None or by_head is None or beta.toIValue() != 1:
        return None
    readers = {use.user.kind(): use.user for use in by_head.output().uses()}
    product, summed = readers.pop("aten::matmul", None), readers.pop("aten::flatten", None)
    context = None if product is None else _after(product, "aten::transpose", "aten::contiguous", "aten::reshape")
    received = None if summed is None else _after(summed, "aten::sum")
    if readers or context is None or (summed is not None and received is None):
        return None
    return [query, key, list(product.inputs())[1], mask, scaling], product, received


def _replace(graph: Any, inputs: list[Any], product: Any, received: Any) -> None:
    kernel = graph.create("neuronbert::attend", inputs, 2)
    kernel.insertBefore(product)
    context = _after(product, "aten::transpose", "aten::contiguous", "aten::reshape")
    for node, output in zip((context, received), kernel.outputs(), strict=True):
        output.setType(_TENSOR)
        if node is not None:
            node.output().replaceAllUsesWith(output)


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
