"""Installed packages, as pip leaves them: a folder of the import path with the files and their .dist-info."""

from __future__ import annotations

from pathlib import Path

REFUSES = 'raise ImportError("This is not the package that you are looking for.")\n'
"""What PyPI's placeholders hold, in other words: nothing but a statement that raises."""


def lay_out(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Put a distribution into a folder of the import path.

    Args:
        site: The folder.
        name: As in "torch-neuronx".
        version: Its version.
        files: Path below the folder to content.
    """
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
    listed = [*files, *(f"{info.name}/{file}" for file in ("METADATA", "RECORD"))]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in listed))


def lay_out_library(site: Path, version: str) -> None:
    """A torch-neuronx of a version; importing it fails the test."""
    files = ("torch_neuronx/__init__.py", "torch_neuronx/other.py")
    lay_out(site, "torch-neuronx", version, dict.fromkeys(files, "raise AssertionError('it was imported')\n"))


def lay_out_compiler(site: Path, version: str, *, executable: bool = True) -> Path:
    """A neuronx-cc of a version; the folder that its executable is in."""
    lay_out(site, "neuronx-cc", version, {"neuronxcc/__init__.py": "", "neuronxcc/driver.py": ""})
    folder = site / "bin"
    folder.mkdir()
    if executable:
        (folder / "neuronx-cc").write_text("#!/bin/sh\nexit 1\n")
        (folder / "neuronx-cc").chmod(0o755)
    return folder


def lay_out_stubs(site: Path) -> None:
    """Both placeholders as PyPI has them: versions 1.0 and 1.0.post1, one module each, the second not importable."""
    lay_out(site, "torch-neuronx", "1.0", {"torch_neuronx/__init__.py": REFUSES})
    lay_out(site, "neuronx-cc", "1.0.post1", {"neuronx-cc/__init__.py": REFUSES})


def lay_out_machine(root: Path, instance: str = "inf2.xlarge", devices: int = 1, driver: str = "2.31.7.0") -> Path:
    """The /dev and /sys of an instance; the driver isn't loaded where it is empty."""
    for path, content in {
        "sys/devices/virtual/dmi/id/product_name": f"{instance}\n",
        **({"sys/module/neuron/version": f"{driver}\n"} if driver else {}),
        **{f"dev/neuron{number}": "" for number in range(devices)},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root
