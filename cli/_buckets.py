"""Static shapes from what the command line says of them, and the figures of those that were chosen."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from neuronbert.errors import InvalidOptionError, InvalidShapeError

from . import _output

if TYPE_CHECKING:
    from neuronbert import Buckets, ExportSpec, Lengths

_SIZES = ("batch_sizes", "sequence_lengths", "num_choices")
"""The options of a recipe that shapes are made of; or "buckets", in their place."""
_MOST = 5


@dataclass(frozen=True)
class Sample:
    """What the user says of the texts that buckets are chosen for.

    Attributes:
        texts: A file, or "-".
        most: How many buckets to choose at most; None for the default.
        longest: How long a row may be; None for the sample's longest.
    """

    texts: str
    most: int | None
    longest: int | None

    @classmethod
    def of(cls, texts: str | None, most: int | None, sizes: dict[str, Any]) -> "Sample | None":
        """The sample, if there is one; from the sizes it takes the length, which is the longest row's then."""
        if texts is None:
            if most is not None:
                raise InvalidOptionError("--max-buckets", most, "used with --buckets-from")
            return None
        if "buckets" in sizes:
            raise InvalidOptionError("--bucket", sizes["buckets"][0].name, "used without --buckets-from")
        lengths = sizes.pop("sequence_lengths", (None,))
        sizes["sequence_lengths"] = (1,)  # until they are chosen
        if len(lengths) > 1:
            expected = "one number with --buckets-from: how many tokens the longest text may have"
            raise InvalidShapeError("--sequence-length", ",".join(map(str, lengths)), expected)
        return cls(texts, most, lengths[0])


@dataclass(frozen=True)
class Choice:
    """Buckets, and what they were chosen by.

    Attributes:
        spec: With the shapes that suit the sample.
        sample: What the user says of it.
        lengths: Those of its rows.
        chosen: The buckets.
        powers: What powers of two would do.
    """

    spec: "ExportSpec"
    sample: Sample
    lengths: "Lengths"
    chosen: "Buckets"
    powers: "Buckets"

    def show(self) -> None:
        """Print the figures: a table, and what is saved."""
        chosen, powers, lengths = self.chosen, self.powers, self.lengths
        rows = [
            [
                f"{bucket.batch_size}x{bucket.sequence_length}",
                str(bucket.rows),
                str(bucket.calls),
                _share(bucket.padding),
            ]
            for bucket in chosen.buckets
        ]
        _output.table(["bucket", "rows", "calls", "padding"], rows)
        cut = f", {lengths.cut} of them cut at {lengths.limit} tokens" if lengths.cut else ""
        _output.data(f"{lengths.rows} rows{cut}: {_share(chosen.padding)} of what is computed is padding")
        listed = ", ".join(map(str, powers.lengths))
        saved = f"{_less(chosen.program_tokens, powers.program_tokens)} tokens"
        saved += f" and {_less(chosen.cost, powers.cost)} operations"
        _output.data(f"powers of two ({listed}): {_share(powers.padding)}; against them {saved}")
        if self.sample.longest is None and lengths.longest < lengths.limit:
            _output.note(
                f"Texts of more than {lengths.longest} tokens, the sample's longest, will not fit. "
                f"To take longer ones: --sequence-length {lengths.limit}"
            )

    def as_json(self) -> dict[str, Any]:
        """The same figures as data."""
        head = {"rows": self.lengths.rows, "cut": self.lengths.cut, "limit": self.lengths.limit}
        return {**head, "chosen": _figures(self.chosen), "powers_of_two": _figures(self.powers)}


def choose(sample: Sample, draft: "ExportSpec", token: str | None, progress: Callable[[str], None]) -> Choice:
    """The buckets that suit a sample, for a spec whose own shapes say the batch sizes and the choices."""
    from neuronbert import choose_buckets, count_lengths
    from neuronbert.buckets import measure, powers_of_two
    from neuronbert.spec import shapes_of

    lengths = count_lengths(draft, sample.texts, token=token, progress=progress)
    if sample.longest is not None:
        lengths = lengths.up_to(sample.longest)
    batch_sizes = tuple(shape.batch_size for shape in draft.shapes)
    how: Any = {"batch_size": max(batch_sizes), "cost": lengths.cost}
    chosen = choose_buckets(lengths.counts, _MOST if sample.most is None else sample.most, **how)
    powers = measure(lengths.counts, powers_of_two(lengths.counts, lengths.limit), **how)
    shapes = shapes_of(batch_sizes, chosen.lengths, draft.shapes[0].num_choices)
    return Choice(replace(draft, shapes=shapes), sample, lengths, chosen, powers)


def merged(options: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """A recipe's options with sizes that were given: these win, and buckets are no product of sizes."""
    replaced = _SIZES if "buckets" in sizes else ("buckets",) if sizes else ()
    return {name: value for name, value in options.items() if name not in replaced} | sizes


def shapes(options: dict[str, Any]) -> Any:
    """The shapes that options ask for, which are taken out of them."""
    from neuronbert.spec import shapes_of

    return shapes_of(**{name: options.pop(name) for name in (*_SIZES, "buckets") if name in options})


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _less(value: float, other: float) -> str:
    change = 100 * (1 - value / other)
    return f"{abs(change):.1f} % {'fewer' if change >= 0 else 'more'}"


def _figures(buckets: "Buckets") -> dict[str, Any]:
    rows = [{**asdict(bucket), "calls": bucket.calls, "padding": bucket.padding} for bucket in buckets.buckets]
    sums = {"program_tokens": buckets.program_tokens, "padding": buckets.padding, "operations": buckets.cost}
    return {"buckets": rows, **sums}
