"""A program as plain data: its operations with the dtypes and shapes of every value, and what it needs.

Owns: Value, Op and Graph, and the counts that follow from them. Knows nothing of torch, of how a graph is had, or of
what is wrong with one. Operations of torch are called "aten.mm", those of HLO "hlo.dot"; dtypes have torch's names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRODUCTS: Final = {"aten.mm": 0, "aten.bmm": 0, "aten.addmm": 1, "aten.baddbmm": 1}
"""The matrix products of torch, each with the place of its left operand: what comes before is only added."""
_ATTENTION: Final = "aten._scaled_dot_product"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of a program.

    Attributes:
        dtype: torch's name of it: "float32".
        dims: Its dimensions; -1 where it isn't static.
        constant: It depends on no input.
        low: The least element, of a constant of whole numbers.
        high: The greatest.
        storage: Which memory it lies in, an index of `Graph.storages`; None for inputs and weights.
    """

    dtype: str
    dims: tuple[int, ...]
    constant: bool = False
    low: int | None = None
    high: int | None = None
    storage: int | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of a program.

    Attributes:
        name: "aten.mm" or "hlo.dot", without its overload.
        operands: The tensors it takes.
        results: The tensors it gives; none if it failed.
        numbers: The plain numbers it calculates with.
        attributes: What else it was told, by name.
        sized_by_values: The shape of a result depends on what an input holds.
        read_by_host: What an input holds was read while the program was traced.
        random: It draws random numbers.
    """

    name: str
    operands: tuple[Value, ...] = ()
    results: tuple[Value, ...] = ()
    numbers: tuple[float, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sized_by_values: bool = False
    read_by_host: bool = False
    random: bool = False

    @property
    def flops(self) -> int:
        """What its matrix products take: two for each multiplication and addition."""
        if self.name in _PRODUCTS:
            return 2 * prod(self.results[0].dims) * self.operands[_PRODUCTS[self.name]].dims[-1]
        if self.name.startswith(_ATTENTION):
            query, key, value = (operand.dims for operand in self.operands[:3])
            return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
        if self.name == "hlo.dot":
            left = self.operands[0].dims
            contracted: tuple[int, ...] = self.attributes["lhs_contracting_dims"]
            return 2 * prod(self.results[0].dims) * prod(left[dim] for dim in contracted)
        return 0


@dataclass(frozen=True, slots=True)
class Graph:
    """A program.

    Attributes:
        ops: Its operations, in order.
        storages: The bytes of every memory that an operation fills.
        weights_bytes: The bytes of its weights and buffers, a shared one counted once.
        io_bytes: The bytes of its inputs and outputs.
        problem: Why it couldn't be traced to its end; empty if it was.
    """

    ops: tuple[Op, ...]
    storages: tuple[int, ...] = ()
    weights_bytes: int = 0
    io_bytes: int = 0
    problem: str = ""

    @property
    def flops(self) -> int:
        """What the matrix products of one call take."""
        return sum(op.flops for op in self.ops)

    @property
    def peak_bytes(self) -> int:
        """The most that the values between the operations take at once, each kept until it was last used.

        A compiler that fuses operations needs less; one that keeps values in another layout as well may need more.
        """
        last = {value.storage: place for place, op in enumerate(self.ops) for value in (*op.operands, *op.results)}
        held: set[int] = set()
        live = peak = 0
        for place, op in enumerate(self.ops):
            made = {value.storage for value in op.results if value.storage is not None} - held
            held |= made
            live += sum(self.storages[storage] for storage in made)
            peak = max(peak, live)
            used = {value.storage for value in (*op.operands, *op.results) if value.storage is not None}
            ended = {storage for storage in used if last[storage] == place}
            live -= sum(self.storages[storage] for storage in ended)
        return peak
