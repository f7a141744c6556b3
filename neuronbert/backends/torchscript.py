"""What may be in a TorchScript archive, looked at before and after TorchScript reads it.

Owns: the checks that make an archive from elsewhere safe to load and to run. Knows nothing of manifests or devices.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.backends.archives import TorchArchive
from neuronbert.backends.storage import reserve
from neuronbert.errors import ArtifactCorruptError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_NAMESPACES: Final = ("aten::", "prim::")
_FORBIDDEN: Final = frozenset(
    {"aten::from_file", "aten::save", "aten::_print", "aten::wait", "prim::PythonOp", "prim::Print", "prim::fork"}
    | {"prim::rpc_async", "prim::rpc_sync", "prim::rpc_remote", "prim::awaitable", "prim::CudaFusionGroup"}
)
"""Operators of those namespaces that act outside the program; no traced encoder has one."""
_RAISED: Final = re.compile(r"^\w+(?:Error|Exception): (.*\S)", re.MULTILINE)
_HOOK: Final = b"__setstate__"
_CLASSES: Final = b"torch.classes"
"""What in a program's code would act while it is loaded."""


def load(path: Path, methods: Sequence[str]) -> Any:
    """The module in an archive, on the CPU, after looking at what it would run.

    Args:
        path: The archive.
        methods: The methods that are going to be called.

    Raises:
        ArtifactCorruptError: it is no TorchScript archive, or does what no encoder needs.
    """
    refuse_hooks(path)
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        refuse_effects(module, methods, path)
    except (RuntimeError, AttributeError, ValueError) as error:
        raise ArtifactCorruptError(path, f"is not a program for the cpu target ({first_line(error)})") from error
    return module


def save(module: Any, path: Path, beside: int = 0) -> None:
    """Write a module's archive.

    Args:
        module: What `torch.jit.save` takes.
        path: The file.
        beside: Bytes that it holds beside its weights.

    Raises:
        OSError: there is no room for it.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    with reserve(path, weights + beside):
        torch.jit.save(module, str(path))


def reason(error: Exception) -> str:
    """What an error of a call says: the interpreter puts it last, below the lines of the program's code."""
    raised = _RAISED.findall(str(error))
    return raised[-1] if raised else first_line(error)


def refuse_hooks(path: Path, vendor: str = "") -> None:
    """Look at the code of an archive before TorchScript does: loading it may already run some of it.

    Args:
        path: The archive.
        vendor: The namespace of operators and classes that a device's library adds, such as "neuron".

    Raises:
        ArtifactCorruptError: it is no archive, or has code that would act while it is loaded.
    """
    archive = TorchArchive(path, "a TorchScript archive")
    for name in archive.names:
        # The reader takes a member for another that differs in case, so it is looked for in any.
        if not name.lower().startswith("code/") or name.lower().endswith(".debug_pkl"):
            continue
        text = archive.read(name)
        own = text.replace(_CLASSES + b"." + vendor.encode() + b".", b"") if vendor else text
        if _HOOK in own or _CLASSES in own:
            raise ArtifactCorruptError(path, "has code that would run while it is loaded")


def refuse_effects(module: Any, methods: Sequence[str], path: Path, vendor: str = "") -> None:
    """Look at the operators that a loaded module's methods would run.

    Raises:
        ArtifactCorruptError: one of them is none that an encoder needs.
    """
    allowed = (*_NAMESPACES, f"{vendor}::") if vendor else _NAMESPACES
    for method in methods:
        for kind in _kinds(getattr(module, method).inlined_graph):
            if kind in _FORBIDDEN or not kind.startswith(allowed):
                raise ArtifactCorruptError(path, f"contains the operator {kind}, which no encoder needs")


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
