"""What this machine can do for each target, and why not.

Owns: the checks of a machine and their wording. Knows nothing of how they are printed. Sources in comments are paths in
the SDK's documentation. Nothing heavy is imported: versions come from the packages' metadata.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.version import Version

from neuronbert import sdk
from neuronbert.doctor.findings import Finding, check_surroundings
from neuronbert.doctor.machine import find_machine
from neuronbert.errors import InvalidOptionError
from neuronbert.reference import PLATFORM
from neuronbert.releases import LAST_TRACE, RELEASES, parse_version, release_of, releases_of
from neuronbert.targets import TARGETS
from neuronbert.variables import find_conflicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from neuronbert.doctor.findings import Status
    from neuronbert.doctor.machine import Machine
    from neuronbert.targets import Kind

ALL: Final = ("cpu", *TARGETS)

_GLIBC: Final = Version("2.35")
"""What torch-neuronx 2.9 is built for (archive/appnotes/torch-neuronx/introducing-pytorch-2-9)."""


@dataclass(frozen=True, slots=True)
class Ability:
    """What can be done for one target; each reason why not ends with what to type, and is empty where it can.

    Attributes:
        target: Its name.
        library: What serves it: "native" compiles where a program is loaded, not where it is exported; None on the CPU.
        why_not_compile: Of exporting for it.
        why_not_run: Of running on it.
    """

    target: str
    library: Kind | None
    why_not_compile: str
    why_not_run: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a machine can do, and everything that was found on it."""

    abilities: tuple[Ability, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing that is here is broken. That a target isn't served breaks nothing."""
        return all(finding.status != "failed" for finding in self.findings)


def diagnose(
    target: str | None = None, *, root: Path = Path("/"), environ: Mapping[str, str] | None = None
) -> Diagnosis:
    """Look at this machine; takes less than two seconds, whatever the network does.

    Args:
        target: Leave out what doesn't concern this one.
        root: Where /dev, /proc, /sys and /var are.
        environ: The environment; that of this process by default.

    Raises:
        InvalidOptionError: there is no such target.
    """
    if target is not None and target not in ALL:
        raise InvalidOptionError("target", target, "one of " + ", ".join(ALL))
    machine = find_machine(root)
    given = os.environ if environ is None else environ
    findings = [_check_torch(machine)]
    if target != "cpu":
        conflicts = find_conflicts(given, machine.host.device, target)
        findings += [*_check_neuron(machine, target)]
        findings += [Finding(c.variable, "failed" if c.fatal else "warning", c.problem, c.fix) for c in conflicts]
    findings += [*check_surroundings(root)]
    asked = ALL if target is None else (target,)
    host = replace(machine.host, platform=given.get(PLATFORM, "").strip() or None)
    return Diagnosis(tuple(_find_ability(name, host) for name in asked), tuple(findings))


def _find_ability(target: str, host: sdk.Host) -> Ability:
    if target == "cpu":
        reason = "" if host.torch else "torch is not installed: pip install torch"
        return Ability(target, None, reason, reason)
    kind = sdk.choose_kind(target, host.library, host.torch)
    return Ability(target, kind, sdk.why_not_compile(target, kind, host), sdk.why_not_run(target, kind, host))


def _check_torch(machine: Machine) -> Finding:
    # release-notes/components/torchneuron: the package's family must match PyTorch's. The same holds for 2.9
    # (archive/appnotes/torch-neuronx/introducing-pytorch-2-9).
    torch, library = machine.host.torch, machine.host.library
    if torch is None:
        return Finding("torch", "failed", "not installed", "pip install torch")
    if library is None or library.kind == "stub":
        return Finding("torch", "ok", torch)
    line = ".".join(library.version.split(".")[:2])
    if _minor(torch) == _minor(library.version):
        return Finding("torch", "ok", f"{torch}, as torch-neuronx {library.version} needs it")
    text = f"{torch}, but torch-neuronx {library.version} needs {line}"
    return Finding("torch", "failed", text, f'pip install "torch=={line}.*"')


def _check_neuron(machine: Machine, target: str | None) -> Iterator[Finding]:
    yield from _check_system(machine, target)
    yield from _check_packages(machine)
    yield from _check_devices(machine)
    yield from _check_driver(machine)


def _check_system(machine: Machine, target: str | None) -> Iterator[Finding]:
    """Whether the library that is installed fits the system; or the one that would be installed for a target."""
    library = machine.host.library
    bad: Status = "failed"
    if library is None or library.kind == "stub":
        if target is None:
            yield Finding("python", "ok", machine.python)
            return
        native = sdk.choose_kind(target, library, machine.host.torch) == "native"
        library = sdk.Library("native", RELEASES[-1].libraries[-1]) if native else sdk.Library("trace", LAST_TRACE)
        bad = "warning"
    for name, text, fix in _find_limits(machine, library):
        yield Finding(name, bad if fix else "ok", text, fix)


def _find_limits(machine: Machine, library: sdk.Library) -> Iterator[tuple[str, str, str]]:
    """Name, text and fix of what a library asks of the system; an empty fix where it has it."""
    what = f"torch-neuronx {library.version}"
    if machine.system != "Linux x86_64":  # release-notes/components/torchneuron
        yield "system", f"{machine.system}, but {what} is for Linux x86_64", "use an EC2 instance"
    listed = releases_of(library.version)
    if listed:
        low, high = listed[0].python
        known = Version(low) <= _minor(machine.python) <= Version(high)
        fix = f"python{high} -m venv neuron && neuron/bin/{sdk.install(_kind(library))}"
        yield "python", f"{machine.python}; {what} is built for {low} to {high}", "" if known else fix
    if library.kind == "trace" and machine.glibc and parse_version(library.version) >= Version("2.9"):
        known = parse_version(machine.glibc) >= _GLIBC
        yield "glibc", f"{machine.glibc}; {what} needs {_GLIBC} or later", "" if known else "use Ubuntu 24.04"


def _check_packages(machine: Machine) -> Iterator[Finding]:
    library, compiler = machine.host.library, machine.host.compiler
    fix = sdk.install(_kind(library), machine.host.torch)
    elsewhere = f"PyPI's placeholder, which raises on import; the real one is at {sdk.ADDRESS}"
    if library is None:
        yield Finding("torch-neuronx", "ok", "not installed")
    elif library.kind == "stub":
        yield Finding("torch-neuronx", "failed", f"{library.version} is {elsewhere}", fix)
    else:
        name = "the library on PyTorch/XLA" if library.kind == "trace" else "TorchNeuron"
        yield Finding("torch-neuronx", "ok", f"{library.version}, {name}")
    if compiler is None:
        yield Finding("neuronx-cc", "ok", "not installed")
    elif compiler.stub:
        yield Finding("neuronx-cc", "failed", f"{compiler.version} is {elsewhere}", fix)
    elif compiler.path is None:
        yield Finding("neuronx-cc", "failed", f"{compiler.version} has no executable", f"{fix} --force-reinstall")
    else:
        yield from _check_compiler(compiler.version, compiler.path, library)


def _check_compiler(version: str, path: Path, library: sdk.Library | None) -> Iterator[Finding]:
    release = release_of(version)
    of = f"of SDK {release.sdk}" if release else f"in no release of the table ({RELEASES[0].sdk} to {RELEASES[-1].sdk})"
    if shutil.which("neuronx-cc") is None:
        # compiler/neuronx-cc/how-to-generate-neff: "command not found" is an environment that isn't activated.
        text = f"{version}, {of}; its executable is not on the PATH"
        yield Finding("neuronx-cc", "warning", text, f"export PATH={path.parent}:$PATH")
    else:
        yield Finding("neuronx-cc", "ok", f"{version}, {of}")
    listed = releases_of(library.version) if library and library.kind != "stub" else ()
    if library and release and listed and release not in listed:
        wanted = listed[-1]
        text = f"neuronx-cc is of SDK {release.sdk}, torch-neuronx {library.version} is not in it"
        yield Finding(
            "pair", "warning", text, f"pip install neuronx-cc=={wanted.compiler} --extra-index-url {sdk.ADDRESS}"
        )


def _check_devices(machine: Machine) -> Iterator[Finding]:
    numbers, here = machine.numbers, sdk.target_of(machine.instance)
    if not numbers and here:
        # setup/pytorch/dlc: devices are passed to a container one by one.
        text = f"this is an instance of type {machine.instance}, but it has no /dev/neuron0"
        fix = "sudo modprobe neuron; or, in a container, docker run --device=/dev/neuron0"
        yield Finding("devices", "failed", text, fix)
        return
    if not numbers:
        yield Finding("devices", "ok", "none")
        return
    listed = ", ".join(map(str, numbers))
    if numbers != tuple(range(numbers[0], numbers[0] + len(numbers))):  # deploy/troubleshooting
        fix = " ".join(f"--device=/dev/neuron{number}" for number in range(numbers[0], numbers[0] + len(numbers)))
        text = f"{listed}; the runtime takes only devices whose numbers follow one another"
        yield Finding("devices", "failed", text, f"docker run {fix}")
    elif machine.locked:  # setup/troubleshooting
        text = f"{listed}, of which this user can't open {', '.join(map(str, machine.locked))}"
        yield Finding("devices", "failed", text, "sudo chmod a+rw /dev/neuron*")
    else:
        kind = f", {machine.instance}" if here else ""
        yield Finding("devices", "ok", f"{listed}{kind}")


def _check_driver(machine: Machine) -> Iterator[Finding]:
    driver, installed = machine.driver, machine.packages.get("aws-neuronx-dkms")
    runtime = machine.packages.get("aws-neuronx-runtime-lib")
    if machine.numbers and driver is None:
        yield Finding(
            "driver", "warning", "its version can't be told from /sys/module/neuron/version", "modinfo neuron"
        )
    elif driver and installed and parse_version(driver) != parse_version(installed):
        # neuron-runtime/nrt-troubleshoot: an update that could not reload it.
        text = f"{driver} is loaded, {installed} is installed"
        yield Finding("driver", "warning", text, "sudo rmmod neuron && sudo modprobe neuron")
    elif driver:
        yield Finding("driver", "ok", driver)
    if runtime is None:
        return
    fix = "sudo apt-get install -y aws-neuronx-dkms aws-neuronx-runtime-lib"
    problem = _why_not_together(parse_version(driver), parse_version(runtime)) if driver else ""
    text = f"{runtime} with driver {driver}: {problem}" if problem else runtime
    yield Finding("runtime", "failed", text, fix) if problem else Finding("runtime", "ok", text)


def _why_not_together(driver: Version, runtime: Version) -> str:
    # release-notes/components/runtime, of 2.30.0 and of 2.31.0
    if runtime >= Version("2.32") and driver < Version("2.27"):
        return "a runtime from 2.32 on needs a driver from 2.27 on"
    if driver >= Version("2.29") and runtime < Version("2.33"):
        return "a driver from 2.29 on needs a runtime from 2.33 on"
    return ""


def _kind(library: sdk.Library | None) -> Kind:
    return "native" if library is not None and library.kind == "native" else "trace"


def _minor(version: str) -> Version:
    return Version(".".join(map(str, parse_version(version).release[:2])))
