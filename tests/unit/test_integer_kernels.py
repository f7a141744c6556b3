"""The compiled kernels give the integers of the steps that define them, at the ends of every range."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from neuronbert.backends import integer_kernels
from neuronbert.errors import KernelBuildError
from neuronbert.integers import steps
from neuronbert.integers.nonlinear import gelu_constants, norm_constants, softmax_constants
from neuronbert.integers.scales import dyadic, scale_of


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
    integer_kernels.build_kernels()
    yield
    patch.undo()


def whole(*shape, seed=0, most=128):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-most, most, shape, generator=generator)
    values.view(-1)[:: max(1, values.numel() // 7)] = most - 1
    values.view(-1)[1 :: max(2, values.numel() // 5)] = -most
    return values.to(torch.int8 if most <= 128 else torch.int32)


def ratios(columns, typical, bits=26):
    spread = torch.linspace(0.3, 1.7, columns, dtype=torch.float64) * typical
    spread[::5] *= -1
    return dyadic(spread, bits)


# Rows below and above a block, widths that aren't a multiple of a register.
SIZES = [(1, 5, 16, 9), (2, 70, 37, 70), (3, 43, 64, 33)]


@pytest.mark.parametrize(("rows", "tokens", "width", "columns"), SIZES)
def test_linear_gelu_and_add_norm(rows, tokens, width, columns):
    hidden, weight = whole(rows, tokens, width), whole(columns, width, seed=1)
    bias = whole(columns, seed=2, most=2**12)
    ops = torch.ops.neuronbert
    by = ratios(columns, 1e-3)
    assert torch.equal(ops.ibert_linear(hidden, weight, bias, by), steps.linear(hidden, weight, bias, by))
    scales = torch.linspace(2e-5, 3e-4, columns, dtype=torch.float64)
    most = weight.long().abs().sum(1) * 128 + bias.abs()
    constants, result, bits = gelu_constants(scales, most)
    by = dyadic(result / 0.02, bits)
    found = ops.ibert_gelu(hidden, weight, bias, constants, by)
    assert torch.equal(found, steps.gelu(hidden, weight, bias, constants, by))
    assert len(found.unique()) > 4
    residual = whole(rows, tokens, columns, seed=3)
    added, of_norm, bits = norm_constants(torch.linspace(-1, 2, columns), torch.linspace(-2, 1, columns))
    given = (hidden, weight, bias, ratios(columns, 11.0), residual, dyadic(torch.tensor([900.0]), 8), added)
    for shift in (0, 6):
        rest = (shift, dyadic(of_norm / 0.03, bits))
        assert torch.equal(ops.ibert_add_norm(*given, *rest), steps.add_norm(*given, *rest))
        total = whole(rows, tokens, columns, seed=4, most=2**21)
        assert torch.equal(ops.ibert_norm(total, added, *rest), steps.norm(total, added, *rest))


@pytest.mark.parametrize(("rows", "tokens", "size", "heads"), [(1, 5, 8, 1), (2, 33, 20, 3), (2, 128, 64, 2)])
@pytest.mark.parametrize("scale", [2.0**-60, 2.0**-46.5, 2.0**-19, 4e-4, 0.2])
def test_attention(rows, tokens, size, heads, scale):
    query, key, value = (whole(rows, tokens, heads, size, seed=i).transpose(1, 2) for i in range(3))
    constants, by = softmax_constants(scale, scale_of(1.0, 16)), dyadic(torch.tensor([0.011]), 28)
    lengths = torch.arange(tokens).view(1, 1, 1, -1) < torch.tensor([tokens - 2, 1]).view(-1, 1, 1, 1)[:rows]
    triangle = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
    for attended in (torch.ones(1, dtype=torch.bool), lengths, triangle, torch.zeros(rows, 1, 1, 1, dtype=torch.bool)):
        shares = steps.softmax(steps.scores(query, key), attended, constants)
        found = torch.ops.neuronbert.ibert_attend(query, key, value, attended, constants, by)
        assert torch.equal(found, steps.context(shares, value, by))


def test_a_row_that_is_all_alike_has_no_deviation():
    total, bias = torch.full((1, 2, 8), 77, dtype=torch.int32), torch.zeros(8, dtype=torch.int64)
    by = dyadic(torch.full((8,), 1e-6), 31)
    assert torch.ops.neuronbert.ibert_norm(total, bias, 3, by).tolist() == steps.norm(total, bias, 3, by).tolist()


@pytest.mark.parametrize("wrong", range(4))
def test_tensors_that_no_program_gives_are_refused(wrong):
    given = [whole(1, 5, 16), whole(9, 16), whole(9, most=1000), ratios(9, 1e-3)]
    given[wrong] = given[wrong].to(torch.int16) if wrong % 2 else given[wrong][..., :-1]
    with pytest.raises(RuntimeError):
        torch.ops.neuronbert.ibert_linear(*given)


def test_a_softmax_of_hostile_constants_ends_nothing():
    heads = whole(1, 1, 4, 8)
    yes, by = torch.ones(1, dtype=torch.bool), dyadic(torch.tensor([0.01]), 28)
    right = softmax_constants(1e-3, scale_of(1.0, 16))
    assert torch.ops.neuronbert.ibert_attend(heads, heads, heads, yes, right, by).shape == (1, 4, 8)
    beyond = [[*right[:i], value, *right[i + 1 :]] for i in range(8) for value in (-1, 2**62)]
    for constants in (*beyond, [0] * 8, [1] * 7, [0, -1, 1, 1, 1, 1, 1, 1]):
        with pytest.raises(RuntimeError, match="constants"):
            torch.ops.neuronbert.ibert_attend(heads, heads, heads, yes, constants, by)
    # No exponential is more than 0: a division by their sum would end the process.
    nothing = [0, 1, 2**34 + 1, 0, 0, 0, 1, 0]
    assert torch.ops.neuronbert.ibert_attend(heads, heads, heads, yes, nothing, by).shape == (1, 4, 8)


def test_a_row_without_keys_is_refused_as_its_definition_refuses_it():
    query, none = whole(1, 1, 4, 8), torch.empty(1, 1, 0, 8, dtype=torch.int8)
    yes, by = torch.ones(1, dtype=torch.bool), dyadic(torch.tensor([0.01]), 28)
    constants = softmax_constants(1e-3, scale_of(1.0, 16))
    with pytest.raises((RuntimeError, IndexError)):
        steps.softmax(steps.scores(query, none), yes, constants)
    with pytest.raises(RuntimeError, match="1 to 65536 keys"):
        torch.ops.neuronbert.ibert_attend(query, none, none, yes, constants, by)


@pytest.mark.parametrize("bias", [2**31 - 1, -(2**31)])
def test_sums_beyond_32_bits_are_those_of_the_definition(bias):
    hidden, weight = whole(1, 5, 32), whole(9, 32, seed=1)
    added, ops = torch.full((9,), bias, dtype=torch.int32), torch.ops.neuronbert
    by = ratios(9, 3e-8)
    assert torch.equal(ops.ibert_linear(hidden, weight, added, by), steps.linear(hidden, weight, added, by))
    constants, result, bits = gelu_constants(torch.full((9,), 2e-5).double(), torch.full((9,), 2**31))
    by = dyadic(result / 0.02, bits)
    found = ops.ibert_gelu(hidden, weight, added, constants, by)
    assert torch.equal(found, steps.gelu(hidden, weight, added, constants, by))


@pytest.mark.parametrize(("machine", "wide"), [("x86_64", True), ("aarch64", False), ("arm64", False)])
def test_each_processor_has_its_own_options(machine, wide):
    flags = integer_kernels._flags(machine)
    assert ("-mprefer-vector-width=512" in flags) == wide
    assert {"-O3", "-march=native", "-fopenmp"} <= set(flags)


_ADDING = "\n".join(f"def _ibert_{step}(a, b, c):\n    return a + b + c" for step in ("context", "softmax"))
HOSTILE = {
    "linear": ("def _ibert_linear(a, b):\n    return a + b", "_ibert_linear(x, x)"),
    "context": ("def _ibert_context(a):\n    return a", "_ibert_context(x)"),
    "softmax": (f"{_ADDING}\ndef _ibert_softmax(a):\n    return a", "_ibert_context(_ibert_softmax(x), x, x)"),
    "scores": (
        f"{_ADDING}\ndef _ibert_scores(a):\n    return a",
        "_ibert_context(_ibert_softmax(_ibert_scores(x), x, x), x, x)",
    ),
}
"""Functions that are called as steps are, and the call."""


@pytest.mark.parametrize("step", HOSTILE)
def test_a_call_of_another_arity_stays_as_it_is(step, tmp_path):
    functions, call = HOSTILE[step]
    source = tmp_path / "hostile_program.py"
    program = f"class Program(torch.nn.Module):\n    def forward(self, x):\n        return {call}\n"
    source.write_text(f"import torch\n{functions}\n{program}")
    spec = importlib.util.spec_from_file_location("hostile_program", source)
    held = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(held)
    torch.jit.script(held.Program()).save(tmp_path / "program.pt")
    program = torch.jit.load(tmp_path / "program.pt").eval()
    expected = program(torch.ones(2))
    assert step in [integer_kernels._step(node) for node in program.graph.nodes()]
    integer_kernels.install(program, ["forward"])
    assert "neuronbert::" not in str(program.graph)
    assert torch.equal(program(torch.ones(2)), expected)


def test_a_machine_without_a_compiler_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(integer_kernels, "available", lambda: False)

    def fail(*args, **options):
        raise RuntimeError("Ninja is required to load C++ extensions\nmore")

    monkeypatch.setattr("torch.utils.cpp_extension.load", fail)
    with pytest.raises(KernelBuildError, match=r"Ninja is required.*g\+\+"):
        integer_kernels.build_kernels()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


LOADING = """
import os, shutil, sys
from pathlib import Path
import torch
from neuronbert.backends import integer_kernels

library = integer_kernels._library()
integer_kernels._make_private(library)
assert [place.stat().st_mode & 0o777 for place in (library.parent, library.parents[1])] == [0o700, 0o700]
shutil.copy(Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so", library)  # any will do
library.chmod(0o755)
for place in (library, library.parent, library.parents[1], library.parents[2]):
    for bit in (0o020, 0o002):
        before = place.stat().st_mode
        place.chmod(before | bit)
        print(place.name, integer_kernels.available.__wrapped__())
        place.chmod(before)
real = os.geteuid()
os.geteuid = lambda: library.stat().st_uid + 1
if library.stat().st_uid:
    print("another", integer_kernels.available.__wrapped__())
os.geteuid = lambda: real
print("own", integer_kernels.available())
"""


def test_a_library_that_others_could_have_written_is_not_loaded(tmp_path):
    environ = {**os.environ, "NEURONBERT_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", LOADING], env=environ, capture_output=True, text=True, check=True)
    *refused, own = done.stdout.splitlines()
    assert own == "own True"
    assert len(refused) == 8 + bool(os.geteuid())
    assert all(line.endswith(" False") for line in refused)
    assert done.stderr.count("others can write") == 8
    assert done.stderr.count("The integer kernels aren't loaded") == len(refused)


def test_a_library_of_another_user_is_told_from_ones_own(monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path))
    assert integer_kernels._exposed(tmp_path) == ""
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "belongs to another user" in integer_kernels._exposed(tmp_path)


def test_nothing_is_built_where_others_write(monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONBERT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(integer_kernels, "available", lambda: False)
    tmp_path.chmod(0o777)
    with pytest.raises(KernelBuildError, match="others can write"):
        integer_kernels.build_kernels()
