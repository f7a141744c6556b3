"""The WordPiece vocabulary of a checkpoint, and the tokenizer made of it.

Owns: finding, reading and checking it, and how many rows of the embeddings are real.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuronbert.errors import CheckpointCorruptError, MissingFileError, VocabularyError
from neuronbert.megatron.settings import PUBLISHED_VOCABULARIES, is_published

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from neuronbert.megatron.settings import Sizes
    from neuronbert.megatron.shards import Shards

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_DIVISIBLE_BY: Final = 128
"""Megatron-LM's default of make_vocab_size_divisible_by."""
_MAX_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary file.

    Attributes:
        path: Where it is.
        tokens: One a line, in the order of their ids.
    """

    path: Path
    tokens: tuple[str, ...]

    @property
    def lowercase(self) -> bool:
        """Whether it has only tokens of lower case, but for the special ones."""
        return all(token == token.lower() for token in self.tokens if not token.startswith("["))

    @property
    def pad_token_id(self) -> int:
        """The id of [PAD]."""
        return self.tokens.index(_SPECIAL[0])

    def save_tokenizer(self, folder: Path, *, lowercase: bool, length: int) -> None:
        """Write the files of a fast tokenizer, and the vocabulary itself."""
        from transformers import BertTokenizerFast  # noqa: PLC0415  a second of imports that weights alone don't need

        shutil.copyfile(self.path, folder / "vocab.txt")
        tokenizer = BertTokenizerFast(
            vocab={token: index for index, token in enumerate(self.tokens)},
            do_lower_case=lowercase,
            model_max_length=length,
        )
        tokenizer.save_pretrained(folder)


def find_vocabulary(given: Path | None, places: Iterable[Path]) -> Path | None:
    """The vocabulary file: the given one, or the only `*vocab*.txt` of a folder.

    Args:
        given: What the user says.
        places: Folders; the first that has one counts.

    Raises:
        MissingFileError: the given one isn't there.
        VocabularyError: a folder has several.
    """
    if given is not None:
        if not given.is_file():
            raise MissingFileError(given)
        return given
    for place in places:
        found = sorted(path for path in place.glob("*vocab*.txt") if path.is_file())
        if len(found) > 1:
            raise VocabularyError(place, f"it has {len(found)} of them: {', '.join(path.name for path in found)}")
        if found:
            return found[0]
    return None


def read_vocabulary(path: Path) -> Vocabulary:
    """A vocabulary file, checked.

    Raises:
        VocabularyError: it is no vocabulary of BERT's.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise VocabularyError(path, f"it has more than {_MAX_BYTES} bytes")
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeError) as error:
        raise VocabularyError(path, "it can't be read as UTF-8") from error
    tokens = tuple(line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1]))
    missing = [token for token in _SPECIAL if token not in tokens]
    if missing:
        raise VocabularyError(path, f"it has no {missing[0]}")
    if len(set(tokens)) != len(tokens):
        raise VocabularyError(path, "it has a token twice")
    return Vocabulary(path, tokens)


def real_size(shards: Shards, sizes: Sizes, vocabulary: Vocabulary | None) -> tuple[int, str]:
    """How many rows of the embeddings are tokens, and a note if that isn't known for sure.

    Megatron-LM fills the table up to a multiple of `make_vocab_size_divisible_by` times the tensor-parallel ranks.

    Raises:
        VocabularyError: the vocabulary can't be this checkpoint's.
        CheckpointCorruptError: its arguments contradict its weights.
    """
    rows = sizes["padded"]
    arguments = shards.arguments or {}
    said = arguments.get("vocab_size")
    if isinstance(said, int) and not isinstance(said, bool) and not 0 < said <= rows:
        raise CheckpointCorruptError(shards.path, f"its arguments say vocab_size {said}, its table has {rows} rows")
    if vocabulary is not None:
        _refuse_other(shards, rows, vocabulary)
        return len(vocabulary.tokens), ""
    if isinstance(said, int) and not isinstance(said, bool):
        return said, ""
    if shards.arguments is None and is_published(shards, sizes):
        return PUBLISHED_VOCABULARIES[rows], ""
    return rows, f"Some of the {rows} rows of its vocabulary may be padding."


def _refuse_other(shards: Shards, rows: int, vocabulary: Vocabulary) -> None:
    count = len(vocabulary.tokens)
    multiple = (shards.arguments or {}).get("make_vocab_size_divisible_by")
    unit = multiple if isinstance(multiple, int) and multiple > 0 else _DIVISIBLE_BY
    # The ranks of the training needn't be those of now: any power of two that gives these rows will do.
    units = [unit * ranks for ranks in {shards.ranks, *(1 << power for power in range(8))}]
    if rows not in {-(-count // unit) * unit for unit in units} | {count}:
        raise VocabularyError(vocabulary.path, f"its {count} tokens are not what fills the checkpoint's {rows} rows")
