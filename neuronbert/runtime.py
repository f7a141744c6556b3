"""A loaded artifact: named tensors in, named tensors out.

Owns: Session: splits a call over the programs, pads, runs, and puts the rows together again. Knows nothing of how
artifacts are made, nor of transformers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import torch
from torch import Tensor

from neuronbert import calls
from neuronbert.artifact import Artifact
from neuronbert.backends import registry
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import ArtifactCorruptError, BatchTooLargeError, FixedWeightsError, SequenceTooLongError
from neuronbert.padding import allocate, pad, scatter, unpad
from neuronbert.plan import Planner, Step, call_costs

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from neuronbert.backends.base import Placement, Program, Runtime
    from neuronbert.manifest import Manifest, OutputSpec
    from neuronbert.shapes import StaticShape

logger = logging.getLogger("neuronbert")

Given = TypeVar("Given")
Found = TypeVar("Found")

_WITH_CHOICES: Final = 3
"""Dimensions of the inputs of multiple choice."""


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
        self._mask = next((at for at, spec in enumerate(self._inputs) if spec.name == calls.MASK), None)
        self._planners: dict[int | None, Planner] = {}
        self._lock = threading.Lock()
        self._served = dict.fromkeys(programs, 0)
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

    @property
    def served(self) -> dict[StaticShape, int]:
        """How many calls each program has served since the artifact was loaded."""
        with self._lock:
            return dict(self._served)

    def plan(self, lengths: Sequence[int], num_choices: int | None = None) -> list[Step]:
        """Which rows go together into which program, so that all of them cost least.

        Args:
            lengths: The tokens of each row.
            num_choices: The choices of every row, for multiple choice.

        Raises:
            SequenceTooLongError: a row is longer than every program.
            BatchTooLargeError: it has more choices than every program.
        """
        planner = self._planners.get(num_choices)
        if planner is None:
            shapes = [shape for shape in self._programs if (shape.num_choices or 0) >= (num_choices or 0)]
            if not shapes:
                most = max(shape.num_choices or 0 for shape in self._programs)
                raise BatchTooLargeError("choices", num_choices or 0, most, "--num-choices")
            planner = self._planners[num_choices] = Planner(call_costs(shapes))
        return planner.plan(lengths)

    def run(self, inputs: Mapping[str, Any], *, shape: StaticShape | None = None) -> dict[str, Tensor]:
        """Run any number of rows of any lengths.

        A call of exactly a program's shape is run as it is. Any other is split by the lengths of its rows, which the
        attention mask tells, into calls of the programs that cost least. What a program gives for positions that are
        masked out is passed on; those that its rows are too short for hold zeros or, where the answer is the largest of
        a row (question answering), the lowest number that there is.

        Args:
            inputs: Integer tensors of shape (batch, sequence), or (batch, choices, sequence) for multiple choice, or
                numpy arrays, by name. Those that the program doesn't take are ignored; attention_mask and
                token_type_ids are filled where they are missing.
            shape: Run this program, in one call, in place of what costs least.

        Returns:
            fp32 tensors by name, of the caller's batch and sequence, in the manifest's order.

        Raises:
            InputError: the call can't be run; the message says which input and why.
        """
        tensors = calls.check(inputs, self._inputs, self._rank)
        dims = tuple(tensors[0].shape)
        chosen = self._by_dims.get(dims) if shape is None else self._fitting(shape, dims)
        outputs = self._split(tensors, dims) if chosen is None else self._call(chosen, tensors, dims)
        return dict(zip(self._names, outputs, strict=True))

    def _fitting(self, shape: StaticShape, dims: tuple[int, ...]) -> StaticShape:
        if dims[-1] > shape.sequence_length:
            raise SequenceTooLongError(dims[-1], shape.sequence_length)
        if dims[0] > shape.batch_size and not self._dynamic:
            raise BatchTooLargeError("rows", dims[0], shape.batch_size, "--batch-size")
        if self._rank == _WITH_CHOICES and dims[1] > (shape.num_choices or 0):
            raise BatchTooLargeError("choices", dims[1], shape.num_choices or 0, "--num-choices")
        return shape

    def _split(self, tensors: list[Tensor], dims: tuple[int, ...]) -> Sequence[Tensor]:
        width, choices = dims[-1], dims[1] if self._rank == _WITH_CHOICES else None
        lengths = calls.lengths(tensors[self._mask]) if self._mask is not None else [width] * dims[0]
        steps = self._merged(self.plan(lengths, choices)) if self._dynamic else self.plan(lengths, choices)
        if len(steps) == 1 and steps[0].shape.sequence_length >= width:
            return self._call(steps[0].shape, tensors, dims)
        shortest = min(step.shape.sequence_length for step in steps)
        gathered = allocate(self._outputs, dims, filled=shortest < width)
        for rows, outputs in self.spread(partial(self._step, tensors), steps):
            scatter(outputs, self._outputs, rows, gathered)
        return gathered

    def _step(self, tensors: list[Tensor], step: Step) -> tuple[Tensor, Sequence[Tensor]]:
        logger.debug("%s serves rows %s", step.shape.name, step.rows)
        rows, columns = torch.tensor(step.rows), min(tensors[0].shape[-1], step.shape.sequence_length)
        given = [tensor.index_select(0, rows)[..., :columns] for tensor in tensors]
        try:
            return rows, self._call(step.shape, given, tuple(given[0].shape))
        except Exception as error:
            error.add_note(f"in a call of {step.shape.name} with {len(step.rows)} rows, row {step.rows[0]} among them")
            raise

    @staticmethod
    def _merged(steps: Iterable[Step]) -> list[Step]:
        # A dynamic batch is the program's to split: over its cores, perhaps.
        rows: dict[StaticShape, list[int]] = {}
        for step in steps:
            rows.setdefault(step.shape, []).extend(step.rows)
        return [Step(shape, together) for shape, together in rows.items()]

    def _call(self, shape: StaticShape, tensors: list[Tensor], dims: tuple[int, ...]) -> Sequence[Tensor]:
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
        with self._lock:
            self._served[shape] += 1
        return outputs if full else unpad(outputs, self._outputs, dims)

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
