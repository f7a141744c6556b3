"""Something is missing on this machine, or doesn't work there.

Owns: the errors of files, hubs, devices, workers and packages.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neuronbert.errors.base import UnavailableError
from neuronbert.errors.wording import listed

if TYPE_CHECKING:
    from collections.abc import Sequence


class MissingFileError(UnavailableError):
    """A file that was named isn't there."""

    def __init__(self, path: object) -> None:
        super().__init__(f"There is no file {path}. See what there is with: ls {Path(str(path)).parent}.")


class ModelNotFoundError(UnavailableError):
    """Neither a local folder nor a repository."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"{model!r} is neither a local folder nor a model that can be fetched: {reason}. "
            "Check the spelling, the network, or the token (--token, HF_TOKEN)."
        )


class HubError(UnavailableError):
    """The Hub didn't do what it was asked."""

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"{action} failed: {reason}. A commit is made whole or not at all, so it can be tried again.")


class HubAccessError(UnavailableError):
    """The Hub refused the token."""

    def __init__(self, repository: str, status: int) -> None:
        said = "who you are" if status == 401 else "that you may write there"
        super().__init__(
            f"The Hub doesn't accept {said} (HTTP {status} for {repository}). "
            "Log in with: hf auth login; or give --token a token with write access."
        )


class BackendUnavailableError(UnavailableError):
    """No backend here can compile for, or run on, the target."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(f"Target {target} can't be used here: {reason}. Use --target cpu to run on this machine.")
        self.reason = reason


class DeviceError(UnavailableError):
    """The device, or what drives it, refused."""


class DeviceLoadError(DeviceError):
    """A program that the device didn't take."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The Neuron device didn't load {name}: {reason}. See what it can do with: neuronbert doctor.")


class DeviceRunError(DeviceError):
    """A call that the device didn't finish."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The Neuron device didn't finish the call: {reason}. Its log says more: dmesg | grep -i neuron."
        )


class WeightsRefusedError(DeviceError):
    """New weights that the device didn't take."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The Neuron device didn't take the new weights: {reason}. Give those of the same class, all of them."
        )


class LogicalCoresError(DeviceError):
    """Programs for logical cores of another size than the runtime is set to."""

    def __init__(self, compiled: int, configured: str) -> None:
        super().__init__(
            f"The programs were compiled for logical NeuronCores of {compiled}, the runtime is set to {configured}. "
            f"Set NEURON_LOGICAL_NC_CONFIG={compiled} before it starts, or export again with --lnc {configured}."
        )


class WorkerError(UnavailableError):
    """A worker process of a pool that can't go on."""


class WorkerStartError(WorkerError):
    """A worker that ended before it was ready."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(
            f"Worker {number} didn't start: its process {reason}. "
            "Each worker holds a copy of the weights: use fewer if memory runs out."
        )


class WorkerLostError(WorkerError):
    """A call that ended every worker it was given to.

    Attributes:
        late: Whether the last one took too long.
    """

    def __init__(self, name: str, times: int, reason: str, *, late: bool) -> None:
        self.late = late
        super().__init__(
            f"A call of {name} was given to {times} workers, and neither answered; the last one {reason}. "
            "It is not tried again. SIGKILL is what a process gets where memory runs out: use fewer workers then."
        )


class WorkerFailedError(WorkerError):
    """A call that failed in a worker for a reason that isn't neuronbert's."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"A worker failed with {kind}: {reason}. Run it without workers to see where.")


class WorkersUnwellError(WorkerError):
    """Workers of a server that don't answer in time."""

    def __init__(self, models: Sequence[str]) -> None:
        super().__init__(f"The workers of {listed(models)} don't answer in time. The server is to be started again.")


class ClusterError(UnavailableError):
    """A cluster of Ray that didn't do what it was asked."""

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"Ray {action}: {reason}. What was written stays: go on with it with --resume.")


class ClusterUnreachableError(ClusterError):
    """A cluster of Ray that doesn't answer at its address."""

    def __init__(self, address: str, reason: str) -> None:
        UnavailableError.__init__(
            self,
            f"No cluster of Ray answers at {address}: {reason}. "
            "Give HOST:PORT of one that runs, or leave --address out for one on this machine.",
        )


class StorageError(UnavailableError):
    """The disk is full, or may not be written."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path} can't be written: {reason}. Choose another place, or make room.")


class KernelBuildError(UnavailableError):
    """The integer kernels can't be compiled here."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The integer kernels can't be compiled ({reason}). Without them programs give the same results, "
            "slower. Building them needs a C++ compiler and ninja: apt-get install g++ ninja-build."
        )


class MissingPackageError(UnavailableError, ImportError):
    """A package that only an extra brings."""

    def __init__(self, package: str, extra: str, reason: str) -> None:
        super().__init__(
            f"{package} can't be imported ({reason}), and what was asked needs it. "
            f"Install it from a clone of neuronbert with: pip install '.[{extra}]'."
        )


class NoTokenizerError(UnavailableError):
    """An artifact that takes tensors, but no texts."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} has no tokenizer, so it takes no texts: its checkpoint had none. "
            "Save one beside the checkpoint's config.json and export again."
        )


class OverloadedError(UnavailableError):
    """A server that has enough to do already.

    Attributes:
        retry_after: Seconds until it has worked off what it holds.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The server is overloaded. Try again in {retry_after} s.")
        self.retry_after = retry_after


class LoweringUnavailableError(UnavailableError):
    """An interpreter that can't lower a program to HLO."""

    def __init__(self, python: str, reason: str) -> None:
        super().__init__(
            f"{python} can't lower to HLO: {reason.rstrip('.')}. "
            "It needs torch 2.9 and torch_xla 2.9; name one that has them with --hlo-python."
        )


class NotExportableError(UnavailableError):
    """A program that can't be handed to what lowers it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"torch.export can't take the model: {reason.rstrip('.')}. torch_neuronx.trace doesn't use it, and may do; "
            "what needs no HLO is checked without --hlo-python."
        )


class ReferenceNotFoundError(UnavailableError):
    """The checkpoint that an artifact was exported from isn't there."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The checkpoint {model!r} that this artifact was exported from can't be found here. "
            "Say where it is with --model."
        )


class NothingRanError(UnavailableError):
    """A matrix of which no cell could run."""

    def __init__(self, path: object, reasons: Sequence[str]) -> None:
        super().__init__(
            f"Nothing of {path} could run here: {'; '.join(reasons)}. Add cpu to its targets to run it on this machine."
        )
