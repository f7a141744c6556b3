"""Measure speed, size and memory against their limits, and print a table (`make bench`).

Every ratio is taken in one run: what is compared runs in turn, for several rounds, and the table shows the median of
the rounds with the least and the most. The exit code is 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NEURONBERT_CACHE_LIMIT"] = "0"  # what is measured is compiled; the cache's own figure has one of its own

import torch
from bench_figures import FIGURES
from bench_tools import ROOT, Models
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_tools import Row

PEERS: Final = ROOT / ".venv-peers/bin/python"
INFINITY: Final = ROOT / ".venv-infinity/bin/infinity_emb"
HEADINGS: Final = ("figure", "measured (median [min .. max])", "limit", "ok")


def main() -> int:
    """Measure what was asked for, print it, and say whether every limit was kept."""
    options = _options()
    warnings.simplefilter("ignore")  # TorchScript is deprecated, and tracing warns of every branch
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    machine = _machine()
    if not options.json:
        print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="neuronbert-bench-") as folder:
        models = Models(Path(folder), options.peers, options.infinity, options.threads, options.seconds)
        for name in options.only or FIGURES:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            rows += FIGURES[name](models, options.rounds)
    if options.json:
        print(json.dumps({"machine": machine, "rows": [row.as_json() for row in rows]}, indent=2))
    else:
        print(_table([HEADINGS, *(row.cells() for row in rows)]))
        print("load average at the end:", _load_average())
    return 0 if all(row.ok for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=tuple(FIGURES), help="measure this; may be given again")
    parser.add_argument("--rounds", type=_count, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a round of one candidate is (default: 4)")
    parser.add_argument("--threads", type=_count, default=2, help="threads for everyone (default: 2)")
    parser.add_argument("--peers", type=Path, default=PEERS, help="the Python that has the peers (make bench makes it)")
    parser.add_argument("--infinity", type=Path, default=INFINITY, help="the server infinity (make bench installs it)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse_args()
    if {"cpu", "int8", "texts"} & {*(options.only or FIGURES)} and not options.peers.is_file():
        parser.error(f"{options.peers} isn't there: make bench makes it, --peers names another")
    if "servers" in (options.only or FIGURES) and not options.infinity.is_file():
        parser.error(f"{options.infinity} isn't there: make bench installs it, --infinity names another")
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 or more")  # noqa: TRY003  argparse adds the name of the option
    return number


def _machine() -> dict[str, Any]:
    return {
        "load average": _load_average(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "torch": torch.__version__,
    }


def _load_average() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-|-".join("-" * width for width in widths), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
