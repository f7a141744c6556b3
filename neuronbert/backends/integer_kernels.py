"""The steps of an integer program as compiled kernels, where they were built on this machine.

Owns: building them, finding them again, and putting them in the place of the calls by which a program names its steps
(integers/steps.py). Knows nothing of what the integers stand for. A program without them gives the same integers, only
later: its file holds the steps' definitions, and never a kernel.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import KernelBuildError, first_line
from neuronbert.places import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

logger = logging.getLogger("neuronbert")

SOURCES: Final = tuple(Path(__file__).with_name(f"{name}_kernels.cpp") for name in ("integer", "attention"))
_NAME: Final = "neuronbert_integers"
_ALONE: Final = {"linear": 4, "gelu": 5, "norm": 4, "add_norm": 9}
"""What a kernel of its own takes the place of, by the number of its arguments."""
_PREFIX: Final = "_ibert_"
_TENSOR: Final = torch._C.TensorType.get()


def build_kernels() -> Path:
    """Compile the kernels for this machine, if that wasn't done before, and load them.

    Raises:
        KernelBuildError: there is no C++ compiler or no ninja, or it doesn't compile them.
    """
    from torch.utils import cpp_extension  # noqa: PLC0415  it takes a second, and only building needs it

    library = _library()
    if available():
        return library
    try:
        _make_private(library)
        if why := _exposed(library.parent):
            raise KernelBuildError(why)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder, _beside_python():
            cpp_extension.load(
                _NAME,
                list(map(str, SOURCES)),
                extra_cflags=_flags(platform.machine()),
                build_directory=folder,
                is_python_module=False,
            )
            made = Path(folder) / library.name
            made.chmod(0o755)  # whatever the umask lets others write
            made.replace(library)  # whole or not at all: it is loaded already
    except (RuntimeError, OSError) as error:
        raise KernelBuildError(first_line(error)) from error
    available.cache_clear()
    return library


@contextmanager
def _beside_python() -> Iterator[None]:
    # pip puts ninja there; only an environment that is activated has it on the path.
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), before))
    try:
        yield
    finally:
        os.environ["PATH"] = before


@cache
def available() -> bool:
    """Whether the kernels were built on this machine for this version; they are loaded then.

    What somebody else could have put there is not: a library runs as soon as it is loaded.
    """
    if hasattr(torch.ops.neuronbert, "ibert_linear"):
        return True
    library = _library()
    try:
        if not library.is_file():
            return False
        why = _exposed(library)
    except OSError as error:  # a folder of root's that only root enters
        why = first_line(error)
    if why:
        logger.warning("The integer kernels aren't loaded (%s): programs give the same results, slower.", why)
        return False
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError as error:
        logger.warning("The integer kernels can't be loaded (%s). Build them again.", first_line(error))
        return False
    return True


def install(module: Any, methods: Iterable[str]) -> None:
    """Put the kernels, where they were built, into a loaded program of integers, in place, before it is frozen.

    Args:
        module: What `torch.jit.load` gave.
        methods: Their names.
    """
    for method in methods:
        graph = module._c._get_method(method).graph
        calls = {step: [node for node in graph.nodes() if _step(node) == step] for step in (*_ALONE, "context")}
        if not any(calls.values()) or not available():
            continue
        for step in _ALONE:
            for node in calls[step]:
                given = list(node.inputs())[1:]
                if len(given) == _ALONE[step]:  # a program may be anybody's: what isn't known stays as it is
                    _replace(graph, node, f"neuronbert::ibert_{step}", given)
        for node in calls["context"]:
            inputs = _attention(node)
            if inputs is not None:
                softmax = list(node.inputs())[1].node()
                scores = list(softmax.inputs())[1].node()
                _replace(graph, node, "neuronbert::ibert_attend", inputs)
                softmax.destroy()  # a call is never dead code: it might act
                scores.destroy()
        torch._C._jit_pass_dce(graph)
        graph.lint()


def _step(node: Any) -> str:
    """The step that a node calls, or nothing."""
    if node.kind() != "prim::CallFunction":
        return ""
    function = next(node.inputs()).node()
    name: str = function.s("name") if function.hasAttribute("name") else ""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""


def _replace(graph: Any, node: Any, kind: str, inputs: list[Any]) -> None:
    made = graph.create(kind, inputs, 1)
    made.output().setType(_TENSOR)
    made.insertBefore(node)
    node.output().replaceAllUsesWith(made.output())
    node.destroy()


def _attention(context: Any) -> list[Any] | None:
    """What one kernel needs for the scores, the softmax and the context, if nothing else reads what is between them."""
    if (of_context := _given(context, "context", 3)) is None:
        return None
    probabilities, value, by = of_context
    if not _read_once(probabilities) or (of_softmax := _given(probabilities.node(), "softmax", 3)) is None:
        return None
    scores, attended, constants = of_softmax
    if not _read_once(scores) or (of_scores := _given(scores.node(), "scores", 2)) is None:
        return None
    return [*of_scores, value, attended, constants, by]


def _given(node: Any, step: str, count: int) -> list[Any] | None:
    """The arguments of a step's call; None if it is anything else, or has another number of them."""
    if _step(node) != step:
        return None
    given = list(node.inputs())[1:]
    return given if len(given) == count else None


def _read_once(value: Any) -> bool:
    return len(list(value.uses())) == 1


def _flags(machine: str) -> list[str]:
    """What a compiler is told; GCC refuses another processor's options.

    Args:
        machine: As `platform.machine` names it.
    """
    wide = ["-mprefer-vector-width=512"] if machine in ("x86_64", "AMD64") else []
    return ["-O3", "-march=native", *wide, "-fopenmp"]


def _library() -> Path:
    """Where the kernels of this version are, for this torch and this processor."""
    told = [
        *(source.read_bytes() for source in SOURCES),
        torch.__version__.encode(),
        " ".join(_flags(platform.machine())).encode(),
        _processor(),
    ]
    return cache_folder() / "kernels" / hashlib.sha256(b"\0".join(told)).hexdigest()[:16] / f"{_NAME}.so"


def _make_private(library: Path) -> None:
    cache_folder().mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder in (library.parents[1], library.parent):
        folder.mkdir(mode=0o700, exist_ok=True)


def _exposed(path: Path) -> str:
    """Who else could have written a file or a folder, or put it where it is, up to the cache's folder; or nothing."""
    root = cache_folder()
    for place in (path, *path.parents):
        found = place.stat()
        if found.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user (id {found.st_uid}), neither to this one nor to root"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"others can write {place}; chmod go-w {place} if nobody did"
        if place == root:
            break
    return ""


def _processor() -> bytes:
    # A home may be shared by machines, and what is compiled for one may be illegal on another.
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), platform.machine().encode())
