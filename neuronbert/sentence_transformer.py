"""sentence-transformers over artifacts: importing this needs the extra `sentence-transformers`.

Owns: NeuronTransformer, a module of theirs that runs programs, and NeuronSentenceTransformer, their model around it.
Knows nothing of how programs run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import torch

from neuronbert import calls, tokenization
from neuronbert.backends.base import ANYWHERE
from neuronbert.errors import InvalidOptionError, MissingPackageError, WrongHeadError, first_line
from neuronbert.folders import read_json
from neuronbert.heads import NeuronAutoModel, opened
from neuronbert.sentences import PROMPTS, TEXTS, following

try:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, InputModule, Normalize, Pooling
except ImportError as error:
    raise MissingPackageError("sentence-transformers", "sentence-transformers", first_line(error)) from error

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from torch import Tensor, nn

    from neuronbert.backends.base import Placement
    from neuronbert.models import NeuronTracedModel
    from neuronbert.plan import Step

_TOKENS: Final = {"sentence-embedding": "token_embeddings", "feature-extraction": "last_hidden_state"}
"""The tasks that can be run here, and the output that holds a vector for each token."""
_VECTOR: Final = "sentence_embedding"
_PAIR: Final = 2
_INPUTS: Final = 'texts, pairs of texts, or mappings with one of these under "text"'
_BLOCK: Final = 2048
"""Texts that are tokenized and planned together, where programs give one vector for each."""


class NeuronTransformer(InputModule):  # type: ignore[misc]  # sentence-transformers is skipped by mypy
    """The first module of a `SentenceTransformer`: texts to token embeddings, by the programs of an artifact.

    One for the task sentence-embedding also gives the sentence's vector, and needs no module after it; one for
    feature-extraction is followed by a Pooling.

    Args:
        model: A loaded model of either task, or its artifact: a local folder or a Hub id.
        options: For opening the artifact: revision, token, placement, workers.

    Attributes:
        model: The loaded model.
        tokenizer: The artifact's.
        max_seq_length: Texts are cut to so many tokens: as many as the checkpoint was made for. It may be more than the
            programs take, and then a longer text is an error. Set it to cut texts elsewhere.
        do_lower_case: Whether texts are lowered first.

    Raises:
        WrongHeadError: the artifact is for another task.
        NoTokenizerError: it has no tokenizer.

    Example:
        >>> from sentence_transformers import SentenceTransformer  # doctest: +SKIP
        >>> SentenceTransformer(modules=[NeuronTransformer("my-artifact/")])  # doctest: +SKIP
    """

    save_in_root = False
    forward_kwargs: ClassVar[set[str]] = {"with_tokens"}

    def __init__(self, model: NeuronTracedModel | str | os.PathLike[str], **options: Any) -> None:
        super().__init__()
        self.model = opened(model, **options)
        manifest = self.model.session.manifest
        if manifest.task not in _TOKENS:
            raise WrongHeadError(type(self).__name__, " and ".join(_TOKENS), manifest.task)
        folder = self.model.session.artifact.path
        settings = read_json(folder / TEXTS) if (folder / TEXTS).is_file() else {}
        self.tokenizer = tokenization.require(folder)
        length = settings.get("max_seq_length")
        positions = getattr(self.model.config, "max_position_embeddings", self.tokenizer.model_max_length)
        self.max_seq_length = length if type(length) is int else min(positions, self.tokenizer.model_max_length)
        self.do_lower_case = settings.get("do_lower_case") is True
        self._tokens = _TOKENS[manifest.task]
        self._size = next(spec.size for spec in reversed(manifest.outputs) if spec.name in (_VECTOR, self._tokens))
        self.whole = any(spec.name == _VECTOR for spec in manifest.outputs)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_others: Any) -> dict[str, Tensor]:
        """Texts or pairs of them to padded tensors, cut to max_seq_length; what comes before each is the prompt.

        Raises:
            InvalidOptionError: one is neither, nor a mapping with "text" alone.
        """
        texts = [self._read(given, prompt or "") for given in inputs]
        encoded = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_seq_length, return_tensors="pt"
        )
        return dict(encoded)

    def _read(self, given: object, prompt: str) -> str | tuple[str, ...]:
        value = given["text"] if isinstance(given, Mapping) and list(given) == ["text"] else given
        texts = tuple(value) if isinstance(value, list | tuple) and len(value) == _PAIR else (value,)
        if not all(isinstance(text, str) for text in texts):
            raise InvalidOptionError("inputs", type(given).__name__, _INPUTS)
        texts = (prompt + texts[0], *texts[1:])
        if self.do_lower_case:
            texts = tuple(text.lower() for text in texts)
        return texts if len(texts) == _PAIR else texts[0]

    def forward(self, features: dict[str, Any], with_tokens: bool = True, **_others: Any) -> dict[str, Any]:
        """Add token_embeddings (batch, sequence, hidden) and, from some programs, sentence_embedding (batch, size).

        Args:
            features: What `preprocess` gives.
            with_tokens: Whether token_embeddings are asked for, where sentence_embedding is there.
        """
        names = [spec.name for spec in self.model.session.manifest.inputs]
        given = {name: features[name] for name in names if name in features}
        if self.whole and not with_tokens:
            return {**features, _VECTOR: self._vectors(given)}
        outputs = self.model.session.run(given)
        found = {"token_embeddings": outputs[self._tokens]}
        return {**features, **found, **({_VECTOR: outputs[_VECTOR]} if self.whole else {})}

    def _vectors(self, given: Mapping[str, Tensor]) -> Tensor:
        # Call by call: all token embeddings of a block together would fill the memory.
        session = self.model.session

        def run(step: Step) -> tuple[Tensor, Tensor]:
            rows, columns = torch.tensor(step.rows), step.shape.sequence_length
            part = {name: tensor.index_select(0, rows)[:, :columns] for name, tensor in given.items()}
            return rows, session.run(part, shape=step.shape)[_VECTOR]

        vectors = torch.empty(len(given["input_ids"]), self.get_embedding_dimension())
        for rows, found in session.spread(run, session.plan(calls.lengths(given[calls.MASK]))):
            vectors[rows] = found
        return vectors

    def get_embedding_dimension(self) -> int:
        """The size of a vector."""
        return int(self._size or 0)

    def save(self, output_path: str, *_: Any, **_others: Any) -> None:
        """Put the artifact into a folder, as it was exported."""
        self.model.save_pretrained(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: str | bool | None = None,
        revision: str | None = None,
        **_others: Any,
    ) -> Self:
        """Open the artifact that a modules.json names; sentence-transformers calls this."""
        if Path(model_name_or_path).is_dir():
            return cls(Path(model_name_or_path, subfolder))
        return cls(model_name_or_path, token=token, revision=revision)

    def __reduce__(self) -> tuple[Any, ...]:
        # The processes of `start_multi_process_pool` load programs of their own.
        settings = (self.max_seq_length, self.do_lower_case)
        return _reopened, (type(self), str(self.model.session.artifact.path), settings)


class NeuronSentenceTransformer(SentenceTransformer):  # type: ignore[misc]  # sentence-transformers is skipped by mypy
    """A `SentenceTransformer` whose encoder is an artifact; all else of it is sentence-transformers' own.

    Pooling, normalization and Dense layers are those of the checkpoint: inside the programs of an artifact for
    sentence-embedding, after them in one for feature-extraction. So are prompts and the similarity function.

    Args:
        model: A loaded model of either task, or its artifact: a local folder or a Hub id.
        revision: Branch, tag or commit of a Hub id.
        token: For the Hub; None takes the one that is logged in.
        placement: Which NeuronCores the programs go to.
        workers: Load it in so many processes (Pool) in place of this one; `model[0].model.session.close()` ends them.
        options: prompts, default_prompt_name, similarity_fn_name, truncate_dim: in place of the checkpoint's.

    Raises:
        WrongHeadError: the artifact is for another task.
        UnsupportedFeatureError: it is for feature-extraction, and nothing says how to pool.
        NeuronBertError: whatever else `NeuronAutoModel.from_pretrained` finds wrong.

    Example:
        >>> NeuronSentenceTransformer("my-artifact/").encode(["A sentence."])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: NeuronTracedModel | str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        placement: Placement = ANYWHERE,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        unknown = [name for name in options if name not in _SETTINGS]
        if unknown:
            raise InvalidOptionError(unknown[0], options[unknown[0]], f"left out, or one of {', '.join(_SETTINGS)}")
        first = NeuronTransformer(model, revision=revision, token=token, placement=placement, workers=workers)
        folder = first.model.session.artifact.path
        saved = read_json(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
        settings = {name: saved[name] for name in _SETTINGS if saved.get(name) is not None}
        if settings.get("similarity_fn_name") not in (None, *SentenceTransformer.SUPPORTED_SIMILARITY_FN_NAMES):
            del settings["similarity_fn_name"]  # one between several vectors of a text
        prompts = {**settings.get("prompts", {}), **(options.get("prompts") or {})}
        modules = [first, *([] if first.whole else _modules(folder))]
        super().__init__(modules=modules, device="cpu", **{**settings, **options, "prompts": prompts})

    @classmethod
    def from_pretrained(cls, model_id: str | os.PathLike[str], **options: Any) -> Self:
        """Load an artifact; or, with `export=True`, export a checkpoint for sentence-embedding and load the result.

        Args:
            model_id: An artifact (with export, a checkpoint): a local folder or a Hub id.
            options: Those of the class; and with export, those of `NeuronTracedModel.from_pretrained`.
        """
        own = {name: options.pop(name) for name in _SETTINGS if name in options}
        if options.get("export"):
            options = {"task": "sentence-embedding", **options}
        return cls(NeuronAutoModel.from_pretrained(model_id, **options), **own)

    def encode(self, *args: Any, **options: Any) -> Any:
        """Texts, pairs of texts, or mappings with "text" to vectors: what `SentenceTransformer.encode` takes and gives.

        Where the programs give vectors themselves, texts are dealt out to them thousands at a time, by their lengths;
        batch_size only says how many are tokenized together at least.

        Raises:
            InvalidOptionError: an input is none of these.
            ValueError: sentence-transformers doesn't take an option as it is.
        """
        given = dict(_ENCODE.bind_partial(self, *args, **options).arguments)
        given.update(given.pop("kwargs", {}))
        del given["self"]
        if self[0].whole and given.get("output_value", _VECTOR) == _VECTOR:
            asked = given.get("batch_size", _BLOCK)
            given["batch_size"] = max(asked, _BLOCK) if asked > 0 else asked  # the original refuses that
            given["with_tokens"] = False
        return super().encode(**given)

    def save(self, path: str, *_: Any, **_others: Any) -> None:
        """Put the artifact into a folder, as it was exported: what was set since isn't part of it."""
        self[0].save(path)

    save_pretrained = save


_SETTINGS: Final = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
_ENCODE: Final = inspect.signature(SentenceTransformer.encode)


def _modules(folder: Path) -> list[nn.Module]:
    kinds = {"Pooling": Pooling, "Dense": Dense}
    return [
        kinds[kind].load(str(folder), subfolder=path.name) if kind in kinds else Normalize()
        for kind, path in following(folder)
    ]


def _reopened(kind: type[NeuronTransformer], path: str, settings: tuple[int, bool]) -> NeuronTransformer:
    module = kind(path)
    module.max_seq_length, module.do_lower_case = settings
    return module
