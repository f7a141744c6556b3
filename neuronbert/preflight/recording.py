"""A torch module to a Graph: what it calls while it is traced.

Owns: watching torch's operators under the tracer. Knows nothing of what is wrong with a graph.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from neuronbert.backends.flat import Flat
from neuronbert.errors import first_line
from neuronbert.preflight.graphs import Graph, Op, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_WIDE: Final = (torch.int64, torch.uint64)
"""The types whose constants the compiler narrows, so that their values matter; indices are of them too."""
_RESULT_SHAPE: Final = torch.Tag.dynamic_output_shape
_CALCULATED: Final = ("number", "Optional[number]", "Tensor", "Optional[Tensor]")
"""The types of arguments that are calculated with; a plain number may stand for a tensor."""
_MASKS: Final = (torch.bool, torch.uint8)


def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    """What a module calls for one batch of inputs, seen under `torch.jit.trace`, so that it takes the traced path.

    Args:
        module: In eval mode.
        inputs: Positional tensors of a static shape.

    Returns:
        Its graph; if it raises, up to there, with the problem.
    """
    weights = {weight.data_ptr(): weight for weight in (*module.parameters(), *module.buffers())}
    recorder = _Recorder(weights.values())
    problem = ""
    entry = _Entry(module, recorder)
    with torch.no_grad(), warnings.catch_warnings(), recorder:
        warnings.simplefilter("ignore")  # each Python branch on a shape warns; shapes are static here
        try:
            torch.jit.trace(entry, inputs, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001  whatever the module raises is what is reported
            problem = first_line(error)
    return Graph(
        ops=tuple(recorder.ops),
        storages=tuple(recorder.storages),
        weights_bytes=sum(weight.nbytes for weight in weights.values()),
        io_bytes=sum(tensor.nbytes for tensor in (*inputs, *entry.outputs)),
        problem=problem,
    )


class _Entry(Flat):
    """A module that tells the recorder which tensors are its inputs: the tracer hands on its own."""

    def __init__(self, module: nn.Module, recorder: _Recorder) -> None:
        super().__init__(module)
        self.outputs: tuple[Tensor, ...] = ()
        self._recorder = recorder

    def forward(self, *inputs: Tensor) -> Any:
        self._recorder.feed(inputs)
        result = super().forward(*inputs)
        self.outputs = tuple(_tensors(result))
        return result


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__ is
    """Notes every operator that reaches a kernel, with the types and shapes of its values."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.storages: list[int] = []
        self._fed: Any = WeakIdKeyDictionary()
        self._places: dict[StorageWeakRef, int | None] = dict.fromkeys(map(_key, weights))

    def feed(self, inputs: Iterable[Tensor]) -> None:
        """Mark tensors as the program's inputs."""
        for tensor in inputs:
            self._fed[tensor] = True
            self._places.setdefault(_key(tensor))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of every operator."""
        given = dict(kwargs or {})
        operands = _tensors((args, given))
        fed = any(tensor in self._fed for tensor in operands)
        results: list[Tensor] = []
        try:
            output = func(*args, **given)
            results = _tensors(output)
        finally:  # what fails is noted too, for it is what the rules look at
            if fed:
                self._fed.update(dict.fromkeys(results, True))
            self._note(func, args, given, (operands, results))
        return output

    def _note(
        self, func: Any, args: Sequence[Any], given: dict[str, Any], tensors: tuple[list[Tensor], list[Tensor]]
    ) -> None:
        operands, results = tensors
        expected = func._schema.arguments
        defaults = {item.name: item.default_value for item in expected if item.has_default_value()}
        attributes = {**defaults, **{item.name: value for item, value in zip(expected, args, strict=False)}, **given}
        numbers = [attributes.get(item.name) for item in expected if str(item.type) in _CALCULATED]
        plain = {name: value for name, value in attributes.items() if not _tensors(value)}
        if isinstance(attributes.get("indices"), list | tuple):  # of aten.index: which dimensions they are for
            plain["indexed"] = tuple(dim for dim, index in enumerate(attributes["indices"]) if index is not None)
        depends = any(tensor in self._fed for tensor in operands)
        self.ops.append(
            Op(
                name=_name(func),
                operands=tuple(map(self._describe, operands)),
                results=tuple(self._describe(result, made=True) for result in results),
                numbers=tuple(n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool)),
                attributes=plain,
                sized_by_values=depends and _is_sized_by_values(func, operands),
                read_by_host=depends and torch.Tag.data_dependent_output in func.tags,
                random=torch.Tag.nondeterministic_seeded in func.tags,
            )
        )

    def _describe(self, tensor: Tensor, *, made: bool = False) -> Value:
        constant = tensor not in self._fed
        low = high = None
        if constant and tensor.dtype in _WIDE and tensor.numel():
            array = tensor.detach().numpy()  # torch has no minimum of uint64
            low, high = int(array.min()), int(array.max())
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Value(dtype, tuple(tensor.shape), constant, low, high, self._place(tensor, made=made))

    def _place(self, tensor: Tensor, *, made: bool) -> int | None:
        key = _key(tensor)
        if key not in self._places and made:
            self._places[key] = len(self.storages)
            self.storages.append(tensor.untyped_storage().nbytes())
        return self._places.get(key)


def _name(func: Any) -> str:
    # What works in place is called like what doesn't.
    name = func._schema.name.partition("::")[2]
    in_place = name.endswith("_") and not name.endswith("__")
    return f"{func.namespace}.{name.removesuffix('_') if in_place else name}"


def _key(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _is_sized_by_values(func: Any, operands: list[Tensor]) -> bool:
    if func is torch.ops.aten.index.Tensor:  # by numbers it gives as many as there are numbers
        return any(tensor.dtype in _MASKS for tensor in operands[1:])
    return _RESULT_SHAPE in func.tags
