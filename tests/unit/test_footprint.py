"""What programs take on a core, and what surely doesn't fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neuronbert.errors import DeviceMemoryError
from neuronbert.preflight.footprint import CODE_BYTES, Footprint
from neuronbert.preflight.graphs import Graph
from neuronbert.shapes import StaticShape
from neuronbert.spec import ExportSpec
from neuronbert.targets import GIB, TARGETS

SHAPES = tuple(StaticShape(2, 8 * place) for place in range(1, 5))
SPEC = ExportSpec("m", SHAPES, target="inf2", auto_cast="none")


def footprint(spec: ExportSpec = SPEC, weights: int = GIB, *, shared: bool = False) -> Footprint:
    return Footprint.of(spec, Graph((), weights_bytes=weights, io_bytes=1000), 2, shared=shared)


def test_each_program_has_its_own_weights_and_the_rest_is_the_largest_ones() -> None:
    need = footprint()
    assert need.need_bytes == need.least_bytes == 4 * GIB + CODE_BYTES + 2000
    assert footprint(shared=True).need_bytes == GIB + CODE_BYTES + 2000
    assert need.limit_bytes == TARGETS["inf2"].hbm_bytes


def test_a_logical_core_of_two_has_its_code_twice() -> None:
    for lnc, cores in ((None, 2), (1, 1), (2, 2)):
        need = footprint(replace(SPEC, target="trn2", lnc=lnc))
        assert need.other_bytes == cores * CODE_BYTES + 2000


@pytest.mark.parametrize(("kind", "width"), [("bf16", 2), ("fp16", 2), ("tf32", 1), ("fp8_e4m3", 4)])
def test_only_what_can_not_fit_however_it_is_cast_is_refused(kind: str, width: int) -> None:
    cast = replace(SPEC, auto_cast="matmul", auto_cast_type=kind)
    room = TARGETS["inf2"].hbm_bytes - CODE_BYTES - 2000
    footprint(cast, weights=room * width // 4).check()
    with pytest.raises(DeviceMemoryError, match=r"at most 3 \("):
        footprint(cast, weights=room * width // 4 + 4).check()


def test_a_program_that_does_not_fit_alone_is_refused_with_other_advice() -> None:
    with pytest.raises(DeviceMemoryError, match="another --target"):
        footprint(weights=20 * GIB).check()
    with pytest.raises(DeviceMemoryError, match="another --target"):
        footprint(weights=20 * GIB, shared=True).check()


def test_what_may_not_fit_is_worth_a_word_and_so_are_several_programs() -> None:
    one = replace(SPEC, shapes=SHAPES[:1], auto_cast="all")
    assert footprint().notable
    assert not footprint(one).notable
    assert footprint(one, weights=17 * GIB).notable
    footprint(one, weights=17 * GIB).check()


def test_the_summary_says_of_what_it_is_made() -> None:
    assert footprint().summary == (
        "4 programs take up to 4.09 GiB of the 16 GiB of a NeuronCore (inf2): "
        "4 copies of 1.00 GiB of weights, 0.09 GiB for the rest. An estimate"
    )
