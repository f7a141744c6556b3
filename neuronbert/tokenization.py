"""The tokenizer that lies in a folder.

Owns: loading it, and filling a static shape with texts. Knows nothing of programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from neuronbert.errors import NoTokenizerError, TokenizerError, first_line
from neuronbert.folders import TOKENIZER_FILES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from neuronbert.shapes import StaticShape


_SETTINGS: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_VOCABULARIES: Final = tuple(name for name in TOKENIZER_FILES if name not in _SETTINGS)
"""The files that hold a vocabulary: without one of them the others make no tokenizer."""


def load(path: Path) -> Any | None:
    """The tokenizer in a folder, or None if there is none.

    Raises:
        TokenizerError: there is one, and it can't be loaded.
    """
    if not any((path / name).is_file() for name in _VOCABULARIES):
        return None
    from transformers import AutoTokenizer  # noqa: PLC0415  a second of imports that tensors alone don't need

    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # it reads config.json as well, and fails on that in ways of its own
        raise TokenizerError(path, first_line(error)) from error


def require(path: Path) -> Any:
    """The tokenizer in a folder.

    Raises:
        NoTokenizerError: there is none.
    """
    tokenizer = load(path)
    if tokenizer is None:
        raise NoTokenizerError(path)
    return tokenizer


def fill(tokenizer: Any, texts: Sequence[str], shape: StaticShape) -> dict[str, Tensor]:
    """Texts, repeated or cut to the rows of a static shape, padded to the longest of them."""
    rows = shape.batch_size * (shape.num_choices or 1)
    chosen = [texts[index % len(texts)] for index in range(rows)]
    encoded = tokenizer(chosen, padding=True, truncation=True, max_length=shape.sequence_length, return_tensors="pt")
    return {name: tensor.view(*shape.dims[:-1], -1) for name, tensor in encoded.items()}
