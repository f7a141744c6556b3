"""A torch module to HLO, by PyTorch/XLA in a process of its own, and HLO's text to a Graph.

Owns: what is handed to that process, what it answers, and reading HLO. Knows nothing of what is wrong with a graph.
Source of the text's form: XLA's HloModule::ToString, which torch_xla 2.9 prints.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import LoweringUnavailableError, NotExportableError, StorageError, first_line
from neuronbert.preflight.graphs import Graph, Op, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_WORKER: Final = Path(__file__).with_name("hlo_worker.py")
_TIMEOUT_SECONDS: Final = 900.0
"""Far more than the heads of BERT-large take; what takes longer hangs."""
_DTYPES: Final = {
    "pred": "bool",
    "bf16": "bfloat16",
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"s{bits}": f"int{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"c{bits}": f"complex{bits}" for bits in (64, 128)},
    **{f"f8{kind}": f"float8_{kind}" for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz", "e8m0fnu")},
    "f4e2m1fn": "float4_e2m1fn",
}
"""HLO's names of types to torch's."""
_COMPUTATION: Final = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION: Final = re.compile(
    r"^\s+(?P<root>ROOT )?%?[\w.\-]+ = (?P<type>\(.*?\)|\S+) (?P<opcode>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_TYPE: Final = re.compile(r"\b([a-z]\w*)\[([^\]]*)\]")
_ATTRIBUTE: Final = re.compile(r"([\w\-]+)=(\{[^{}]*\}|\"[^\"]*\"|[^,\s]+)")
_MOVES: Final = frozenset({"broadcast", "convert", "copy", "reshape", "slice", "transpose"})
"""Operations whose result holds nothing that their operand doesn't."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """What lowering a program gave.

    Attributes:
        graph: The HLO; with a problem if there is none.
        versions: torch and torch_xla that made it.
    """

    graph: Graph
    versions: Mapping[str, str]


def find_interpreter() -> str | None:
    """This interpreter, if it has torch_xla."""
    return sys.executable if find_spec("torch_xla") else None


def lower(module: nn.Module, inputs: tuple[Tensor, ...], python: str) -> Lowered:
    """Lower a module to HLO for real, as torch_neuronx.trace does before it calls the compiler.

    Args:
        module: In eval mode, on the CPU.
        inputs: Positional tensors of a static shape.
        python: An interpreter with torch and torch_xla 2.9.

    Raises:
        NotExportableError: torch.export can't take the module, so nothing can be handed over. It says nothing of
            torch_neuronx.trace, which goes another way.
        LoweringUnavailableError: the interpreter can't do it, or not in 15 minutes.
        StorageError: there is no room for the program's file.
    """
    try:
        with torch.no_grad():
            exported = torch.export.export(module, inputs)
    except Exception as error:
        raise NotExportableError(first_line(error)) from error
    weights = sum(tensor.nbytes for tensor in exported.state_dict.values())
    with tempfile.TemporaryDirectory(prefix="neuronbert-hlo-") as folder:
        free = shutil.disk_usage(folder).free
        if free < 2 * weights:
            raise StorageError(folder, f"lowering takes about {2 * weights} bytes and {free} are free")
        program, answer = Path(folder, "program.pt2"), Path(folder, "answer.json")
        torch.export.save(exported, program)
        _run(python, [str(program), str(answer)], folder)
        found = _read(answer, python)
    graph = Graph((), problem=found["problem"]) if found["problem"] else parse(found["hlo"])
    return Lowered(graph, found["versions"])


def _run(python: str, arguments: list[str], folder: str) -> None:
    # The worker comes by stdin, so that no module beside it takes the place of one that torch imports. It runs in
    # another folder, from where a relative path would lead elsewhere; resolved, a link would leave its environment.
    python = os.path.abspath(python) if os.sep in python else python  # noqa: PTH100
    try:
        with _WORKER.open() as source:
            done = subprocess.run(
                [python, "-W", "ignore", "-", *arguments],
                cwd=folder,
                stdin=source,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env=_environment(python),
                timeout=_TIMEOUT_SECONDS,
            )
    except subprocess.TimeoutExpired as error:
        raise LoweringUnavailableError(python, f"it wasn't done in {_TIMEOUT_SECONDS:g} seconds") from error
    except OSError as error:
        raise LoweringUnavailableError(python, error.strerror or str(error)) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise LoweringUnavailableError(python, said[-1].strip() if said else f"it ended with {done.returncode}")


def _environment(python: str) -> dict[str, str]:
    # Another interpreter has packages of its own, and ours, of other versions, would hide them.
    ours = () if python == sys.executable else ("PYTHONPATH", "PYTHONHOME")
    return {name: value for name, value in os.environ.items() if name not in ours}


def _read(answer: Path, python: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(answer.read_bytes())
    except (OSError, ValueError) as error:
        raise LoweringUnavailableError(python, "it gave no answer") from error
    return found


def parse(text: str) -> Graph:
    """The instructions of an HLO module's text, those of its inner computations too.

    A constant's value is known where the text gives it: of scalars, and of iota.
    """
    lines = text.splitlines()
    roots = _roots(lines)
    ops: list[Op] = []
    bounds: dict[str, tuple[int, int]] = {}
    for line in lines:
        match = _INSTRUCTION.match(line)
        if match:
            ops.append(_op(line, match, roots, bounds))
    return Graph(tuple(ops))


def _roots(lines: list[str]) -> dict[str, str]:
    # What the last instruction of each computation does.
    roots: dict[str, str] = {}
    name = ""
    for line in lines:
        opened, instruction = _COMPUTATION.match(line), _INSTRUCTION.match(line)
        if opened:
            name = opened["name"]
        elif instruction and instruction["root"]:
            roots[name] = instruction["opcode"]
    return roots


def _op(line: str, match: re.Match[str], roots: dict[str, str], bounds: dict[str, tuple[int, int]]) -> Op:
    opcode = match["opcode"]
    inside, after = _split(match["rest"])
    attributes = {key: _attribute(value) for key, value in _ATTRIBUTE.findall(after)}
    names = re.findall(r"%([\w.\-]+)", inside)
    operands = [
        _value(kind, dims, bounds.get(name)) for (kind, dims), name in zip(_TYPE.findall(inside), names, strict=False)
    ]
    results = [_value(kind, dims) for kind, dims in _TYPE.findall(match["type"])]
    held = _bounds(opcode, inside, attributes, results, [bounds.get(name) for name in names])
    if held:
        bounds[line.split(" = ")[0].split("%")[-1].strip()] = held
        results = [_value(kind, dims, held) for kind, dims in _TYPE.findall(match["type"])]
    region = str(attributes.get("to_apply", "")).removeprefix("%")
    if opcode == "scatter" and roots.get(region, "parameter") != "parameter":
        attributes["combines"] = roots[region]
    return Op(f"hlo.{opcode}", tuple(operands), tuple(results), attributes=attributes)


def _split(rest: str) -> tuple[str, str]:
    # The operands, up to the parenthesis that closes them, and the attributes behind it.
    depth = 1
    for place, char in enumerate(rest):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return rest[:place], rest[place + 1 :]
    return rest, ""


def _attribute(text: str) -> Any:
    body = text.strip('{}"')
    if text.startswith("{") and "=" in body:  # window={size=2x2 stride=2x2}
        pairs = (part.split("=", 1) for part in body.split() if "=" in part)
        return {key: tuple(map(int, re.findall(r"\d+", value))) for key, value in pairs}
    if text.startswith("{") and re.fullmatch(r"[\d,\s]*", body):
        return tuple(map(int, re.findall(r"\d+", body)))
    return body


def _value(kind: str, dims: str, held: tuple[int, int] | None = None) -> Value:
    sizes = tuple(int(size) if size.isdigit() else -1 for size in dims.split(",") if size.strip())
    low, high = held or (None, None)
    return Value(_DTYPES.get(kind, kind), sizes, held is not None, low, high)


def _bounds(
    opcode: str,
    inside: str,
    attributes: Mapping[str, Any],
    results: list[Value],
    held: list[tuple[int, int] | None],
) -> tuple[int, int] | None:
    if not results or not results[0].dtype.startswith(("int", "uint")):
        return None
    if opcode == "constant":
        numbers = [int(number) for number in re.findall(r"-?\d+", inside)]
        return (min(numbers), max(numbers)) if numbers else None
    if opcode == "iota":
        dims = results[0].dims
        return 0, dims[int(attributes.get("iota_dimension", 0))] - 1
    return held[0] if opcode in _MOVES and held else None
