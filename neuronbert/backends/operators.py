"""What the program of an encoder is made of, and nothing beside it.

A list of what is allowed, not of what isn't: TorchScript and torch.export have operators by the thousand, some read and
write files, and which of them do no list of bad ones would keep up with.

Owns: the operators that a program file may hold. Knows nothing of files.
"""

from __future__ import annotations

from typing import Final

_TENSOR: Final = """
    Int ScalarImplicit __and__ __getitem__ __lshift__ __or__ __rshift__ _assert_tensor_metadata _convolution _int_mm
    abs add add_ addmm alias all amax any arange argmax baddbmm bitwise_and bitwise_not bitwise_or bmm cat ceil
    chunk clamp clone contiguous copysign cos cumsum detach div dropout einsum embedding eq erf exp expand expand_as
    flatten floor floor_divide frexp full full_like gather ge gelu gt im2col index index_copy index_select layer_norm
    ldexp le linear list log logical_and logical_not logical_or lt masked_fill masked_fill_ matmul max maximum mean
    min minimum mm mul mul_ multiply native_layer_norm ne neg new_ones new_zeros ones ones_like pad permute pow
    reciprocal relu remainder repeat reshape reshape_as round rsqrt rsub scaled_dot_product_attention scatter select
    sigmoid sign silu sin size slice softmax split split_with_sizes sqrt squeeze stack sub sum t tanh to topk
    transpose tril triu type_as unbind unsqueeze unsqueeze_ view view_as where zeros zeros_like
"""
"""Of the namespace aten: what the architectures of the table are traced or exported to, and their near kin."""

_STRUCTURE: Final = """
    Constant GetAttr ListConstruct ListUnpack NumToTensor TupleConstruct TupleIndex TupleUnpack DictConstruct
"""
"""Of the namespace prim: what puts operators together. Nothing that branches, calls, prints or waits."""


_ALLOWED: Final = {"aten": frozenset(_TENSOR.split()), "prim": frozenset(_STRUCTURE.split())}


def known(kind: str, vendor: str = "") -> bool:
    """Whether a program may hold an operator.

    Args:
        kind: Its name, as in "aten::linear".
        vendor: The namespace of a device's own operators.
    """
    namespace, _, name = kind.partition("::")
    if vendor and namespace == vendor:
        return True
    return name in _ALLOWED.get(namespace, frozenset())
