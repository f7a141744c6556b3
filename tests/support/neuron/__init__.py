"""Doubles of the vendor's libraries, installed as pip would: a package and its metadata on sys.path.

Owns: laying them out. What they do is in the packages beside this file.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.distributions import lay_out

HERE = Path(__file__).parent
TRACE = "2.9.0.2.15.32035"
NATIVE = "2.13.3.0"
COMPILER = "2.26.6360.0"


def install(site: Path, version: str, source: str) -> None:
    """A torch-neuronx of a version in a folder of the import path, with the code of `source`."""
    code = (HERE / source / "__init__.py").read_text()
    code = code.replace(f'__version__ = "{TRACE}"', f'__version__ = "{version}"')
    lay_out(site, "torch-neuronx", version, {"torch_neuronx/__init__.py": code})
