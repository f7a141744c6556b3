"""NeuronTracedModel: transformers' calling convention over a loaded artifact.

Owns: from_pretrained (with export=True, the only place where loading meets exporting), calling, saving, pushing.
Knows nothing of how programs run.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from optimum.modeling_base import OptimizedModel
from transformers import CONFIG_MAPPING

from neuronbert import answers, columns, hub, outputs, sources
from neuronbert.artifact import MANIFEST, Artifact, staged
from neuronbert.backends import registry
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import ArtifactCorruptError, InvalidOptionError, ReplacedWeightsError, WrongHeadError, first_line
from neuronbert.exporter import export as export_artifact
from neuronbert.folders import CONFIG
from neuronbert.modeling import WRAPPED
from neuronbert.predictor import Predictor
from neuronbert.publishing import publish
from neuronbert.spec import from_options
from neuronbert.workers.pool import load

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from transformers import PretrainedConfig
    from transformers.utils import ModelOutput

    from neuronbert.backends.base import Placement
    from neuronbert.decoding import Reply, Row
    from neuronbert.manifest import Manifest
    from neuronbert.runtime import Session


class NeuronTracedModel(OptimizedModel):  # type: ignore[misc]  # optimum is untyped
    """A compiled encoder that is called like the transformers model it was made from.

    Open one with `from_pretrained`. Calls take integer tensors or numpy arrays of shape (batch, sequence), or (batch,
    choices, sequence) for multiple choice: any number of rows of any lengths up to the longest compiled one. They are
    sorted by length, split over the programs, padded, and the outputs put together again (see `Session.run`).
    Inputs that weren't compiled are ignored; attention_mask and token_type_ids are filled where they are missing.

    Attributes:
        task: The task of the class, or None if it takes any.
        model_type: The architecture of the class, or None if it takes any.
        quantization: What the programs of the class compute with, or None if it takes any.
        config: The model's transformers config.
        session: The loaded artifact.
    """

    task: ClassVar[str | None] = None
    model_type: ClassVar[str | None] = None
    quantization: ClassVar[str | None] = None
    # What transformers' pipelines ask of a model.
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32
    input_modalities: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(self, session: Session) -> None:
        super().__init__(session, _config(session))
        self.session = session
        manifest = session.manifest
        self._output_class = outputs.class_of(manifest.model_type, manifest.task)
        self._predictor: Predictor | None = None
        self.base_model_prefix = manifest.model_type

    def can_generate(self) -> bool:
        """No: a program gives the logits of one call."""
        return False

    def to(self, device: torch.device | str) -> Self:
        """The model, if that is the CPU: calls take and give tensors there, wherever the programs run.

        Raises:
            InvalidOptionError: it is another device.
        """
        if torch.device(device) != self.device:
            expected = 'cpu, wherever the programs run: tensors go in and come out there. Pass device="cpu"'
            raise InvalidOptionError("device", str(device), expected)
        return self

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike[str],
        *,
        export: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        placement: Placement = ANYWHERE,
        workers: int | None = None,
        **options: Any,
    ) -> Self:
        """Load an artifact; or, with `export=True`, export a checkpoint and load the result.

        Args:
            model_id: An artifact (with export, a checkpoint): a local folder or a Hub id.
            export: Compile a checkpoint. `save_pretrained` keeps the result.
            revision: Branch, tag or commit of a Hub id.
            token: For the Hub; None takes the one that is logged in.
            placement: Which NeuronCores the programs go to.
            workers: Load it in so many processes (Pool) in place of this one; `model.session.close()` ends them.
            options: With export: batch_size (1), sequence_length (128), num_choices, task, the fields of ExportSpec
                but for model, shapes and revision, and the cache that `export` takes.

        Raises:
            WrongHeadError: the model is of another task or architecture than the class.
            NeuronBertError: whatever else `export` or `Session.open` find wrong.

        Example:
            >>> from neuronbert import NeuronBertModel
            >>> model = NeuronBertModel.from_pretrained(  # doctest: +SKIP
            ...     "my-checkpoint/", export=True, batch_size=1, sequence_length=128)
        """
        if export:
            return cls._export_and_load(str(model_id), revision, token, (placement, workers), options)
        if options:
            name, value = next(iter(options.items()))
            raise InvalidOptionError(name, value, "left out, or used together with export=True")
        resolved = hub.resolve(str(model_id), revision=revision, token=token, files=None)
        cls._check(Artifact.open(resolved.path, verify=False).manifest)
        return cls._of(load(resolved.path, placement=placement, workers=workers))

    @classmethod
    def _export_and_load(
        cls,
        model_id: str,
        revision: str | None,
        token: str | bool | None,
        where: tuple[Placement, int | None],
        options: dict[str, Any],
    ) -> Self:
        model_type = sources.find_model_type(model_id, revision=revision, token=token)
        if cls.model_type not in (None, model_type):
            raise WrongHeadError(cls.__name__, f"{cls.model_type} models", f"a {model_type} model")
        if cls.quantization is not None and options.setdefault("quantization", cls.quantization) != cls.quantization:
            raise InvalidOptionError("quantization", options["quantization"], f"{cls.quantization!r} or left out")
        cache = options.pop("cache", True)
        spec = from_options(model_id, revision, cls.task, options)
        target, backend = registry.resolve_target(spec.target)
        registry.runtime(backend, target)  # before the compiler's hours: what it makes is to run here
        folder = tempfile.mkdtemp(prefix="neuronbert-")
        try:
            artifact = export_artifact(spec, Path(folder, "artifact"), token=token, cache=cache)
            model = cls._of(load(artifact.path, placement=where[0], workers=where[1]))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(model.session, shutil.rmtree, folder, ignore_errors=True)
        return model

    @classmethod
    def _of(cls, session: Session) -> Self:
        try:
            return cls(session)
        except BaseException:
            session.close()
            raise

    @classmethod
    def _check(cls, manifest: Manifest) -> None:
        if cls.task not in (None, manifest.task):
            raise WrongHeadError(cls.__name__, str(cls.task), manifest.task)
        if cls.model_type not in (None, manifest.model_type):
            raise WrongHeadError(cls.__name__, f"{cls.model_type} models", f"a {manifest.model_type} model")
        if cls.quantization not in (None, manifest.quantization):
            found = f"one with quantization {manifest.quantization}"
            raise WrongHeadError(cls.__name__, f"artifacts with quantization {cls.quantization}", found)

    def forward(
        self,
        input_ids: Tensor | np.ndarray | None = None,
        attention_mask: Tensor | np.ndarray | None = None,
        token_type_ids: Tensor | np.ndarray | None = None,
        **others: Any,
    ) -> ModelOutput:
        """Run one call.

        Args:
            input_ids: Token ids, (batch, sequence) or (batch, choices, sequence).
            attention_mask: 1 at real tokens, 0 at padding; all ones if left out.
            token_type_ids: 0 in the first segment, 1 in the second; all zeros if left out.
            others: Passed if the program takes them, ignored if not.

        Returns:
            transformers' output class for the task, of the caller's batch and sequence, in fp32; of numpy arrays if
            input_ids is one.

        Raises:
            InputError: the call can't be run; the message says which input and why.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids, **others}
        found = self.session.run(given)
        # The class itself would look at each value again: a third of what a call costs besides its program.
        output: Any = OrderedDict.__new__(self._output_class)
        numpy = isinstance(input_ids, np.ndarray)
        for name, value in found.items():
            output[name] = value.numpy() if numpy else value
        return output

    def predict(
        self, rows: Iterable[Row | str], *, truncate: bool = False, stride: int | None = None, top_k: int = 5
    ) -> list[Reply]:
        """Answer texts with the artifact's own tokenizer: as `Predictor.predict` does, with the same arguments.

        Raises:
            NoTokenizerError: the artifact has none.
            InputError: a row can't be answered.
        """
        if self._predictor is None:
            self._predictor = Predictor(self.session)
        return self._predictor.predict(rows, truncate=truncate, stride=stride, top_k=top_k)

    def predict_batch(
        self,
        batch: Mapping[str, Sequence[Any]],
        *,
        truncate: bool = False,
        stride: int | None = None,
        top_k: int = 5,
    ) -> dict[str, list[Any]]:
        """Answer columns of texts: what the `map` of a `datasets` set with batched=True calls.

        Args:
            batch: Columns by name, all of one length; those that `predict` doesn't take are ignored, but may not be
                called as a part of the answers is.
            truncate: As in `predict`; the others too.
            stride: Answer long texts in windows.
            top_k: How many candidates to give.

        Returns:
            A column for each part of the answers: "label" and "score", for instance.

        Raises:
            InputError: a row can't be answered.
            InvalidOptionError: the columns don't belong together.
        """
        rows = columns.to_rows(batch)
        replies = self.predict(rows, truncate=truncate, stride=stride, top_k=top_k)
        return columns.from_replies(replies, batch.keys() - answers.names(self.session.manifest.task))

    def replace_weights(self, weights: nn.Module | Mapping[str, Tensor]) -> None:
        """Go on with other weights of the same architecture: those of a model that was trained further.

        Args:
            weights: A transformers model of the same head, or its state_dict.

        Raises:
            FixedWeightsError: the programs were compiled with their weights inside.
            DeviceError: the device didn't take them.
        """
        state = weights if isinstance(weights, Mapping) else weights.state_dict()
        self.session.replace_weights({f"{WRAPPED}.{name}": value for name, value in state.items()})

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        repository_id: str | None = None,
        **options: Any,
    ) -> None:
        """Write the artifact to a directory, replacing an artifact that is there.

        Args:
            save_directory: Where to.
            push_to_hub: Push it as well.
            repository_id: Where to; by default a repository called like the directory.
            options: The others of the method `push_to_hub`.

        Raises:
            ReplacedWeightsError: the programs go on with other weights than the artifact's.
            OutputExistsError: something else than an artifact is there.
            StorageError: the directory can't be written.
        """
        if options and not push_to_hub:
            name, value = next(iter(options.items()))
            raise InvalidOptionError(name, value, "left out, or used together with push_to_hub=True")
        artifact = self.session.artifact
        if self.session.replaced:
            raise ReplacedWeightsError(save_directory)
        if Path(save_directory).resolve() != artifact.path.resolve():
            with staged(save_directory, overwrite=True) as folder:
                for name in (*artifact.manifest.files, *(() if artifact.foreign else (MANIFEST,))):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(artifact.path / name, folder / name)
                if Artifact.open(folder).manifest != artifact.manifest:
                    raise ArtifactCorruptError(artifact.path, "is another artifact than the one that was loaded")
        if push_to_hub:
            self.push_to_hub(save_directory, repository_id or Path(save_directory).resolve().name, **options)

    def push_to_hub(
        self,
        save_directory: str | os.PathLike[str],
        repository_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        force: bool = False,
    ) -> str:
        """Push a saved artifact to the Hub in one commit.

        Args:
            save_directory: Where it was saved.
            repository_id: "name" or "organisation/name"; made if it isn't there.
            private: Make it private, if it is made.
            revision: The branch; made if it isn't there.
            token: For the Hub; None takes the one that is logged in.
            force: Push although the validation failed.

        Returns:
            The address of the commit.

        Raises:
            NotValidatedError: its validation failed.
            HubError: the Hub refused, or can't be reached. HubAccessError if it is the token.
        """
        return publish(save_directory, repository_id, private=private, revision=revision, token=token, force=force)

    # OptimizedModel asks its subclasses for these; saving here copies the artifact as it is.
    _save_pretrained = save_pretrained


def _config(session: Session) -> PretrainedConfig:
    # The class goes by the verified manifest: AutoConfig would offer to run code that a config.json names.
    artifact = session.artifact
    try:
        return CONFIG_MAPPING[session.manifest.model_type].from_dict(artifact.config())
    except Exception as error:  # a hostile config fails wherever transformers first trips over it
        raise ArtifactCorruptError(artifact.path / CONFIG, f"makes no config ({first_line(error)})") from error
