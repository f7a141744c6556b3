"""What may be in a TorchScript archive, looked at before and after TorchScript reads it.

Owns: the checks that make an archive from elsewhere safe to load and to run. Knows nothing of manifests or devices.
"""

from __future__ import annotations

import pickletools
import re
import struct
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.backends import operators
from neuronbert.backends.archives import TorchArchive
from neuronbert.backends.storage import reserve
from neuronbert.errors import ArtifactCorruptError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_RAISED: Final = re.compile(r"^\w+(?:Error|Exception): (.*\S)", re.MULTILINE)
_HOOK: Final = b"__setstate__"
_CLASSES: Final = b"torch.classes"
"""What in a program's code would act while it is loaded."""
_MODULE: Final = re.compile(r"__torch__\.(?!torch\.classes)[\w.]+")
_PICKLED: Final = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\.\w+Storage|torch\.jit\._pickle\.\w+|collections\.OrderedDict"
)
"""What a pickled module is built of: TorchScript's own reader knows these by name, and no Python reads them."""
_BUILDERS: Final = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
"""How pickles of later protocols name classes; TorchScript writes none."""
_MAX_DEPTH: Final = 200
"""Brackets in brackets; TorchScript's parser runs out of stack, and ends the process, at some ten thousand."""


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
    except ArtifactCorruptError:
        raise
    except Exception as error:  # torch's reader trips over what is wrong wherever it meets it
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
        low = name.lower()  # the reader takes a member for another that differs in case
        if low.startswith("code/") and not low.endswith(".debug_pkl"):
            text = archive.read(name)
            own = text.replace(_CLASSES + b"." + vendor.encode() + b".", b"") if vendor else text
            if _HOOK in own or _CLASSES in own or _depth(text) > _MAX_DEPTH:
                raise ArtifactCorruptError(path, "has code that would run while it is loaded, or can't be read")
        elif low.endswith(".pkl"):
            _refuse_classes(archive.read(name), path, vendor)


def refuse_effects(module: Any, methods: Sequence[str], path: Path, vendor: str = "") -> None:
    """Look at the operators that a loaded module's methods would run.

    Raises:
        ArtifactCorruptError: one of them is none that an encoder needs.
    """
    for method in methods:
        for kind in _kinds(getattr(module, method).inlined_graph):
            if not operators.known(kind, vendor):
                raise ArtifactCorruptError(path, f"contains the operator {kind}, which no encoder needs")


def _depth(code: bytes) -> int:
    depth = deepest = 0
    for char in code:
        if char in b"([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in b")]}":
            depth -= 1
    return deepest


def _refuse_classes(content: bytes, path: Path, vendor: str) -> None:
    """Look at the classes that a pickled module names: those of torch's libraries act when they are built."""
    own = re.compile(rf"__torch__\.torch\.classes\.{vendor}\.\w+") if vendor else None
    try:
        for opcode, value, _ in pickletools.genops(content):
            name = str(value).replace(" ", ".") if opcode.name == "GLOBAL" else ""
            known = _MODULE.fullmatch(name) or _PICKLED.fullmatch(name) or (own and own.fullmatch(name))
            if opcode.name in _BUILDERS or (name and not known):
                raise ArtifactCorruptError(path, f"names {name or opcode.name}, which no program is built of")
    except (ValueError, IndexError, struct.error) as error:
        raise ArtifactCorruptError(path, f"holds a damaged module ({first_line(error)})") from error


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
