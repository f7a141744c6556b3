"""The facts of the targets. Sources are paths in the SDK's documentation."""

from __future__ import annotations

import pytest

from neuronbert.targets import TARGETS


def test_every_target_stands_under_its_own_name() -> None:
    assert all(name == target.name for name, target in TARGETS.items())
    assert {target.chip for target in TARGETS.values()} <= set(TARGETS)


@pytest.mark.parametrize(("name", "cores", "lncs"), [("inf2", 2, (1,)), ("trn2", 8, (1, 2)), ("trn3", 8, (1, 2))])
def test_cores_of_a_device(name: str, cores: int, lncs: tuple[int, ...]) -> None:
    """about-neuron/arch/neuron-hardware; about-neuron/arch/neuron-features/logical-neuroncore-config."""
    target = TARGETS[name]
    assert (target.cores, target.lncs, target.default_lnc, target.has_lnc) == (cores, lncs, max(lncs), len(lncs) == 2)


def test_only_trn1n_has_the_chips_of_another() -> None:
    """about-neuron/arch/neuron-hardware/trn1-arch: Trn1n has more network."""
    assert {name: target.chip for name, target in TARGETS.items() if target.chip != name} == {"trn1n": "trn1"}
