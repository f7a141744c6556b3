"""Exported programs (torch.export) as files that hold data and nothing else.

torch.export.load unpickles whatever a file says is pickled, evaluates symbolic shapes and guards, and looks operators
up by name. So a file is written without any of these, and refused before it is loaded if it has one.

Owns: writing, checking and reading .pt2 archives. Knows nothing of manifests or devices.
"""

from __future__ import annotations

import json
import re
import zipfile
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.backends.storage import reserve
from neuronbert.errors import ArtifactCorruptError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn
    from torch.export import ExportedProgram

_MEMBER: Final = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/sample_inputs/model\.pt"
    r"|data/constants/(tensor_\d+|model_constants_config\.json))"
)
_OPERATOR: Final = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.getitem")
_FORBIDDEN: Final = ("from_file", "save", "_print")
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
_TREE: Final = re.compile(r'"type": (?:null|"builtins\.(?:tuple|list|dict)")')
_MAX_TEXT: Final = 64 << 20


def save(program: ExportedProgram, path: Path) -> None:
    """Write an exported program of static shapes: its graph as JSON, its weights as raw bytes.

    Raises:
        StorageError: there is no room for it.
    """
    for node in program.graph.nodes:
        node.meta = {name: value for name, value in node.meta.items() if name in ("val", "tensor_meta")}
    program._example_inputs = None
    program._guards_code = []
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    with reserve(path, weights):
        torch.export.save(program, path)


def load(path: Path) -> nn.Module:
    """The module in a file, after looking at all that it would do.

    Raises:
        ArtifactCorruptError: it is no such file, or holds what no exported encoder needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for problem in _problems(archive):
                raise ArtifactCorruptError(path, problem)
        module: nn.Module = torch.export.load(path).module(check_guards=False)
    except ArtifactCorruptError:
        raise
    except Exception as error:  # torch's reader asserts and looks things up as it goes
        raise ArtifactCorruptError(path, f"is not an exported program ({first_line(error)})") from error
    return module


def _problems(archive: zipfile.ZipFile) -> Iterator[str]:
    names = archive.namelist()
    if len(set(names)) < len(names):
        yield "holds two members of one name"
    if len({name.partition("/")[0] for name in names}) > 1:
        yield "holds more than one program"
    for info in archive.infolist():
        if not _MEMBER.fullmatch(info.filename):
            yield f"holds {info.filename!r}, which is no part of an exported program"
        elif info.filename.endswith(".pt") and info.file_size:
            yield "holds pickled inputs"
        elif info.filename.endswith(".json"):
            if info.file_size > _MAX_TEXT:
                yield f"has a {info.filename} of {info.file_size} bytes"
            body = json.loads(archive.read(info))
            yield from _graph_problems(body) if "/models/" in info.filename else _payload_problems(body)


def _payload_problems(body: Any) -> Iterator[str]:
    for name, entry in body["config"].items():
        if entry["use_pickle"] is not False:
            yield f"has a pickled value, {name!r}"


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
        if key in ("in_spec", "out_spec") and len(_TREE.findall(value)) != value.count('"type"'):
            yield "gives values of a class"


def _node_problems(nodes: list[Any]) -> Iterator[str]:
    for node in nodes:
        operator = str(node["target"])
        if not _OPERATOR.fullmatch(operator) or operator.split(".")[-2] in _FORBIDDEN:
            yield f"contains the operator {operator}, which no encoder needs"
        if node["metadata"]:
            yield "names objects of the program that it was made in"


def _entries(body: Any) -> Iterator[tuple[str, Any]]:
    todo = [body]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            yield from item.items()
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
