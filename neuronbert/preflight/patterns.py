"""What may be wrong with a program, as functions that say where it is.

Owns: the patterns that rules are made of. Knows nothing of error codes, or of how a graph is had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuronbert.targets import GIB, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from neuronbert.preflight.graphs import Graph, Op, Value

    Pattern = Callable[["Case"], Iterator[str]]
    OpPattern = Callable[["Op", "Case"], str | None]

INTEGERS_32: Final = frozenset({"int32", "uint32"})
INTEGERS_64: Final = frozenset({"int64", "uint64"})
NARROW_INTEGERS: Final = frozenset({"int8", "uint8", "int16", "uint16", "bool"})
# Neuron's own calls that its compiler knows. Source: compiler/error-codes/EVRF015 of the SDK's documentation.
CUSTOM_CALLS: Final = frozenset(
    {f"AwsNeuron{name}" for name in ("Erf", "Gelu", "GeluApprxTanh", "GeluBackward", "Silu", "SiluBackward", "RmsNorm")}
    | {f"AwsNeuron{name}" for name in ("Softmax", "SoftmaxBackward", "CollectiveMatmul", "IntMatmult", "ArgMax")}
    | {f"AwsNeuron{name}" for name in ("ArgMin", "TopK", "DropoutMaskV1", "CustomNativeKernel", "CustomOp")}
    | {f"AwsNeuron{name}" for name in ("DevicePrint", "LNCShardingConstraint", "TransferWithStaticRing")}
    | {f"AwsNeuronModuleMarker{place}-{way}" for place in ("Start", "End") for way in ("Forward", "Backward")}
    | {"ResizeNearest", "ResizeBilinear", "ResizeNearestGrad", "NeuronBoundaryMarker-Start", "NeuronBoundaryMarker-End"}
)
_DOTS: Final = frozenset({"aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.mv", "aten.dot", "hlo.dot"})
_GATHERS: Final = frozenset({"aten.embedding", "aten.index_select", "aten.gather", "hlo.gather"})
_SCATTERS: Final = frozenset({"aten.scatter", "aten.scatter_add", "aten.index_add", "aten.index_copy", "hlo.scatter"})
_ADDING: Final = frozenset(
    {"aten.scatter_add", "aten.index_add", "aten.embedding_dense_backward", "aten.nll_loss_backward"}
)
_INT32: Final = (-(1 << 31), (1 << 31) - 1)
_UINT32_MAX: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Case:
    """A program and what it is meant for.

    Attributes:
        target: Where it should run.
        graph: The program.
        sequence_length: The tokens of its rows.
        positions: How many tokens the model has positions for.
        lnc: Physical cores to a logical one; None for the target's own.
        copies: How often the weights lie on the device: once for each program, or once for all.
    """

    target: Target
    graph: Graph
    sequence_length: int = 1
    positions: int = 1
    lnc: int | None = None
    copies: int = 1

    @property
    def need_bytes(self) -> int:
        """An estimate of the device memory it takes: weights, inputs, outputs, and the values in between."""
        return self.copies * self.graph.weights_bytes + self.graph.io_bytes + self.graph.peak_bytes


def each(look: OpPattern) -> Pattern:
    """What is wrong with an operation, over all of them."""

    def pattern(case: Case) -> Iterator[str]:
        for op in case.graph.ops:
            problem = look(op, case)
            if problem:
                yield problem

    return pattern


def of_type(*dtypes: str, before_core: int | None = None) -> Pattern:
    """Values of these types; on cores before a generation, or on all."""

    def look(op: Op, case: Case) -> str | None:
        found = [value.dtype for value in (*op.operands, *op.results) if value.dtype in dtypes]
        older = before_core is None or case.target.core < before_core
        return f"{op.name} has values of type {found[0]}" if found and older else None

    return each(look)


def taking(ops: Collection[str], dtypes: Collection[str]) -> Pattern:
    """These operations on operands of these types."""

    def look(op: Op, _case: Case) -> str | None:
        found = [value.dtype for value in op.operands if value.dtype in dtypes]
        return f"{op.name} takes {found[0]}" if op.name in ops and found else None

    return each(look)


def calling(*ops: str) -> Pattern:
    """These operations."""
    return each(lambda op, _case: f"{op.name} is called" if op.name in ops else None)


def logical_cores(case: Case) -> Iterator[str]:
    """A number of cores to a logical one that the target doesn't have."""
    if case.lnc is not None and case.lnc not in case.target.lncs:
        yield f"lnc is {case.lnc}, and {case.target.name} takes only {case.target.lncs[0]}"


def memory(case: Case) -> Iterator[str]:
    """More memory than a core has."""
    limit = case.target.hbm_bytes
    if case.need_bytes > limit:
        yield f"it needs about {case.need_bytes / GIB:.1f} GiB, and a core has {limit / GIB:.0f} GiB at most"


def positions(case: Case) -> Iterator[str]:
    """Rows longer than the table of positions."""
    if case.sequence_length > case.positions:
        yield f"rows of {case.sequence_length} tokens, and the model has positions for {case.positions}"


def gather_outside(op: Op, _case: Case) -> str | None:
    """Constant indices of a gather beyond its table."""
    if op.name == "aten.index":
        return _indexed_outside(op)
    return _outside(op, op.operands[1]) if op.name in _GATHERS else None


def scatter_outside(op: Op, _case: Case) -> str | None:
    """Constant indices of a scatter beyond what it writes to."""
    if op.name == "aten.index_put":
        return _indexed_outside(op)
    return _outside(op, op.operands[1]) if op.name in _SCATTERS else None


def _outside(op: Op, index: Value) -> str | None:
    dims = op.operands[0].dims
    dim = op.attributes.get("dim", 0)
    if index.high is None or index.low is None or not dims or not isinstance(dim, int):
        return None
    if index.low >= 0 and index.high < dims[dim]:
        return None
    return f"{op.name} takes entry {index.low if index.low < 0 else index.high} of {dims[dim]}"


def _indexed_outside(op: Op) -> str | None:
    # As in Python, -1 is the last one. A mask stands for several dimensions, so that those after it can't be told.
    dims = op.operands[0].dims
    for dim, index in zip(op.attributes.get("indexed", ()), op.operands[1:], strict=False):
        if index.dtype in {"bool", "uint8"}:
            return None
        if index.low is not None and index.high is not None and not -dims[dim] <= index.low <= index.high < dims[dim]:
            return f"{op.name} takes entry {index.low if index.low < -dims[dim] else index.high} of {dims[dim]}"
    return None


def integer_dot(op: Op, case: Case) -> str | None:
    """A matrix product of integers that the matrix engine would round. NeuronCore-v2 only warns of 32 bits."""
    refused = INTEGERS_64 if case.target.core == 2 else INTEGERS_64 | INTEGERS_32
    found = [value.dtype for value in op.operands if value.dtype in refused]
    return f"{op.name} multiplies matrices of {found[0]}" if op.name in _DOTS and found else None


def integer_scatter(op: Op, _case: Case) -> str | None:
    """A scatter that combines integers, rather than overwriting them."""
    combines = op.name in _ADDING or op.attributes.get("accumulate") or op.attributes.get("combines")
    if combines and op.operands[0].dtype in INTEGERS_32 | INTEGERS_64:
        return f"{op.name} combines values of {op.operands[0].dtype}"
    return None


def dynamic(op: Op, _case: Case) -> str | None:
    """A shape that only the values decide."""
    unknown = op.sized_by_values or any(-1 in value.dims for value in op.results)
    return f"{op.name} gives a result whose shape depends on what it is given" if unknown else None


def shift(op: Op, _case: Case) -> str | None:
    """A shift to the right of anything but 32 bits."""
    name = op.name in {"aten.bitwise_right_shift", "aten.__rshift__", "hlo.shift-right-arithmetic"}
    wrong = name and op.operands[0].dtype not in {"int32", "uint32", "float32"}
    return f"{op.name} shifts {op.operands[0].dtype}" if wrong else None


def unsigned_constant(op: Op, _case: Case) -> str | None:
    """An unsigned constant that 32 bits can't hold."""
    values = [value for value in (*op.operands, *op.results) if value.dtype == "uint64"]
    wide = [value.high for value in values if value.high is not None and value.high > _UINT32_MAX]
    return f"{op.name} has the unsigned constant {wide[0]}" if wide else None


def signed_constant(op: Op, _case: Case) -> str | None:
    """A signed constant that 32 bits can't hold."""
    values = [value for value in (*op.operands, *op.results) if value.dtype == "int64"]
    bounds = [bound for value in values for bound in (value.low, value.high) if bound is not None]
    numbers = op.numbers if values else ()
    wide = [number for number in (*bounds, *numbers) if not _INT32[0] <= number <= _INT32[1]]
    return f"{op.name} has the constant {wide[0]}" if wide else None


def convolution(op: Op, _case: Case) -> str | None:
    """A dilated input together with a dilated kernel."""
    _, inputs, kernel = _convolution(op)
    return f"{op.name} dilates its input by {inputs} and its kernel by {kernel}" if min(inputs, kernel) > 1 else None


def strided_convolution(op: Op, _case: Case) -> str | None:
    """A dilated input together with strides."""
    stride, inputs, _ = _convolution(op)
    return f"{op.name} dilates its input by {inputs} and strides by {stride}" if min(inputs, stride) > 1 else None


def _convolution(op: Op) -> tuple[int, int, int]:
    if op.name == "aten.convolution":
        stride, dilation = max(op.attributes["stride"]), max(op.attributes["dilation"])
        return (1, stride, dilation) if op.attributes["transposed"] else (stride, 1, dilation)
    return _window(op) if op.name == "hlo.convolution" else (1, 1, 1)


def _window(op: Op) -> tuple[int, int, int]:
    # The strides, and the dilations of input and window, as HLO gives them.
    window = op.attributes.get("window", {})
    stride, inputs, kernel = (max(window.get(key, (1,))) for key in ("stride", "lhs_dilate", "rhs_dilate"))
    return stride, inputs, kernel


def pool_window(op: Op, _case: Case) -> str | None:
    """A pooling window with holes."""
    pools = {"aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices"}
    dilation = max(op.attributes.get("dilation") or (1,)) if op.name in pools else 1
    if op.name == "hlo.reduce-window":
        dilation = _window(op)[2]
    return f"{op.name} has a window dilated by {dilation}" if dilation > 1 else None


def pool_input(op: Op, _case: Case) -> str | None:
    """A pooled input with holes."""
    dilation = _window(op)[1] if op.name == "hlo.reduce-window" else 1
    return f"{op.name} has an input dilated by {dilation}" if dilation > 1 else None


def pool_operands(op: Op, _case: Case) -> str | None:
    """A pooling of several tensors at once."""
    wrong = op.name == "hlo.reduce-window" and len(op.operands) != 2
    return f"{op.name} takes {len(op.operands)} operands, not 2" if wrong else None


def custom_call(op: Op, _case: Case) -> str | None:
    """A call that the compiler has no name for."""
    name = op.attributes.get("custom_call_target", "") if op.name == "hlo.custom-call" else ""
    return f"{op.name} calls {name}" if name and name not in CUSTOM_CALLS else None


def generator(op: Op, _case: Case) -> str | None:
    """A generator of random numbers other than the default."""
    algorithm = op.attributes.get("algorithm", "rng_default") if op.name == "hlo.rng-bit-generator" else "rng_default"
    return f"{op.name} asks for {algorithm}" if algorithm != "rng_default" else None


def random(op: Op, _case: Case) -> str | None:
    """Random numbers. Attention is marked for its dropout, which is off where a model is evaluated."""
    return f"{op.name} draws random numbers" if op.random and op.attributes.get("dropout_p", 1) else None


def host_read(op: Op, _case: Case) -> str | None:
    """A decision of the tracer's by what one example holds."""
    return f"{op.name} reads what an input holds while it is traced" if op.read_by_host else None


def stopped(case: Case) -> Iterator[str]:
    """A graph that ends before the program does."""
    if case.graph.problem:
        yield f"it can't be traced: {case.graph.problem}"
