"""How much memory there is, and how much a cell will take.

Owns: the estimate and how what was measured corrects it. Knows nothing of processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.matrix.schema import Cell

MIB: Final = 1 << 20
PROCESS: Final = 384 * MIB
"""A process that has imported torch and transformers (measured: 350 MiB)."""
_COMPILER: Final = 8 << 30
"""What a Neuron compiler is taken to need besides, until a cell has shown it: nobody documents it."""
_WEIGHTS: Final = 4
"""Copies of the weights: those of the checkpoint, the program's and the reference's, folded (measured: 3)."""
_ACTIVATIONS: Final = 12
"""Copies of the widest activations, most of them the doubles in which outputs are compared (measured: 8 to 11)."""
_FLOAT: Final = 4
_CGROUP: Final = Path("/sys/fs/cgroup")
_BERT: Final = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
"""What a config that leaves a size out means by it."""
_VOCABULARY: Final = ("fill-mask", "pre-training", "text-generation", "auto")


def held() -> int:
    """The most bytes that this process has held at once."""
    return _read_kib("/proc/self/status", "VmHWM")


def available() -> int:
    """The bytes that new processes can take on this machine, or in this container."""
    free = _read_kib("/proc/meminfo", "MemAvailable")
    try:
        limit, used = ((_CGROUP / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no cgroup, or "max": no limit of its own
        return free


def _read_kib(file: str, name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path(file).read_text(encoding="utf-8").splitlines())
    return int(lines[name].split()[0]) * 1024


def weights_of(config: Mapping[str, Any]) -> int:
    """The bytes of the fp32 weights of a BERT of this config, but for its head."""
    size = _sizes(config)
    hidden, inner = size["hidden_size"], size["intermediate_size"]
    layers = size["num_hidden_layers"] * (4 * hidden * hidden + 2 * hidden * inner)
    return _FLOAT * (layers + (size["vocab_size"] + size["max_position_embeddings"]) * hidden)


def estimate(cell: Cell, config: Mapping[str, Any], weights: int) -> int:
    """The bytes that a cell's process will hold at most, before any was measured.

    Args:
        cell: The cell.
        config: Of its model: the sizes of its activations.
        weights: The bytes of its weights.
    """
    size = _sizes(config)
    row = size["vocab_size"] if cell.task in _VOCABULARY else size["hidden_size"]
    shapes = cell.shapes("multiple-choice" if cell.num_choices else cell.task)
    width = row + size["intermediate_size"]
    heads = size["num_attention_heads"]
    activations = max(shape.tokens * (width + heads * shape.sequence_length) for shape in shapes)
    # Every program of an artifact folds its own copy of the weights once it is called.
    held = (_WEIGHTS + len(shapes) - 1) * weights + _ACTIVATIONS * _FLOAT * activations
    return PROCESS + held + (0 if cell.target == "cpu" else _COMPILER)


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    given = {name: config.get(name) for name in _BERT}
    return {name: value if type(value) is int and value > 0 else _BERT[name] for name, value in given.items()}


class Ledger:
    """Estimates, corrected by what finished cells of the same model and target have taken."""

    def __init__(self) -> None:
        self._ratios: dict[tuple[str, str], float] = {}

    def learn(self, cell: Cell, estimated: int, measured: int) -> None:
        """Take note of a finished cell; the largest of its kind decides."""
        kind = (cell.model, cell.target)
        self._ratios[kind] = max(measured / estimated, self._ratios.get(kind, 0.0))

    def need(self, cell: Cell, estimated: int) -> int:
        """What to expect of a cell now."""
        return round(estimated * self._ratios.get((cell.model, cell.target), 1.0))
