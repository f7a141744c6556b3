"""Load that a server must bear: ten times more than it can answer, or half an hour of everything at once.

    python scripts/soak_serving.py overload
    python scripts/soak_serving.py mixed

Prints what was found as JSON; the exit code is 1 if something of it must not be.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import uvloop
from bench_serving import prepared
from bench_tools import Models
from soak_mixed import Mixed
from soak_overload import overload
from soak_server import Server

from neuronbert import Predictor

LENGTHS: Final = 5
SIZES: Final = (1, 8, 32)
SECONDS: Final = {"overload": 60.0, "mixed": 1800.0}
OPTIONS: Final = {"overload": ("--workers", "2"), "mixed": ("--workers", "2", "--timeout", "300")}
"""A call of two threads waits for the one that the clients hold up; and while one worker starts anew the other goes on,
so that nothing has to be refused."""


def main() -> int:
    """Make the load, print what was found, and say whether all of it may be."""
    options = _options()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file, here too
    with tempfile.TemporaryDirectory(prefix="neuronbert-soak-") as folder:
        models = Models(Path(folder), Path(), Path(), 2, 0.0)
        texts, artifact = prepared(models, LENGTHS, SIZES)
        replies = Predictor.from_pretrained(str(artifact)).predict([{"text": text} for text in texts], truncate=True)
        vectors = np.array([reply["embedding"] for reply in replies])
        expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        with Server(artifact, Path(folder) / "log", OPTIONS[options.load]) as server:
            found: dict[str, Any] = (
                uvloop.run(overload(server, texts, expected, options.seconds))
                if options.load == "overload"
                else uvloop.run(Mixed(server, texts, expected, options.seconds).run())
            )
    print(json.dumps(found, indent=2))
    return 0 if found["kept"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("load", choices=tuple(SECONDS), help="which load")
    parser.add_argument("--seconds", type=float, help="for how long (default: 60 and 1800)")
    options = parser.parse_args()
    options.seconds = options.seconds or SECONDS[options.load]
    return options


if __name__ == "__main__":
    sys.exit(main())
