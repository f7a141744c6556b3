"""Doubles of the vendor's libraries, installed as pip would: a package and its metadata on sys.path.

Owns: laying them out. What they do is in the packages beside this file.
"""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).parent
TRACE = "2.9.0.2.15.32035"
NATIVE = "2.13.3.0"
COMPILER = "2.26.6360.0"


def install(site: Path, package: str, version: str, source: str) -> None:
    """A distribution in a folder: `package` imported as torch_neuronx, with the code of `source`."""
    shutil.copytree(HERE / source, site / "torch_neuronx")
    code = site / "torch_neuronx" / "__init__.py"
    text = code.read_text().replace(f'__version__ = "{TRACE}"', f'__version__ = "{version}"')
    code.write_text(text)
    _metadata(site, package, version, ["torch_neuronx/__init__.py"])


def install_compiler(site: Path, version: str = COMPILER) -> Path:
    """The distribution neuronx-cc and its executable; returns the folder to put on the PATH."""
    binaries = site / "bin"
    binaries.mkdir()
    executable = binaries / "neuronx-cc"
    executable.write_text("#!/bin/sh\nexit 1\n")
    executable.chmod(0o755)
    (site / "neuronxcc").mkdir()
    (site / "neuronxcc" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (site / "neuronxcc" / "driver.py").write_text("")
    _metadata(site, "neuronx-cc", version, ["neuronxcc/__init__.py", "neuronxcc/driver.py"])
    return binaries


def _metadata(site: Path, name: str, version: str, files: list[str]) -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
