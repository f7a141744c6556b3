"""One file of torch.save to plain data: tensors, numbers, texts, and nothing else.

Owns: which names a file may mention. Nothing that a file names is imported or run: torch's weights-only reader takes
tensors, and a class of the allow-list becomes a Plain. Knows nothing of Megatron's names of weights.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from neuronbert.errors import CheckpointCorruptError, NeuronBertError, UnsafePickleError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    _Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]

_LEGACY_START: Final = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""The pickled number with which torch.save began until torch 1.6."""
_LEGACY_PICKLES: Final = 5
"""Number, version, sizes, the object, the names of its storages; their bytes follow."""
_MAX_PROTOCOL: Final = 3
"""torch.save writes 2 unless told otherwise; of 4 and later, torch's weights-only reader knows too little."""
_MAX_PICKLE: Final = 256 << 20
"""Bytes of a pickle beside its weights; a checkpoint's is far below one million."""
_PLAIN: Final = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|signal\.Signals|datetime\.timedelta|pathlib\.(Pure)?(Posix)?Path"
    r"|numpy\.(ndarray|dtype)|numpy\._?core\.multiarray\.(_reconstruct|scalar)|_io\.BytesIO"
    r"|(megatron|apex|fp16|transformer_engine)(\.\w+)+"
)
"""What training leaves beside the weights: its arguments, enumerations, states of generators and loss scalers."""


class Plain:
    """What stands for an instance of a class of the allow-list: its attributes, without its class."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(name): value for name, value in state.items()})


def load(path: Path) -> dict[str, Any]:
    """What a file of torch.save holds; its weights are mapped into memory where the format allows it.

    Raises:
        UnsafePickleError: it names what is not on the allow-list.
        CheckpointCorruptError: it is not such a file, is damaged, or holds no dictionary.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        with _safely(path):
            names = _globals_of(path, mapped)
            plain: list[_Allowed] = [(Plain, name) for name in names if _PLAIN.fullmatch(name)]
            with torch.serialization.safe_globals(plain), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a pickle that it may not know; what it doesn't, it refuses
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise CheckpointCorruptError(path, f"it can't be read ({error.strerror or error})") from error
    if not isinstance(content, dict):
        raise CheckpointCorruptError(path, f"it holds a {type(content).__name__}, not the dictionary of a checkpoint")
    return content


@contextmanager
def _safely(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, NeuronBertError):
        raise
    except Exception as error:  # a length or an instruction may be anything, for pickletools as for torch
        named = re.search(r"GLOBAL ([^\s`]+)", str(error))
        if named:
            raise UnsafePickleError(path, named[1]) from error
        # Around what is wrong torch says how to allow it, as Python does behind a semicolon.
        reason = first_line(error.__context__ or error).partition(";")[0]
        raise CheckpointCorruptError(path, f"its pickle can't be read as plain data ({reason})") from error


def _globals_of(path: Path, is_zip: bool) -> set[str]:
    """The names that the pickles of a file mention; none of them is looked up."""
    if is_zip:
        return _globals_of_zip(path)
    with path.open("rb") as file:
        if file.read(len(_LEGACY_START)) != _LEGACY_START:
            raise CheckpointCorruptError(path, "it is neither a zip nor a file of torch.save")
        file.seek(0)
        return set().union(*(_names(path, file) for _ in range(_LEGACY_PICKLES)))


def _globals_of_zip(path: Path) -> set[str]:
    names: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # torch.save never compresses: what is compressed may grow, and would be mapped as it is.
            if info.compress_type != zipfile.ZIP_STORED:
                raise CheckpointCorruptError(path, f"its member {info.filename!r} is compressed")
            if info.filename.endswith("/data.pkl"):
                if info.file_size > _MAX_PICKLE:
                    raise CheckpointCorruptError(path, f"its pickle has {info.file_size} bytes beside the weights")
                with archive.open(info) as file:
                    names |= _names(path, file)
    return names


def _names(path: Path, file: Any) -> set[str]:
    found = set()
    for opcode, value, _ in pickletools.genops(file):
        if opcode.name == "PROTO" and value is not None and value > _MAX_PROTOCOL:
            raise CheckpointCorruptError(path, f"its pickle has protocol {value}, torch.save's own is 2")
        if opcode.name == "GLOBAL":
            found.add(str(value).replace(" ", ".", 1))
    return found
