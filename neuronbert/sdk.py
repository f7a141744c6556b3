"""What of the AWS Neuron SDK is on this machine, and what it allows: packages, devices, targets.

Two libraries share the import name torch_neuronx: the one on PyTorch/XLA that has `trace` (up to 2.9), and TorchNeuron
(from 2.10 on), which compiles with `torch.compile`. PyPI has placeholders under the names of both and of the compiler.

Owns: finding the distributions and the devices, and the rules of what can compile for, or run on, which target. Knows
nothing of any backend: no vendor's package is imported, they are only looked at.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from packaging.version import Version

from neuronbert.reference import PLATFORM
from neuronbert.releases import parse_version
from neuronbert.targets import TARGETS

if TYPE_CHECKING:
    from neuronbert.targets import Kind

ADDRESS: Final = "https://pip.repos.neuron.amazonaws.com"
"""Where the real packages are."""

NATIVE_TORCH: Final = Version("2.13")
"""The oldest torch that TorchNeuron is released for."""
TRACE_TORCH: Final = Version("2.9")
"""The torch of the last library on PyTorch/XLA."""

_NATIVE_FROM: Final = Version("2.10")
_STUBS_BELOW: Final = {"torch-neuronx": Version("1.11"), "neuronx-cc": Version("2")}
_STUB_SIZE: Final = 4096
_INSTANCE: Final = re.compile("|".join(sorted(TARGETS, reverse=True)))  # trn1n before trn1
_DEVICE: Final = re.compile(r"neuron(\d{1,4})")


@dataclass(frozen=True, slots=True)
class Library:
    """What is installed under the import name torch_neuronx.

    Attributes:
        kind: "trace", "native" (TorchNeuron), or "stub": a placeholder that raises on import.
        version: As the distribution gives it.
    """

    kind: Literal["trace", "native", "stub"]
    version: str


@dataclass(frozen=True, slots=True)
class Compiler:
    """The distribution neuronx-cc.

    Attributes:
        version: As the distribution gives it.
        stub: It is a placeholder that compiles nothing.
        path: The executable; None if there is none.
    """

    version: str
    stub: bool
    path: Path | None


@dataclass(frozen=True, slots=True)
class Device:
    """The Neuron devices of this machine.

    Attributes:
        target: inf2, trn1, trn1n, trn2 or trn3; None if it can't be told.
        devices: How many; at least one.
    """

    target: str | None
    devices: int


@dataclass(frozen=True, slots=True)
class Host:
    """What the rules ask about a machine.

    Attributes:
        library: What is installed as torch-neuronx.
        compiler: The compiler that is installed.
        device: Its Neuron devices.
        torch: The version of torch; None if it isn't installed.
        platform: What the environment tells torch_neuronx.trace to compile for; None if nothing.
    """

    library: Library | None
    compiler: Compiler | None
    device: Device | None
    torch: str | None
    platform: str | None = None


def find_library() -> Library | None:
    """What is installed as torch-neuronx; nothing of it is run. None if nothing is."""
    found = _find("torch-neuronx")
    if found is None:
        return None
    if _is_stub(found, "torch-neuronx"):
        return Library("stub", found.version)
    return Library("trace" if parse_version(found.version) < _NATIVE_FROM else "native", found.version)


def find_compiler() -> Compiler | None:
    """What is installed as neuronx-cc; nothing of it is run. None if nothing is."""
    found = _find("neuronx-cc")
    if found is None:
        return None
    if _is_stub(found, "neuronx-cc"):
        return Compiler(found.version, stub=True, path=None)
    # Beside the interpreter too: an environment can be used without being activated.
    path = shutil.which("neuronx-cc") or shutil.which("neuronx-cc", path=str(Path(sys.executable).parent))
    return Compiler(found.version, stub=False, path=None if path is None else Path(path))


def find_instance(root: Path = Path("/")) -> str | None:
    """The type of this machine as its firmware gives it, as "inf2.xlarge" on EC2; None if it gives none."""
    return _read(root / "sys/devices/virtual/dmi/id/product_name")


def find_device(root: Path = Path("/")) -> Device | None:
    """The Neuron devices of this machine; None if there is none.

    Their number is that of the files /dev/neuron<n> (neuron-runtime/api/ndl). Their kind is read off the instance's
    type, or, where the firmware doesn't give it, off the driver's sysfs
    (tools/neuron-sys-tools/neuron-sysfs-user-guide).

    Args:
        root: Where /dev and /sys are.
    """
    numbers = find_numbers(root)
    if not numbers or (find_instance(root) or "").startswith("inf1."):  # no library here serves Inferentia1
        return None
    told = root / f"sys/devices/virtual/neuron_device/neuron{numbers[0]}/info/architecture/instance_type"
    return Device(target_of(find_instance(root)) or target_of(_read(told)), len(numbers))


def find_numbers(root: Path = Path("/")) -> tuple[int, ...]:
    """The numbers of the Neuron devices that this process sees, in order."""
    found = (_DEVICE.fullmatch(path.name) for path in (root / "dev").glob("neuron*"))
    return tuple(sorted(int(match[1]) for match in found if match))


def find_driver(root: Path = Path("/")) -> str | None:
    """The version of the driver that is loaded; None if none is, or it doesn't say.

    Not asked of modinfo: that reads the file on disk, which may be newer (neuron-runtime/nrt-troubleshoot).
    """
    return _read(root / "sys/module/neuron/version")


def find_host(root: Path = Path("/")) -> Host:
    """Everything that the rules ask about this machine."""
    # Once the library is imported it has read the variable: its backend says what to do then.
    platform = None if "torch_neuronx" in sys.modules else os.environ.get(PLATFORM, "").strip() or None
    return Host(find_library(), find_compiler(), find_device(root), find_torch(), platform)


def find_torch() -> str | None:
    """The version of torch that is installed; it is not imported. None if it isn't."""
    found = _find("torch")
    return None if found is None else found.version


def target_of(instance: str | None) -> str | None:
    """The target that an instance type stands for: trn2 for "trn2u.48xlarge"; None for one without Neuron devices."""
    found = _INSTANCE.match((instance or "").lower())
    return found[0] if found else None


def choose_kind(target: str, library: Library | None, torch: str | None) -> Kind:
    """Which library a Neuron target is served by: the one that is installed, or else the one that can be exported for.

    To export for TorchNeuron takes only its torch; where that isn't there either, the first is asked for.
    """
    kinds = TARGETS[target].kinds
    possible: Kind = "trace" if _why_not_torch(torch) else "native"
    wanted = library.kind if library and library.kind in kinds else possible
    return next((kind for kind in kinds if kind == wanted), kinds[0])


def install(kind: Kind, torch: str | None = None) -> str:
    """What to type for a library and its compiler (setup/pytorch/manual, setup/pytorch/update-manual).

    Args:
        kind: The library.
        torch: The version of torch that is here. TorchNeuron is to match it: its own must have the same first two
            numbers (release-notes/components/torchneuron). The library before it needs another, unless it is 2.9.
    """
    if kind == "trace":
        other = torch is not None and parse_version(torch).release[:2] != TRACE_TORCH.release
        needed = f'"torch=={TRACE_TORCH}.*" ' if other else ""
        return f'pip install {needed}"torch-neuronx=={TRACE_TORCH}.*" "neuronx-cc==2.*" --extra-index-url {ADDRESS}'
    found = NATIVE_TORCH if torch is None else max(parse_version(torch), NATIVE_TORCH)
    line = f"{found.major}.{found.minor}"
    return f'pip install "torch-neuronx=={line}.*" "neuronx-cc==2.*" nki --extra-index-url {ADDRESS}'


def why_not_compile(target: str, kind: Kind, host: Host) -> str:
    """Why a library can't compile for a Neuron target on a host, in one line that ends with what to type; "" if it can.

    With `trace` that takes the library and the compiler, and no device. TorchNeuron compiles where it is loaded, so
    that exporting for it takes only a torch of its generation.
    """
    if kind not in TARGETS[target].kinds:
        return _wrong_kind(target, kind)
    if kind == "native":
        return _why_not_torch(host.torch)
    return _why_not_library(kind, host) or _why_not_compiler(kind, host) or why_not_platform(target, host.platform)


def why_not_platform(target: str, platform: str | None) -> str:
    """Why torch_neuronx.trace, told by the environment what to compile for, would not compile for a target."""
    if platform in (None, target):
        return ""
    return f"torch_neuronx is set to {platform} by {PLATFORM}; unset it, or set {PLATFORM}={target}"


def why_not_run(target: str, kind: Kind, host: Host) -> str:
    """Why a program for a Neuron target can't run on a host, in one line that ends with what to type; "" if it can."""
    if kind not in TARGETS[target].kinds:
        return _wrong_kind(target, kind)
    if host.device is None:
        return f"this machine has no Inferentia2 or Trainium device; use an instance of type {target}"
    found = host.device.target
    if found is not None and TARGETS[found].chip != TARGETS[target].chip:
        return f"the Neuron device of this machine is of type {found}; export with --target {found}"
    native = _why_not_compiler(kind, host) if kind == "native" else ""
    return _why_not_library(kind, host) or native


def _wrong_kind(target: str, kind: Kind) -> str:
    served = ", ".join(name for name, facts in TARGETS.items() if kind in facts.kinds)
    if kind == "trace":
        return f"torch_neuronx.trace serves {served}, not {target}; use TorchNeuron: {install('native')}"
    return f"TorchNeuron serves {served}, not {target}; use torch-neuronx 2.9: {install('trace')}"


def _why_not_torch(torch: str | None) -> str:
    if torch is None or parse_version(torch) < NATIVE_TORCH:
        said = "torch is not installed" if torch is None else f"torch is {torch}"
        return f'{said}, TorchNeuron needs {NATIVE_TORCH} or later: pip install "torch>={NATIVE_TORCH}"'
    return ""


def _why_not_library(kind: Kind, host: Host) -> str:
    library, command = host.library, install(kind, host.torch)
    if library is None:
        return f"torch-neuronx is not installed: {command}"
    if library.kind == "stub":
        return f"torch-neuronx {library.version} is PyPI's placeholder, the real one is elsewhere: {command}"
    if library.kind != kind:
        wanted = "the XLA library, 2.9" if kind == "trace" else f"TorchNeuron, {NATIVE_TORCH} or later"
        return f"torch-neuronx is {library.version}, this needs {wanted}: {command}"
    return ""


def _why_not_compiler(kind: Kind, host: Host) -> str:
    compiler, command = host.compiler, install(kind, host.torch)
    if compiler is None:
        return f"the compiler neuronx-cc is not installed: {command}"
    if compiler.stub:
        return f"neuronx-cc {compiler.version} is PyPI's placeholder, the real one is elsewhere: {command}"
    if compiler.path is None:
        return f"neuronx-cc {compiler.version} has no executable on the PATH: {command} --force-reinstall"
    return ""


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _is_stub(found: Distribution, name: str) -> bool:
    """Whether a distribution is a placeholder: all of its code is one module that begins by raising.

    PyPI's are version 1.0 and 1.0.post1, older than any real one, which is asked too for one whose files aren't listed.
    """
    code = [Path(str(found.locate_file(file))) for file in found.files or () if file.suffix in (".py", ".so")]
    return parse_version(found.version) < _STUBS_BELOW[name] or (len(code) == 1 and _raises(code[0]))


def _raises(module: Path) -> bool:
    try:
        if module.suffix != ".py" or module.stat().st_size > _STUB_SIZE:
            return False
        body = ast.parse(module.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return False
    code = [line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
    return bool(code) and isinstance(code[0], ast.Raise)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None
