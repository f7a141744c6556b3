"""Make the environment that lowers programs to HLO: torch 2.9 and torch_xla 2.9 (`make check-hlo`).

The torch on PyPI is the one for CUDA, whose libraries are 3 GB more to download and never called on a CPU. Where
there is a C compiler, empty libraries of their names take their place, and Python binds symbols when they are first
called; only the CUDA runtime, 4 MB, has to be the real one, for torch registers its kernels with it when it is loaded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

TORCH: Final = ("torch==2.9.0", "torch-xla==2.9.0")
RUNTIME: Final = "nvidia-cuda-runtime-cu12==12.8.90"
OTHERS: Final = (
    *("absl-py", "filelock", "fsspec", "jinja2", "networkx", "numpy"),
    *("pyyaml", "requests", "setuptools", "sympy", "typing-extensions"),
)
"""What the two import beside CUDA."""
GIB: Final = 1 << 30
SLIM: Final = "1 GB to download, 2.3 GB on the disk"
FULL: Final = "4 GB to download, 8 GB on the disk: without a C compiler (cc) it takes all of CUDA's libraries"
LAZY: Final = "import sys; sys.setdlopenflags(1)  # RTLD_LAZY: what is never called need not be there\n"


def main(folder: Path) -> int:
    """Make the environment in a folder, unless the disk is too small."""
    compiler = shutil.which("cc")
    need = (4 if compiler else 14) * GIB
    free = shutil.disk_usage(folder.parent).free
    print(f"{folder}: {SLIM if compiler else FULL}", flush=True)
    if free < need:
        print(f"{free / GIB:.1f} GiB are free, and it takes {need / GIB:.0f} while it is made", file=sys.stderr)
        return 1
    venv.create(folder, clear=True, with_pip=True)
    if compiler:
        _install(folder, *OTHERS)
        _install(folder, "--no-deps", *TORCH, RUNTIME)
        _stand_in(folder, compiler)
    else:
        _install(folder, *TORCH)
    check = "import os; os.environ['PJRT_DEVICE'] = 'CPU'; import torch_xla"
    return subprocess.run([_python(folder), "-c", check], check=False).returncode


def _python(folder: Path) -> str:
    return str(folder / "bin" / "python")


def _install(folder: Path, *packages: str) -> None:
    subprocess.run([_python(folder), "-m", "pip", "install", "--quiet", "--no-cache-dir", *packages], check=True)


def _stand_in(folder: Path, compiler: str) -> None:
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "lazy_binding.pth").write_text(LAZY)
    libraries = site / "torch" / "lib"
    linked = subprocess.run(["ldd", libraries / "libtorch_python.so"], check=True, capture_output=True, text=True)
    missing = {line.split()[0] for line in linked.stdout.splitlines() if line.endswith("=> not found")}
    with tempfile.NamedTemporaryFile(suffix=".c") as empty:
        for name in sorted(missing):
            command = [compiler, "-shared", "-o", str(libraries / name), f"-Wl,-soname,{name}", empty.name]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
