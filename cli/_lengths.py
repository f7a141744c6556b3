"""The options that say which tokens go on from layer to layer."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronbert.adaptive.configuration import parse, scale, spell
from neuronbert.errors import InvalidOptionError, MissingOptionError

from . import _output

if TYPE_CHECKING:
    from neuronbert import ExportSpec

_PANEL = "Dropping tokens (BERT and RoBERTa)"
_ALL = "all"

LengthConfig = Annotated[
    str | None,
    typer.Option(
        help='Tokens that each layer keeps of the longest row, as in "(96, 80, 64, 48, 40, 32)"; all to drop none.',
        show_default="what config.json says, or all",
        metavar="TUPLE",
        rich_help_panel=_PANEL,
    ),
]
Speedup = Annotated[
    float | None,
    typer.Option(
        help="Take the best of a search that is so many times cheaper than full length, as in 2.0: in multiply-adds, "
        "or in time if it was searched with --cost latency.",
        rich_help_panel=_PANEL,
    ),
]
SearchResult = Annotated[
    Path | None, typer.Option(help="What search-lengths found: its front.json.", rich_help_panel=_PANEL)
]
LayerConfig = Annotated[
    str | None,
    typer.Option(
        help='The layers that are run, as in "(0, 2, 4)".',
        show_default="what config.json says, or all",
        metavar="TUPLE",
        rich_help_panel=_PANEL,
    ),
]
KeepFirst = Annotated[
    bool | None,
    typer.Option(
        "--always-keep-cls-token/--no-always-keep-cls-token",
        help="Never drop the first token.",
        show_default="yes, but for question answering",
        rich_help_panel=_PANEL,
    ),
]
SelectionOption = Annotated[
    str | None,
    typer.Option(
        help="How tokens are moved: gather, or one-hot where moving by index is a risk.",
        show_default="gather",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class Asked:
    """What is said of lengths, before the shapes are known that they are for.

    Attributes:
        lengths: A configuration; () for all tokens, None if nothing is said.
        made_for: The length of the rows that it was found for; None if it is for the longest shape's.
    """

    lengths: tuple[int, ...] | None
    made_for: int | None = None

    @classmethod
    def of(cls, literal: str | None, speedup: float | None, search: Path | None, options: dict[str, Any]) -> "Asked":
        """The configuration of a literal, of a search, or of a recipe, out of whose options it is taken."""
        recipe = options.pop("length_config", None)
        if speedup is None:
            if search is not None:
                raise MissingOptionError("--speedup", f"--speedup 2.0 --search {search}")
            return cls(recipe if literal is None else numbers("length_config", literal))
        if literal is not None:
            raise InvalidOptionError("--length-config", literal, "left out with --speedup, which takes one of a search")
        if not 1 <= speedup < math.inf:
            raise InvalidOptionError("--speedup", speedup, "a finite number of at least 1")
        if search is None:
            raise MissingOptionError("--search", f"--speedup {speedup} --search found/front.json")
        from neuronbert.adaptive.search import read_front

        front = read_front(search)
        point = front.at_least(speedup)
        _output.note(
            f"{spell(point.length_config)}: {point.speedup:.2f} x, {front.plan.metric} {point.score:.4f} "
            f"({front.full.score:.4f} at full length), found for {front.plan.model}"
        )
        return cls(point.length_config, front.plan.sequence_length)

    def applied(self, spec: "ExportSpec") -> "ExportSpec":
        """A spec with what is said, for its own shapes."""
        lengths = self.lengths
        if lengths and self.made_for is not None:
            lengths = scale(lengths, self.made_for, spec.longest)
        return replace(spec, length_config=lengths) if lengths is not None else spec


def options(layer_config: str | None, always_keep_cls_token: bool | None, selection: str | None) -> dict[str, Any]:
    """The fields of a spec that don't depend on its shapes."""
    return {
        "layer_config": None if layer_config is None else numbers("layer_config", layer_config),
        "always_keep_cls_token": always_keep_cls_token,
        "selection": selection,
    }


def numbers(name: str, text: str) -> tuple[int, ...]:
    """The numbers of a literal; none of them for "all"."""
    return () if text.strip() == _ALL else parse(name, text)
