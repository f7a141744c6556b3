"""A YAML file to plain data, whatever is in the file.

Owns: what of YAML is taken: one document of scalars, lists and mappings, without tags, no key twice, aliases as far
as they stay small. Knows nothing of matrices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES: Final = 256 << 10
_MAX_VALUES: Final = 20_000
"""Values after every alias is written out: a few lines of aliases of aliases make billions."""
_TOO_LARGE: Final = f"it has more than {_MAX_BYTES} bytes"
_TOO_MANY: Final = f"it stands for more than {_MAX_VALUES} values"
_TOO_DEEP: Final = "it is nested too deeply"
_EMPTY: Final = "it is empty"
_NOT_YAML: Final = "it is not YAML"
_NO_WORD: Final = "a key must be a word"
_MERGE: Final = "tag:yaml.org,2002:merge"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


class DocumentError(Exception):
    """The text isn't YAML that is taken; the message says why and where. The expansion module words it for the user."""

    def __init__(self, problem: str, mark: yaml.Mark | None = None) -> None:
        super().__init__(problem if mark is None else f"line {mark.line + 1}: {problem}")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without tags, and with dates left as they are written."""

    yaml_implicit_resolvers = {  # noqa: RUF012  the parent's own name and type
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # A tag chooses how a value is made; some of the safe ones raise whatever Python raises on a wrong value.
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem=f"the tag {event.tag} is not taken", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def read(path: Path) -> Any:
    """The document in a file.

    Raises:
        DocumentError: it is too large, isn't YAML, or holds what isn't taken.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise DocumentError(_TOO_LARGE)
    try:
        return _load(content)
    except yaml.MarkedYAMLError as error:
        raise DocumentError(error.problem or _NOT_YAML, error.problem_mark) from error
    except RecursionError as error:
        raise DocumentError(_TOO_DEEP) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problem = f"{_NOT_YAML} ({' '.join(str(error).split())})"
        raise DocumentError(problem) from error


def _load(content: bytes) -> Any:
    loader = _Loader(content)
    node = loader.get_single_node()
    if node is None:
        raise DocumentError(_EMPTY)
    _check(node, {})
    return loader.construct_document(node)


def _check(node: yaml.Node, weights: dict[int, float]) -> float:
    """How many values a node stands for once its aliases are written out; refuses too many, and keys given twice."""
    if id(node) in weights:
        return weights[id(node)]
    weights[id(node)] = math.inf  # until it is known: a node that is met inside itself has no end
    weight = 1.0
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        weight += sum(_check(key, weights) + _check(value, weights) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        weight += sum(_check(item, weights) for item in node.value)
    if weight > _MAX_VALUES:
        raise DocumentError(_TOO_MANY, node.start_mark)
    weights[id(node)] = weight
    return weight


def _check_keys(node: yaml.MappingNode) -> None:
    names = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise DocumentError(_NO_WORD, key.start_mark)
        if key.value in names and key.tag != _MERGE:
            problem = f"the key {key.value!r} is given twice"
            raise DocumentError(problem, key.start_mark)
        names.add(key.value)
