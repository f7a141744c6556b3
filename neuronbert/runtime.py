"""A loaded artifact: named tensors in, named tensors out.

Owns: Session: checks a call, picks the program, pads, runs, slices back. Knows nothing of how artifacts are made, nor
of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor

from neuronbert.artifact import Artifact
from neuronbert.backends import registry
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import (
    ArtifactCorruptError,
    BatchTooLargeError,
    EmptyInputError,
    FixedWeightsError,
    InputDtypeError,
    InputRangeError,
    InputRankError,
    InputShapeError,
    InputTypeError,
    MissingInputError,
    SequenceTooLongError,
)
from neuronbert.padding import pad, unpad
from neuronbert.shapes import smallest_fit

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from neuronbert.backends.base import Placement, Program, Runtime
    from neuronbert.manifest import InputSpec, Manifest, OutputSpec
    from neuronbert.shapes import StaticShape

Given = TypeVar("Given")
Found = TypeVar("Found")

_INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool})


class Session:
    """A verified artifact, loaded and ready to run. Calls from several threads are safe.

    Args:
        artifact: A verified artifact.
        runtime: What runs its target.
        placement: Which NeuronCores its programs go to.

    Attributes:
        artifact: The same.
        replaced: Whether the programs go on with other weights than the artifact's.
    """

    def __init__(self, artifact: Artifact, runtime: Runtime, placement: Placement = ANYWHERE) -> None:
        programs = runtime.load(artifact.path, artifact.manifest, placement)
        self.artifact = artifact
        self.replaced = False
        self._runtime = runtime
        self._loaded = programs
        self._programs = {
            shape: _Ordered(program, artifact) if artifact.foreign else program for shape, program in programs.items()
        }
        self._inputs = artifact.manifest.inputs
        self._outputs = artifact.manifest.outputs
        self._names = tuple(spec.name for spec in self._outputs)
        self._dynamic = artifact.manifest.dynamic_batch
        self._rank = len(artifact.manifest.shapes[0].dims)
        self._by_dims = {shape.dims: shape for shape in programs}
        self._shapes = {shape: tuple(_output_dims(spec, shape) for spec in self._outputs) for shape in programs}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, placement: Placement = ANYWHERE) -> Session:
        """Verify and load the artifact in a directory.

        Args:
            path: The directory.
            placement: Which NeuronCores its programs go to.

        Raises:
            ArtifactError: it isn't one, or not what was written.
            BackendUnavailableError: its target can't run here.
            DeviceError: the device didn't take it.
        """
        artifact = Artifact.open(Path(path).absolute())
        manifest = artifact.manifest
        return cls(artifact, registry.runtime(manifest.backend, manifest.target), placement)

    @property
    def manifest(self) -> Manifest:
        """What the artifact says of itself."""
        return self.artifact.manifest

    def run(self, inputs: Mapping[str, Any], *, shape: StaticShape | None = None) -> dict[str, Tensor]:
        """Run one call.

        Args:
            inputs: Integer tensors of shape (batch, sequence), or (batch, choices, sequence) for multiple choice, by
                name. Those that the program doesn't take are ignored; attention_mask and token_type_ids are filled
                where they are missing.
            shape: Which program to run; by default the smallest that the call fits in.

        Returns:
            fp32 tensors by name, of the caller's batch and sequence, in the manifest's order.

        Raises:
            InputError: the call can't be run; the message says which input and why.
        """
        tensors, dims = self._check(inputs)
        shape = shape or self._by_dims.get(dims) or self._choose(dims)
        compiled, expected = shape.dims, self._shapes[shape]
        if self._dynamic and dims[0] != shape.batch_size:
            compiled = (dims[0], *shape.dims[1:])
            expected = tuple((dims[0], *sizes[1:]) for sizes in expected)
        full = dims == compiled
        given = tensors if full else pad(tensors, self._inputs, compiled)
        with torch.no_grad():
            outputs = self._programs[shape](*given)
        if tuple([getattr(output, "shape", None) for output in outputs]) != expected:
            found = ", ".join(_described(output) for output in outputs)
            wanted = ", ".join(str(list(sizes)) for sizes in expected)
            raise ArtifactCorruptError(self._file(shape), f"gives outputs of shape {found} in place of {wanted}")
        return dict(zip(self._names, outputs if full else unpad(outputs, self._outputs, dims), strict=True))

    def spread(self, function: Callable[[Given], Found], items: Iterable[Given]) -> Iterator[Found]:
        """Call a function that calls `run`, once for each item; the results in the order of the items.

        Here one after another. In a pool side by side, items being taken as workers need them: give those that take
        longest first.
        """
        return map(function, items)

    def close(self) -> None:
        """Let go of what a pool holds. A session of one process holds nothing but memory, and goes with it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on with other weights of the same architecture.

        Args:
            weights: By the names of the head's state_dict, all of them.

        Raises:
            FixedWeightsError: the programs were compiled with their weights inside.
            DeviceError: the device didn't take them.
        """
        try:
            self._runtime.replace_weights(self._loaded, weights)
        except FixedWeightsError:
            raise
        except BaseException:
            self.replaced = True  # some of them, perhaps
            raise
        self.replaced = True

    def _file(self, shape: StaticShape) -> Path:
        return self.artifact.path / next(item.file for item in self.manifest.programs if item.shape == shape)

    def _check(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], tuple[int, ...]]:
        tensors: list[Tensor] = []
        for spec in self._inputs:
            value = inputs.get(spec.name)
            if value is None:
                if spec.default is None:
                    raise MissingInputError(
                        spec.name, sorted(name for name, given in inputs.items() if given is not None)
                    )
                value = torch.full_like(tensors[0], spec.default)
                tensors.append(value)
                continue
            tensors.append(_as_int64(spec, value))
            self._check_dims(spec, tensors)
            _check_range(spec, tensors[-1])
        return tensors, tuple(tensors[0].shape)

    def _check_dims(self, spec: InputSpec, tensors: list[Tensor]) -> None:
        first, tensor = tensors[0], tensors[-1]
        if tensor.dim() != self._rank:
            expected = ("batch", "choices", "sequence") if self._rank == 3 else ("batch", "sequence")
            raise InputRankError(spec.name, tuple(tensor.shape), expected)
        if tensor.shape != first.shape:
            raise InputShapeError(spec.name, tuple(tensor.shape), self._inputs[0].name, tuple(first.shape))
        if tensor.numel() == 0:
            raise EmptyInputError(spec.name)

    def _choose(self, dims: tuple[int, ...]) -> StaticShape:
        rows = (1, *dims[1:]) if self._dynamic else dims
        shape = smallest_fit(self._programs, rows)
        if shape is not None:
            return shape
        shapes = tuple(self._programs)
        longest = max(shape.sequence_length for shape in shapes)
        if dims[-1] > longest:
            raise SequenceTooLongError(dims[-1], longest)
        most_choices = max(shape.num_choices or 1 for shape in shapes)
        if len(dims) == 3 and dims[1] > most_choices:
            raise BatchTooLargeError("choices", dims[1], most_choices, "--num-choices")
        most_rows = max(shape.batch_size for shape in shapes if shape.sequence_length >= dims[-1])
        raise BatchTooLargeError("rows", dims[0], most_rows, "--batch-size")


class _Ordered:
    """A program that nobody made for this loader: its outputs may come by name, and in the model's own float type.

    Args:
        program: As it was loaded.
        artifact: Where it is from.
    """

    def __init__(self, program: Program, artifact: Artifact) -> None:
        self._program = program
        self._names = [spec.name for spec in artifact.manifest.outputs]
        self._path = artifact.path / artifact.manifest.programs[0].file

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the manifest's order, in fp32."""
        given: object = self._program(*inputs)
        if isinstance(given, Mapping):
            given = tuple(given.get(name) for name in self._names)
        outputs = given if isinstance(given, tuple) else (given,)
        if len(outputs) != len(self._names) or not all(isinstance(output, Tensor) for output in outputs):
            raise ArtifactCorruptError(self._path, f"doesn't give the outputs {', '.join(self._names)}")
        return tuple(output.float() for output in outputs)


def _output_dims(spec: OutputSpec, shape: StaticShape) -> tuple[int, ...]:
    sizes = {
        "batch": shape.batch_size,
        "sequence": shape.sequence_length,
        "choices": shape.num_choices or 1,
    }
    return tuple(sizes.get(name, spec.size or 0) for name in spec.dims)


def _described(output: object) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def _as_int64(spec: InputSpec, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputTypeError(spec.name, type(value).__name__)
    if value.dtype not in _INTEGERS:
        raise InputDtypeError(spec.name, value.dtype)
    return value if value.dtype is torch.int64 else value.to(torch.int64)


def _check_range(spec: InputSpec, tensor: Tensor) -> None:
    lowest, highest = torch.aminmax(tensor)
    low, high = int(lowest.item()), int(highest.item())
    if low < 0 or high > spec.maximum:
        raise InputRangeError(spec.name, low, high, spec.maximum)
