"""Every rule, broken by a small module or a piece of HLO as the SDK's page of its code describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from neuronbert.architectures import TASKS
from neuronbert.checkpoint import Checkpoint
from neuronbert.inputs import example
from neuronbert.modeling import load
from neuronbert.preflight import hlo
from neuronbert.preflight.graphs import Graph, Op, Value
from neuronbert.preflight.patterns import Case
from neuronbert.preflight.recording import record
from neuronbert.preflight.rules import RULES, findings
from neuronbert.shapes import StaticShape
from neuronbert.targets import GIB, TARGETS

FLOATS = torch.linspace(-1, 1, 12).view(3, 4)
INTS = torch.arange(12, dtype=torch.int32).view(3, 4)
LONGS = INTS.long()
SHORTS = INTS.short()
SQUARE = torch.eye(4, dtype=torch.int32)
IMAGE = torch.ones(1, 1, 8, 8)
UNSIGNED = torch.ones(3, dtype=torch.uint64)


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._function(*inputs)


@dataclass
class Broken:
    """Something that breaks one rule.

    Attributes:
        code: The rule.
        function: What to trace.
        inputs: With what.
        target: For what.
        allowed: Targets where it is fine.
    """

    code: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...] = (FLOATS,)
    target: str = "trn2"
    allowed: tuple[str, ...] = field(default=())


def embed(x: Tensor) -> Tensor:
    return torch.nn.functional.embedding(torch.arange(10), x)


def write_beyond(x: Tensor) -> Tensor:
    return x.scatter(0, torch.full((1, 4), 3), x[:1])


def branch(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def fail(x: Tensor) -> Tensor:
    raise NotImplementedError


def in_place(x: Tensor) -> Tensor:
    return x.clone().scatter_add_(0, torch.zeros(1, 4, dtype=torch.int64), x[:1])


BROKEN = (
    Broken("NCC_EMOD025", torch.nonzero),
    Broken("NCC_EMOD025", lambda x: torch.masked_select(x, x > 0)),
    Broken("NCC_EMOD025", lambda x: x[x > 0]),
    Broken("NCC_EMOD025", lambda x: torch.unique_consecutive(x)),
    Broken("NCC_ESFH002", lambda x: x + torch.full((3,), 5_000_000_000, dtype=torch.uint64), (UNSIGNED,)),
    Broken("NCC_ESPP004", lambda x: x.double() * 2),
    Broken("NCC_ESPP047", lambda x: x.to(torch.float8_e8m0fnu)),
    Broken("NCC_EVRF001", lambda a, b: torch.triangular_solve(b, a)[0], (torch.eye(3), FLOATS)),
    Broken("NCC_EVRF001", lambda a, b: torch.linalg.solve_triangular(a, b, upper=True), (torch.eye(3), FLOATS)),
    Broken("NCC_EVRF004", lambda x: torch.fft.fft(x).real),
    Broken("NCC_EVRF005", lambda x: x.to(torch.float8_e4m3fnuz)),
    Broken("NCC_EVRF005", lambda x: x.to(torch.float8_e5m2fnuz)),
    Broken(
        "NCC_EVRF010",
        lambda x: torch.nn.functional.conv_transpose2d(x, torch.ones(1, 1, 3, 3), stride=2, dilation=2),
        (IMAGE,),
    ),
    Broken("NCC_EVRF013", lambda x: torch.topk(x, 2)[0], (INTS,)),
    Broken("NCC_EVRF016", lambda x: x.scatter_reduce(0, torch.zeros_like(x).long(), x, "sum"), (INTS,)),
    Broken("NCC_EVRF018", lambda x: torch.nn.functional.max_pool2d(x, 2, dilation=2), (IMAGE,)),
    Broken("NCC_EVRF022", lambda x: torch.bitwise_right_shift(x, 1), (SHORTS,)),
    Broken("NCC_EVRF022", lambda x: x >> 1, (SHORTS,)),
    Broken("NCC_EVRF031", write_beyond),
    Broken("NCC_EVRF035", torch.matmul, (INTS, SQUARE), allowed=("inf2", "trn1", "trn1n")),
    Broken("NCC_EVRF035", torch.matmul, (LONGS, SQUARE.long()), target="inf2"),
    Broken("NCC_EVRF051", lambda x: x.to(torch.float8_e4m3fn), allowed=("trn3",)),
    Broken("NCC_EVRF051", lambda x: x.to(torch.float8_e4m3fn), target="inf2"),
    Broken("NCC_EVRF056", embed),
    Broken("NCC_EVRF056", lambda x: x.index_select(1, torch.tensor([0, 4]))),
    Broken("NCC_EVRF056", lambda x: x[torch.tensor([0, 3])]),
    Broken("NCC_EVRF056", lambda x: x[:, torch.tensor([[0], [4]])]),
    Broken("NCC_EVRF056", lambda x: x[:, torch.tensor([-5])]),
    Broken("NCC_EVRF031", lambda x: x.index_put((torch.tensor([3]),), x[0])),
    Broken("NCC_EVRF060", lambda x: x.scatter_add(0, torch.zeros(1, 4, dtype=torch.int64), x[:1]), (INTS,)),
    Broken("NCC_EVRF060", in_place, (INTS,)),
    Broken("NCC_EVRF060", lambda x: x.index_add(0, torch.tensor([1]), x[:1]), (LONGS,)),
    Broken("NCC_EVRF062", lambda x: x**3, (LONGS,)),
    Broken("sort", lambda x: torch.sort(x)[0]),
    Broken("int64", lambda x: x + 5_000_000_000, (LONGS,)),
    Broken("int64", lambda x: x + torch.tensor(-5_000_000_000), (LONGS,)),
    Broken("random", lambda x: torch.dropout(x, 0.1, train=True)),
    Broken("random", lambda x: x + torch.rand(4)),
    Broken("control-flow", branch),
    Broken("control-flow", lambda x: x * x[0, 0].item()),
    Broken("trace", fail),
)

MODULE = """HloModule IrToHlo.9

%adder.1 (a.2: s32[], b.3: s32[]) -> s32[] {
  %a.2 = s32[] parameter(0)
  %b.3 = s32[] parameter(1)
  ROOT %sum.4 = s32[] add(s32[] %a.2, s32[] %b.3)
}

%keeper.5 (a.6: s32[], b.7: s32[]) -> s32[] {
  %a.6 = s32[] parameter(0)
  ROOT %b.7 = s32[] parameter(1)
}

ENTRY %IrToHlo.9 (p0.1: f32[3,4]) -> (f32[3,4]) {
  %p0.1 = f32[3,4]{1,0} parameter(0)
%BODY%
}
"""
LONG_WINDOW = "window={size=1x3 stride=1x2 pad=0_0x2_2 lhs_dilate=1x2}"
IOTA = "%i.2 = s32[10] iota(), iota_dimension=0\n  "
HLO = (
    ("NCC_EMOD025", "%x.2 = f32[<=10,2]{1,0} reshape(f32[3,4]{1,0} %p0.1)"),
    ("NCC_ESPP004", "%x.2 = f64[3,4]{1,0} convert(f32[3,4]{1,0} %p0.1)"),
    ("NCC_EVRF001", "%x.2 = f32[3,4]{1,0} triangular-solve(f32[3,3]{1,0} %a, f32[3,4]{1,0} %p0.1), lower=true"),
    ("NCC_EVRF004", "%x.2 = c64[3,4]{1,0} fft(f32[3,4]{1,0} %p0.1), fft_type=FFT, fft_length={4}"),
    ("NCC_EVRF006", "%x.2 = (u64[2]{0}, u32[8]{0}) rng-bit-generator(u64[2]{0} %s), algorithm=rng_philox"),
    (
        "NCC_EVRF010",
        "%x.2 = f32[1,9] convolution(f32[1,4] %p0.1, f32[1,3] %k), window={size=3 lhs_dilate=2 rhs_dilate=2}",
    ),
    (
        "NCC_EVRF011",
        f"%x.2 = f32[1,9] convolution(f32[1,4] %p0.1, f32[1,3] %k), {LONG_WINDOW}, dim_labels=b0f_0io->b0f",
    ),
    ("NCC_EVRF015", '%x.2 = f32[3,4] custom-call(f32[3,4] %p0.1), custom_call_target="UNRECOGNIZED_TARGET"'),
    ("NCC_EVRF017", f"%x.2 = f32[1,9] reduce-window(f32[3,4] %p0.1, f32[] %z), {LONG_WINDOW}, to_apply=%adder.1"),
    (
        "NCC_EVRF018",
        "%x.2 = f32[1] reduce-window(f32[4] %p, f32[] %z), window={size=2 rhs_dilate=2}, to_apply=%adder.1",
    ),
    (
        "NCC_EVRF019",
        "%x.2 = (f32[3], s32[3]) reduce-window(f32[4] %p, s32[4] %i, f32[] %z, s32[] %j), window={size=2}, to_apply=%r",
    ),
    ("NCC_EVRF022", "%x.2 = s16[4] shift-right-arithmetic(s16[4] %p, s16[4] %q)"),
    (
        "NCC_EVRF031",
        IOTA + "%x.3 = f32[3,4] scatter(f32[3,4] %p0.1, s32[10] %i.2, f32[10,4] %u), to_apply=%keeper.5",
    ),
    (
        "NCC_EVRF035",
        "%x.2 = s32[3,3] dot(s32[3,4] %p, s32[4,3] %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
    ),
    (
        "NCC_EVRF056",
        IOTA + "%j.3 = s32[10,1] reshape(s32[10] %i.2)\n  %x.4 = f32[10,4] gather(f32[3,4] %p, s32[10,1] %j.3)",
    ),
    ("NCC_EVRF060", "%x.2 = s32[3] scatter(s32[3] %p, s32[1] %i, s32[1] %u), index_vector_dim=1, to_apply=%adder.1"),
    ("NCC_EVRF061", "%x.2 = s32[3] all-reduce(s32[3] %p), replica_groups={}, to_apply=%adder.1"),
    ("NCC_EVRF062", "%x.2 = s64[3] power(s64[3] %p, s64[3] %q)"),
    ("NCC_EVRF063", "%x.2 = s32[3] reduce-scatter(s32[6] %p), dimensions={0}, to_apply=%adder.1"),
    ("sort", "%x.2 = f32[4] sort(f32[4] %p), dimensions={0}, to_apply=%r"),
    ("int64", "%x.2 = s64[] constant(5000000000)"),
)


def codes(graph: Graph, target: str) -> set[str]:
    return {finding.code for finding in findings(Case(TARGETS[target], graph), "1x128", "torch")}


@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated:UserWarning")
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.code)
def test_a_module_breaks_the_one_rule(broken: Broken) -> None:
    graph = record(Calls(broken.function), broken.inputs)
    assert codes(graph, broken.target) == {broken.code}
    for target in broken.allowed:
        assert codes(graph, target) == set()


@pytest.mark.parametrize(("code", "body"), HLO)
def test_hlo_breaks_the_one_rule(code: str, body: str) -> None:
    assert codes(hlo.parse(MODULE.replace("%BODY%", "  " + body)), "trn2") == {code}


FINE = (
    "%x.2 = s32[3] scatter(s32[3] %p, s32[1] %i, s32[1] %u), index_vector_dim=1, to_apply=%keeper.5",
    '%x.2 = f32[3,4] custom-call(f32[3,4] %p0.1), custom_call_target="AwsNeuronSilu"',
    "%x.2 = (u64[2]{0}, u32[8]{0}) rng-bit-generator(u64[2]{0} %s), algorithm=rng_default",
    "%x.2 = f32[1] reduce-window(f32[4] %p, f32[] %z), window={size=2 stride=2}, to_apply=%adder.1",
    "%i.2 = s32[3] iota(), iota_dimension=0\n  %x.4 = f32[3,4] gather(f32[3,4] %p0.1, s32[3] %i.2), offset_dims={1}",
)


@pytest.mark.parametrize("body", FINE)
def test_what_the_compiler_takes_breaks_no_rule(body: str) -> None:
    assert codes(hlo.parse(MODULE.replace("%BODY%", "  " + body)), "trn2") == set()


def test_what_is_asked_of_the_target_breaks_the_one_rule() -> None:
    def found(target: str, **asked: object) -> set[str]:
        case = Case(TARGETS[target], Graph((), weights_bytes=9 * GIB), **asked)
        return {finding.code for finding in findings(case, "1x128", "torch")}

    assert found("inf2") == found("trn2", lnc=2) == found("trn1", lnc=1) == set()
    assert found("inf2", lnc=2) == found("trn1", lnc=2) == {"NCC_EARG001"}
    assert found("inf2", copies=2) == {"NCC_EOOM001"}
    assert found("trn2", copies=2) == set()
    assert found("inf2", sequence_length=65, positions=64) == {"NCC_EVRF056"}
    assert found("inf2", sequence_length=64, positions=64) == set()


def test_every_rule_is_broken_by_a_test() -> None:
    tested = {broken.code for broken in BROKEN} | {code for code, _ in HLO} | {"NCC_EARG001", "NCC_EOOM001"}
    assert tested == {rule.code for rule in RULES}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_heads_break_no_rule(graphs: Callable[[str], Graph], task: str, target: str) -> None:
    assert findings(Case(TARGETS[target], graphs(task), 32, 64), "2x32", "torch") == ()


@pytest.fixture(scope="module")
def graphs(tiny) -> Callable[[str], Graph]:
    held: dict[str, Graph] = {}

    def graph(task: str) -> Graph:
        if task not in held:
            loaded = load(Checkpoint.open(tiny(task)), task)
            shape = StaticShape(2, 32, 3 if task == "multiple-choice" else None)
            held[task] = record(loaded.head, example(loaded.inputs, shape))
        return held[task]

    return graph


def test_indices_that_exist_break_no_rule() -> None:
    inside = torch.tensor([-3, 0, 2])
    graph = record(Calls(lambda x: x[inside, 1:][:, torch.tensor([2, -3])].index_put((inside,), x[:, :2])), (FLOATS,))
    assert findings(Case(TARGETS["trn2"], graph), "1x128", "torch") == ()
    masked = record(Calls(lambda x: x[torch.ones(2, 3, dtype=torch.bool), torch.tensor([3])]), (torch.ones(2, 3, 4),))
    assert "NCC_EVRF056" not in {found.code for found in findings(Case(TARGETS["trn2"], masked), "1x128", "torch")}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x.index_select(1, torch.tensor([-1, 0])), "aten.index_select takes entry -1 of 4"),
        (lambda x: x[:, torch.tensor([0, -5])], "aten.index takes entry -5 of 4"),
        (lambda x: x[:, torch.tensor([0, 4])], "aten.index takes entry 4 of 4"),
    ],
)
def test_the_entry_that_is_outside_is_named(function: Callable[[Tensor], Tensor], said: str) -> None:
    found = findings(Case(TARGETS["trn2"], record(Calls(function), (FLOATS,))), "1x128", "torch")
    assert [finding.problem for finding in found] == [said]


def test_a_rule_is_named_once_though_it_is_broken_twice() -> None:
    graph = record(Calls(lambda x: torch.sort(torch.sort(x)[0])[0]), (FLOATS,))
    assert len(findings(Case(TARGETS["trn2"], graph), "1x128", "torch")) == 1


def test_products_are_counted() -> None:
    graph = record(Calls(lambda x: torch.nn.functional.linear(x, torch.ones(5, 4), torch.ones(5))), (FLOATS,))
    assert graph.flops == 2 * 3 * 5 * 4
    query = torch.ones(2, 3, 7, 8)
    attend = record(Calls(lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x)), (query,))
    assert attend.flops == 2 * (2 * 3 * 7 * 7 * 8) * 2
    dot = "%x.2 = f32[2,3,5] dot(f32[2,3,4] %p, f32[2,4,5] %q), lhs_batch_dims={0}, lhs_contracting_dims={2}"
    assert hlo.parse(MODULE.replace("%BODY%", "  " + dot)).flops == 2 * 2 * 3 * 5 * 4


def test_a_value_is_held_until_its_last_use() -> None:
    def op(operands: tuple[int, ...], result: int) -> Op:
        values = tuple(Value("float32", (25,), storage=place) for place in (*operands, result))
        return Op("aten.add", values[:-1], values[-1:])

    chain = Graph((op((), 0), op((0,), 1), op((1,), 2)), (100, 100, 100))
    assert chain.peak_bytes == 200
    kept = Graph((*chain.ops, op((0, 2), 3)), (100, 100, 100, 100))
    assert kept.peak_bytes == 300


def test_weights_and_views_take_no_memory_between() -> None:
    layer = nn.Linear(4, 4)
    graph = record(layer, (FLOATS,))
    assert (graph.weights_bytes, graph.io_bytes, graph.peak_bytes) == (80, 96, 48)
    assert record(Calls(lambda x: x.view(4, 3).t()), (FLOATS,)).peak_bytes == 0
