"""What one export makes.

Owns: ExportSpec, its fingerprint, and the names of the auto-cast modes. Knows nothing of torch or files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from neuronbert.adaptive.configuration import SELECTIONS, Selection, are_numbers, check_lengths_fit
from neuronbert.errors import InvalidOptionError, InvalidShapeError
from neuronbert.provenance import digest
from neuronbert.shapes import StaticShape
from neuronbert.targets import LogicalCores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronbert.adaptive.keeping import Keeping

AutoCast = Literal["none", "matmul", "all"]
AutoCastType = Literal["bf16", "fp16", "tf32", "fp8_e4m3"]
Method = Literal["qdq", "ibert"]
"""Of quantization. What each does is in quantization/methods.py."""
Quantization = Literal["auto", "none", Method]
AUTO_CASTS: Final[tuple[AutoCast, ...]] = get_args(AutoCast)
OptLevel = Literal["1", "2", "3"]
AUTO_CAST_TYPES: Final[tuple[AutoCastType, ...]] = get_args(AutoCastType)
OPT_LEVELS: Final[tuple[OptLevel, ...]] = get_args(OptLevel)
METHODS: Final[tuple[Method, ...]] = get_args(Method)
QUANTIZATIONS: Final[tuple[Quantization, ...]] = get_args(Quantization)
LOGICAL_CORES: Final[tuple[LogicalCores, ...]] = get_args(LogicalCores)

_ALLOWED: Final = {
    "auto_cast": AUTO_CASTS,
    "auto_cast_type": AUTO_CAST_TYPES,
    "optlevel": OPT_LEVELS,
    "selection": SELECTIONS,
    "quantization": QUANTIZATIONS,
}
TARGET_OPTIONS: Final = (
    "optlevel",
    "lnc",
    "compiler_args",
    "inline_weights",
    "lazy_load",
    "async_load",
    "compiler_workdir",
)
"""The fields that only some targets have."""
_ELSEWHERE: Final = ("model", "revision", "compiler_workdir")
"""The fields that don't change the program: what they stand for is in the weights' digest, or is only a place."""
_WORDS: Final = "a tuple of words without white space, as in ('--verbose', 'info')"
_OPTIONS: Final = (
    "target",
    "auto_cast",
    "auto_cast_type",
    "quantization",
    "allow_random_weights",
    "dynamic_batch",
    *TARGET_OPTIONS,
)
_SYNONYMS: Final = {
    "instance_type": "target",
    "dynamic_batch_size": "dynamic_batch",
    "inline_weights_to_neff": "inline_weights",
}
"""optimum-neuron's names for options of ours."""


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """What one export makes: everything that decides the program.

    Attributes:
        model: A local checkpoint folder or a Hub id.
        shapes: The static shapes to compile, one program each, over one set of weights.
        task: The head's task (or a synonym that optimum knows); "auto" reads it off the checkpoint.
        revision: Branch, tag or commit of a Hub id.
        target: What to compile for: "cpu", or "auto" for the best that this machine has.
        auto_cast: Which operations are lowered to `auto_cast_type`: "none", "matmul" or "all".
        auto_cast_type: "bf16", "fp16", "tf32" or "fp8_e4m3".
        quantization: "qdq" or "ibert" for a checkpoint that is quantized so, "none" for it in float all the same;
            "auto" for what it is.
        allow_random_weights: Initialise head weights that the checkpoint lacks, in place of refusing.
        dynamic_batch: The programs take any number of rows: they split and pad them into calls of the compiled size.
        optlevel: The Neuron compiler's effort: "1", "2" (its default) or "3".
        lnc: Physical NeuronCores to a logical one, 1 or 2, on Trn2 and Trn3; None for the target's own.
        compiler_args: More flags for the Neuron compiler, passed as they are; they win over the ones set here.
        inline_weights: Keep the weights inside the NEFF; if not, they can be replaced after loading.
        lazy_load: Put the program on the device at its first call.
        async_load: Put the program on the device in the background.
        compiler_workdir: Where to keep what the Neuron compiler leaves; None to remove it.
        length_config: Tokens that each layer keeps of the longest shape's rows, and scaled of those of others; None for
            what config.json says, () for all.
        layer_config: The layers that are run; None for what config.json says, () for all.
        always_keep_cls_token: Keep the first token in any case; None for what config.json says, or what suits the task.
        selection: How tokens are moved: "gather", or "one-hot" where moving by index is a risk.

    Raises:
        InvalidOptionError: an option has a value that it can't take.
        InvalidShapeError: there is no shape, or one is given twice.
    """

    model: str
    shapes: tuple[StaticShape, ...]
    task: str = "auto"
    revision: str | None = None
    target: str = "auto"
    auto_cast: AutoCast = "matmul"
    auto_cast_type: AutoCastType = "bf16"
    quantization: Quantization = "auto"
    allow_random_weights: bool = False
    dynamic_batch: bool = False
    optlevel: OptLevel = "2"
    lnc: LogicalCores | None = None
    compiler_args: tuple[str, ...] = ()
    inline_weights: bool = True
    lazy_load: bool = False
    async_load: bool = False
    compiler_workdir: str | None = None
    length_config: tuple[int, ...] | None = None
    layer_config: tuple[int, ...] | None = None
    always_keep_cls_token: bool | None = None
    selection: Selection = "gather"

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidOptionError("model", self.model, "a checkpoint folder or a Hub id")
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise InvalidOptionError(name, getattr(self, name), "one of " + ", ".join(map(repr, allowed)))
        if self.lnc is not None and not _is_one_of(self.lnc, LOGICAL_CORES):
            raise InvalidOptionError("lnc", self.lnc, "1 or 2")
        if not _are_words(self.compiler_args):
            raise InvalidOptionError("compiler_args", self.compiler_args, _WORDS)
        if not self.shapes or len(set(self.shapes)) != len(self.shapes):
            names = [shape.name for shape in self.shapes]
            raise InvalidShapeError("shapes", names, "at least one, and each only once")
        self._check_lengths()

    def _check_lengths(self) -> None:
        if self.length_config is not None and self.length_config != ():
            check_lengths_fit(self.length_config, [shape.sequence_length for shape in self.shapes])
        if self.layer_config is not None and self.layer_config != () and not are_numbers(self.layer_config):
            raise InvalidOptionError("layer_config", self.layer_config, "layers by number, as in (0, 2, 4)")
        if self.always_keep_cls_token is not None and not isinstance(self.always_keep_cls_token, bool):
            raise InvalidOptionError("always_keep_cls_token", self.always_keep_cls_token, "True, False or None")

    @property
    def longest(self) -> int:
        """The tokens of a row of the longest shape."""
        return max(shape.sequence_length for shape in self.shapes)

    def fingerprint(self) -> str:
        """The sha256 of every field that changes the program; of the same weights, equal ones make equal programs.

        `task`, `target` and `quantization` are taken as they stand, so "auto" should be resolved first.
        """
        body = {name: value for name, value in asdict(self).items() if name not in _ELSEWHERE}
        return digest(body)

    def keeping(self, task: str, config: Mapping[str, Any]) -> Keeping | None:
        """Which tokens go on from layer to layer in the programs of a checkpoint; None if all go through all layers.

        Args:
            task: The head's.
            config: The checkpoint's config.json.

        Raises:
            InvalidOptionError: what is asked for isn't one of the model.
            UnsupportedModelError: the model has other layers than BERT's.
            UnsupportedFeatureError: it is a decoder.
        """
        from neuronbert.adaptive.keeping import Keeping  # noqa: PLC0415  pydantic, which a spec alone doesn't need

        names = ("length_config", "layer_config", "always_keep_cls_token", "selection")
        given = {name: getattr(self, name) for name in names}
        return Keeping.of(task, config, sequence_length=self.longest, **given)

    def target_options(self) -> dict[str, object]:
        """The options that only some targets have, where they differ from their defaults."""
        defaults = {item.name: item.default for item in fields(self)}
        given = {name: getattr(self, name) for name in TARGET_OPTIONS}
        return {name: value for name, value in given.items() if value != defaults[name]}


def _is_one_of(value: object, allowed: tuple[int, ...]) -> bool:
    return type(value) is int and value in allowed  # True is 1, but says something else


def _are_words(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(word, str) and word.split() == [word] for word in value)


def shapes_of(
    batch_sizes: tuple[int, ...] = (1,),
    sequence_lengths: tuple[int, ...] = (128,),
    num_choices: int | None = None,
    buckets: tuple[StaticShape, ...] = (),
) -> tuple[StaticShape, ...]:
    """Every batch size with every sequence length, smallest program first; or, in their place, given shapes."""
    shapes = set(buckets) or {StaticShape(b, s, num_choices) for b in batch_sizes for s in sequence_lengths}
    return tuple(sorted(shapes, key=StaticShape.order))


def from_options(model: str, revision: str | None, task: str | None, options: Mapping[str, Any]) -> ExportSpec:
    """What the arguments of a `from_pretrained` ask for.

    Args:
        model: A local checkpoint folder or a Hub id.
        revision: Of a Hub id.
        task: The only one that may be asked for, if there is one.
        options: batch_size (1), sequence_length (128), num_choices, task, and fields of ExportSpec by our names or
            optimum-neuron's.

    Raises:
        InvalidOptionError: there is no such option, or it can't be had.
        InvalidShapeError: there is no such shape.
    """
    given = {_SYNONYMS.get(name, name): value for name, value in options.items()}
    shape = StaticShape(given.pop("batch_size", 1), given.pop("sequence_length", 128), given.pop("num_choices", None))
    asked = given.pop("task", None)
    if task is not None and asked not in (None, task):
        raise InvalidOptionError("task", asked, f"{task}, or left out")
    unknown = [name for name in given if name not in _OPTIONS]
    if unknown:
        raise InvalidOptionError(unknown[0], given[unknown[0]], "left out: there is no such option")
    return ExportSpec(model=model, shapes=(shape,), task=task or asked or "auto", revision=revision, **given)
