"""What the Neuron compiler is documented to refuse, as far as a program shows it before it is compiled.

Owns: one rule for each such error, and those for what goes wrong without one. Source: the pages of error codes in the
SDK's documentation (compiler/error-codes); docs/preflight.md lists every one of them, with its rule or the reason why
there is none. The rules prove nothing: a program that breaks none of them may be refused all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuronbert.preflight import patterns
from neuronbert.preflight.patterns import INTEGERS_32, INTEGERS_64, NARROW_INTEGERS, calling, each, of_type, taking

if TYPE_CHECKING:
    from neuronbert.preflight.patterns import Case, Pattern

_DOCS: Final = "https://awsdocs-neuron.readthedocs-hosted.com/en/latest/"
_CODES: Final = "compiler/error-codes/"
_TYPES: Final = "about-neuron/arch/neuron-features/data-types.html"
_TRACE: Final = "archive/frameworks/torch/inference-torch-neuronx.html"
_TO_FLOAT: Final = "Cast to float32 or bfloat16 before it"


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that a program shouldn't hold.

    Attributes:
        code: Its error code; a name of our own where there is none.
        checks: What it is about, in a few words.
        pattern: Says what breaks it.
        fix: What to do then.
        also: Other codes that stand for the same.
        page: Where it is documented, if not on the page of its code.
        refused: The compiler is documented to refuse it; otherwise it goes wrong in another way.
    """

    code: str
    checks: str
    pattern: Pattern
    fix: str
    also: tuple[str, ...] = ()
    page: str = ""
    refused: bool = True

    @property
    def address(self) -> str:
        """The address of the page."""
        return _DOCS + (self.page or f"{_CODES}{self.code.removeprefix('NCC_')}.html")


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a program breaks.

    Attributes:
        code: The rule's code.
        program: The static shape of the program.
        graph: What it was found in: "torch" or "hlo".
        problem: What breaks it.
        fix: What to do.
        page: Where it is documented.
        refused: The compiler is documented to refuse it.
    """

    code: str
    program: str
    graph: str
    problem: str
    fix: str
    page: str
    refused: bool


RULES: Final = (
    Rule("NCC_EARG001", "lnc of the target", patterns.logical_cores, "Leave out --lnc, or use --lnc 1"),
    Rule(
        "NCC_EMOD025",
        "static shapes",
        each(patterns.dynamic),
        "Compute with masks in place of selecting values",
    ),
    Rule(
        "NCC_EOOM001",
        "device memory (an estimate)",
        patterns.memory,
        "Use a smaller --batch-size or --sequence-length, or fewer shapes",
        also=("NCC_EOOM002", "NCC_EVRF009", "NCC_EXSP001"),
    ),
    Rule("NCC_ESFH002", "64-bit unsigned constants", each(patterns.unsigned_constant), "Use uint32"),
    Rule(
        "NCC_ESPP004",
        "types that no core has",
        of_type("float64", "float4_e2m1fn", "float4_e2m1fn_x2", "qint8", "quint8", "qint32", "quint4x2", "quint2x4"),
        "Use float32 or bfloat16",
    ),
    Rule("NCC_ESPP047", "8-bit floats that no core has", of_type("float8_e8m0fnu"), "Use float16 or bfloat16"),
    Rule(
        "NCC_EVRF001",
        "operators that aren't supported",
        calling("aten.triangular_solve", "aten.linalg_solve_triangular", "hlo.triangular-solve"),
        "Multiply by the inverse",
        also=("NCC_EUOC002",),
    ),
    Rule(
        "NCC_EVRF004",
        "complex numbers",
        of_type("complex32", "complex64", "complex128"),
        "Compute real and imaginary parts on their own",
    ),
    Rule(
        "NCC_EVRF005",
        "8-bit floats of other vendors",
        of_type("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz"),
        "Use float16 or bfloat16",
    ),
    Rule("NCC_EVRF006", "generators of random numbers", each(patterns.generator), "Use torch's own random functions"),
    Rule("NCC_EVRF010", "dilation of input and kernel", each(patterns.convolution), "Dilate only one of both"),
    Rule("NCC_EVRF011", "dilation of input with strides", each(patterns.strided_convolution), "Do one after the other"),
    Rule(
        "NCC_EVRF013",
        "top-k of integers",
        taking({"aten.topk", "hlo.topk"}, INTEGERS_32 | INTEGERS_64),
        _TO_FLOAT,
    ),
    Rule(
        "NCC_EVRF015",
        "custom calls",
        each(patterns.custom_call),
        "Use an operator that lowers to HLO itself",
        also=("NCC_EHCA005",),
    ),
    Rule(
        "NCC_EVRF016",
        "scatter-reduce of integers",
        taking({"aten.scatter_reduce"}, NARROW_INTEGERS | INTEGERS_32 | INTEGERS_64),
        _TO_FLOAT,
    ),
    Rule("NCC_EVRF017", "pooling of a dilated input", each(patterns.pool_input), "Dilate it before pooling"),
    Rule("NCC_EVRF018", "pooling with a dilated window", each(patterns.pool_window), "Use a window without holes"),
    Rule("NCC_EVRF019", "pooling of several tensors", each(patterns.pool_operands), "Pool them one by one"),
    Rule("NCC_EVRF022", "shifts of other than 32 bits", each(patterns.shift), "Cast to int32 before it"),
    Rule("NCC_EVRF031", "scatter beyond the end", each(patterns.scatter_outside), "Use indices that exist"),
    Rule(
        "NCC_EVRF035",
        "matrix products of integers",
        each(patterns.integer_dot),
        f"{_TO_FLOAT}, or allow rounding with --implicit-integer-downcast=dot",
    ),
    Rule(
        "NCC_EVRF051",
        "float8_e4m3fn before Trn3",
        of_type("float8_e4m3fn", before_core=4),
        "Use bfloat16, or --target trn3",
    ),
    Rule("NCC_EVRF056", "enough positions", patterns.positions, "Use a shorter --sequence-length"),
    Rule("NCC_EVRF056", "gather beyond the end", each(patterns.gather_outside), "Use indices that exist"),
    Rule(
        "NCC_EVRF060",
        "scatter that combines integers",
        each(patterns.integer_scatter),
        f"{_TO_FLOAT}, or allow rounding with --implicit-integer-downcast=scatter",
    ),
    Rule(
        "NCC_EVRF061",
        "all-reduce of integers",
        taking({"_c10d_functional.all_reduce", "hlo.all-reduce"}, INTEGERS_32 | INTEGERS_64),
        _TO_FLOAT,
    ),
    Rule("NCC_EVRF062", "powers of 64-bit integers", taking({"aten.pow", "hlo.power"}, {"int64"}), "Cast to int32"),
    Rule(
        "NCC_EVRF063",
        "reduce-scatter of integers",
        taking({"_c10d_functional.reduce_scatter_tensor", "hlo.reduce-scatter"}, INTEGERS_32 | INTEGERS_64),
        _TO_FLOAT,
    ),
    Rule(
        "sort",
        "sorting (NCC_EVRF029, which users have reported of Trn2)",
        calling("aten.sort", "aten.argsort", "aten.msort", "hlo.sort"),
        "Sort on the host",
        page=f"{_CODES}index.html",
        refused=False,
    ),
    Rule(
        "int64",
        "64-bit constants, which are cut to 32 bits",
        each(patterns.signed_constant),
        "Use a constant that int32 holds",
        page=_TYPES,
        refused=False,
    ),
    Rule(
        "random",
        "random numbers",
        each(patterns.random),
        "Put the model into eval mode",
        page=_TRACE,
        refused=False,
    ),
    Rule(
        "control-flow",
        "decisions by what an example holds",
        each(patterns.host_read),
        "Compute with masks in place of branches",
        page=_TRACE,
        refused=False,
    ),
    Rule(
        "trace",
        "tracing to the end",
        patterns.stopped,
        "Run the model on the CPU to see why",
        page=_TRACE,
        refused=False,
    ),
)


def findings(case: Case, program: str, graph: str) -> tuple[Finding, ...]:
    """What a case breaks, each problem once, in the order of the rules.

    Args:
        case: The program and its target.
        program: What to call the program.
        graph: What to call the graph: "torch" or "hlo".
    """
    found = [
        Finding(rule.code, program, graph, problem, rule.fix, rule.address, rule.refused)
        for rule in RULES
        for problem in dict.fromkeys(rule.pattern(case))
    ]
    # A trace that stopped where another rule says why needs no second explanation.
    explained = any(finding.code != "trace" for finding in found)
    return tuple(finding for finding in found if finding.code != "trace" or not explained)
