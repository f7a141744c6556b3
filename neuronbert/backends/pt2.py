"""Exported programs (torch.export) as files that hold data and nothing else.

torch.export.load unpickles whatever a file says is pickled, evaluates symbolic shapes and guards, imports what a tree
of values names, looks operators up by name, and makes Python code of the names of values and weights. So a file is
written without any of the first, and refused before it is loaded if it has one, or a name that is more than a name.

Owns: writing, checking and reading .pt2 archives. Knows nothing of manifests or devices.
"""

from __future__ import annotations

import json
import keyword
import math
import re
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.export.passes import move_to_device_pass

from neuronbert.backends import operators
from neuronbert.backends.archives import TorchArchive
from neuronbert.backends.storage import reserve
from neuronbert.errors import ArtifactCorruptError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn
    from torch.export import ExportedProgram

_GRAPH: Final = "models/model.json"
_MEMBER: Final = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/sample_inputs/model\.pt"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_PAYLOAD: Final = re.compile(r"(weight|tensor)_\d+")
_OPERATOR: Final = re.compile(r"torch\.ops\.(aten)\.(\w+)\.\w+")
_VALUES: Final = frozenset(
    {
        "as_none",
        "as_bool",
        "as_bools",
        "as_int",
        "as_ints",
        "as_float",
        "as_floats",
        "as_string",
        "as_device",
        "as_layout",
    }
    | {"as_memory_format", "as_scalar_type", "as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors"}
)
"""The kinds of argument that are plain data; symbolic numbers, subgraphs and objects are not."""
_TREES: Final = ("in_spec", "out_spec")
_NODES: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_CONTEXTS: Final = (None, "null", "[]")
"""What a tree says of its nodes where they are no classes, and dictionaries are empty."""
_NAME: Final = re.compile(r"((?!__)\w+(\.(?!__)\w+)*)?", re.ASCII)
"""What a name of a value or a weight is: words joined by dots. Two underscores would begin a name of Python's own."""
_TEXTS: Final = ("target", "torch_version", "as_string", *_TREES)
"""Keys whose texts are no names: those of operators and trees are checked as what they are."""
_MAX_TEXT: Final = 64 << 20


def save(program: ExportedProgram, path: Path) -> None:
    """Write an exported program of static shapes: its graph as JSON, its weights as raw bytes.

    Raises:
        OSError: there is no room for it.
    """
    for node in program.graph.nodes:
        node.meta = {name: value for name, value in node.meta.items() if name in ("val", "tensor_meta")}
    program._example_inputs = None
    program._guards_code = []
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    with reserve(path, weights):
        torch.export.save(program, path)


def load(path: Path) -> ExportedProgram:
    """The program in a file, after looking at all that it would do.

    Raises:
        ArtifactCorruptError: it is no such file, or holds what no exported encoder needs.
    """
    archive = TorchArchive(path, "an exported program")
    try:
        for problem in _problems(archive):
            raise ArtifactCorruptError(path, problem)
        program: ExportedProgram = torch.export.load(path)
    except ArtifactCorruptError:
        raise
    except Exception as error:  # torch's reader asserts and looks things up as it goes
        raise ArtifactCorruptError(path, f"is not an exported program ({first_line(error)})") from error
    return program


def module_on(program: ExportedProgram, device: str) -> nn.Module:
    """A program as a module on a device; its graph names the one that it was made on, too.

    Raises:
        RuntimeError: the device didn't take it.
    """
    module: nn.Module = move_to_device_pass(program, device).module(check_guards=False)
    return module


def _problems(archive: TorchArchive) -> Iterator[str]:
    for name in archive.names:
        if not _MEMBER.fullmatch(name):
            yield f"holds {name!r}, which is no part of an exported program"
        size = archive.size(name)
        if name.endswith(".pt") and size:
            yield "holds pickled inputs"
        if name.endswith(".json"):
            if size > _MAX_TEXT:
                yield f"has a {name} of {size} bytes"
            body = json.loads(archive.read(name))
            yield from _graph_problems(body) if name == _GRAPH else _payload_problems(body, archive, name)
            yield from _text_problems(body)


def _payload_problems(body: Any, archive: TorchArchive, config: str) -> Iterator[str]:
    folder = config.rpartition("/")[0]
    for name, entry in body["config"].items():
        if entry["use_pickle"] is not False or not _PAYLOAD.fullmatch(entry["path_name"]):
            yield f"has a pickled value, {name!r}"
        # Torch takes an empty member for zeros, and a stride of 0 for rows, of whatever size is said.
        sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        if not 0 < math.prod(sizes) <= archive.size(f"{folder}/{entry['path_name']}"):
            yield f"says that {name!r} is larger than it is"


def _graph_problems(body: Any) -> Iterator[str]:
    if body["guards_code"] or body["range_constraints"]:
        yield "has code or ranges of its own for what it takes"
    module = body["graph_module"]
    if module.get("treespec_namedtuple_fields"):
        yield "gives values of a class"
    yield from _node_problems(module["graph"]["nodes"])
    for key, value in _entries(body):
        if (key.startswith("as_") and key not in _VALUES) or "expr" in key:
            yield f"has an argument of the kind {key}, which is no plain data"
        if key in _TREES:
            yield from _tree_problems(json.loads(value)[1])


def _node_problems(nodes: list[Any]) -> Iterator[str]:
    for node in nodes:
        operator = str(node["target"])
        found = _OPERATOR.fullmatch(operator)
        if operator != "_operator.getitem" and not (found and operators.known("::".join(found.groups()))):
            yield f"contains the operator {operator}, which no encoder needs"
        if node["metadata"]:
            yield "names objects of the program that it was made in"


def _tree_problems(tree: Any) -> Iterator[str]:
    if tree["type"] not in _NODES or tree["context"] not in _CONTEXTS:
        yield "gives values of a class"
    for child in tree["children_spec"]:
        yield from _tree_problems(child)


def _text_problems(body: Any) -> Iterator[str]:
    for key, value in _entries(body):
        for text in (key, value):
            named = isinstance(text, str) and not (text is value and key in _TEXTS)
            if named and (not _NAME.fullmatch(text) or keyword.iskeyword(text)):
                yield f"has a name that is none, {text!r}"


def _entries(body: Any) -> Iterator[tuple[str, Any]]:
    """Every value in some JSON, with the key that it is under, however deep in lists."""
    todo = [("", body)]
    while todo:
        key, item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item.items())
        elif isinstance(item, list):
            todo.extend((key, value) for value in item)
        yield key, item
