"""Environment variables in conflict. Sources are paths in the SDK's documentation."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuronbert.sdk import Device
from neuronbert.targets import TARGETS
from neuronbert.variables import Conflict, find_conflicts

VISIBLE = "NEURON_RT_VISIBLE_CORES"
NUMBER = "NEURON_RT_NUM_CORES"
LNC = "NEURON_LOGICAL_NC_CONFIG"
FLAGS = "NEURON_CC_FLAGS"
OVERRIDE = "NEURON_PLATFORM_TARGET_OVERRIDE"
INF2 = Device("inf2", 6)
TRN2 = Device("trn2", 1)


def only(environ: dict[str, str], device: Device | None = None, target: str | None = None) -> Conflict | None:
    found = find_conflicts(environ, device, target)
    assert len(found) < 2, found
    return found[0] if found else None


def test_an_empty_environment_has_no_conflict() -> None:
    assert find_conflicts({}, INF2) == ()
    assert find_conflicts({VISIBLE: " ", NUMBER: "", FLAGS: ""}, INF2) == ()


class TestCores:
    @pytest.mark.parametrize("text", ["0", "0-3", "3,4,5,6", "3-6", "3-5,6", " 0-1 , 2 "])
    def test_cores_that_follow_one_another(self, text: str) -> None:
        """Source: neuron-runtime/guides/nrt-developer-guide: its own examples of what is valid."""
        assert only({VISIBLE: text}, INF2) is None

    @pytest.mark.parametrize("text", ["3,5,6", "6,5", "3-2", "0,0", "0-2,2-3"])
    def test_cores_with_a_gap_or_out_of_order(self, text: str) -> None:
        """Source: neuron-runtime/guides/nrt-developer-guide: 3,5,6 is invalid, since 4 is missing."""
        found = only({VISIBLE: text}, INF2)
        assert found is not None
        assert found.fatal
        assert "must follow one another" in found.problem

    @pytest.mark.parametrize("text", ["a", "0;1", "-1", "1-", "0,,1", "0-1-2", "9" * 5000])
    def test_what_is_no_list_of_cores(self, text: str) -> None:
        found = only({VISIBLE: text})
        assert found is not None
        assert found.fatal

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4))
    @example([(0, 1), (2, 2)])
    def test_a_list_is_accepted_if_written_out_it_counts_up_by_one(self, ranges: list[tuple[int, int]]) -> None:
        text = ",".join(f"{low}-{high}" for low, high in ranges)
        cores = [core for low, high in ranges for core in (range(low, high + 1) if low <= high else (high, low, -1))]
        sound = all(after == before + 1 for before, after in pairwise(cores))
        assert (only({VISIBLE: text}) is None) is sound

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4))
    def test_what_is_advised_is_accepted(self, ranges: list[tuple[int, int]]) -> None:
        found = only({VISIBLE: ",".join(f"{low}-{high}" for low, high in ranges)})
        if found is not None:
            name, value = found.fix.removeprefix("export ").split("=")
            assert only({name: value}) is None

    @pytest.mark.parametrize(
        ("device", "lnc", "cores"),
        [
            (INF2, None, 12),
            (Device("trn1", 16), None, 32),
            (Device("trn1n", 16), None, 32),
            (Device("trn2", 16), None, 64),
            (Device("trn2", 16), "2", 64),
            (Device("trn2", 16), "1", 128),
            (Device("trn3", 1), None, 4),
        ],
    )
    def test_cores_that_are_not_there(self, device: Device, lnc: str | None, cores: int) -> None:
        """Source: neuron-runtime/guides/configuration-guide: numbered from 0 to one less than there are.

        about-neuron/arch/neuron-hardware: Inferentia2 and Trainium have 2 cores; trn2.48xlarge presents 64 at LNC 2
        (about-neuron/arch/neuron-features/logical-neuroncore-config).
        """
        base = {LNC: lnc} if lnc else {}
        assert only({**base, VISIBLE: f"0-{cores - 1}"}, device) is None
        found = only({**base, VISIBLE: f"0-{cores}"}, device)
        assert found is not None
        assert found.fix == f"export {VISIBLE}=0-{cores - 1}"
        assert only({**base, NUMBER: f"{cores}"}, device) is None
        found = only({**base, NUMBER: f"{cores + 1}"}, device)
        assert found is not None
        assert found.fatal

    def test_how_many_there_are_is_not_guessed(self) -> None:
        assert only({VISIBLE: "0-999"}) is None
        assert only({NUMBER: "999"}, Device(None, 1)) is None

    def test_the_list_wins_over_the_number(self) -> None:
        """Source: neuron-runtime/guides/configuration-guide, note 5."""
        found = only({VISIBLE: "0-1", NUMBER: "4"}, INF2)
        assert found == Conflict(NUMBER, f"is 4, but {VISIBLE}=0-1 takes precedence over it", f"unset {NUMBER}", False)

    @pytest.mark.parametrize(("text", "fatal"), [("0", None), ("2", None), ("two", True), ("-1", True), ("1.5", True)])
    def test_the_number_of_cores(self, text: str, fatal: bool | None) -> None:
        """Source: neuron-runtime/guides/configuration-guide: from 1 on, 0 for all."""
        found = only({NUMBER: text}, INF2)
        assert (found and found.fatal) is fatal


class TestLogicalCores:
    @pytest.mark.parametrize("target", list(TARGETS))
    def test_only_trainium2_and_later_have_logical_cores_of_two(self, target: str) -> None:
        """Source: compiler/error-codes/EARG001; about-neuron/arch/neuron-features/logical-neuroncore-config."""
        for device, meant in ((Device(target, 1), None), (None, target)):
            found = only({LNC: "2"}, device, meant)
            assert (found is not None) is (target in ("inf2", "trn1", "trn1n"))
            assert only({LNC: "1"}, device, meant) is None

    @pytest.mark.parametrize("text", ["0", "4", "two"])
    def test_other_sizes_do_not_exist(self, text: str) -> None:
        found = only({LNC: text}, TRN2)
        assert found is not None
        assert found.fatal

    @pytest.mark.parametrize("flags", ["--lnc=2", "--lnc 2", "-lnc 2", "--logical-nc-config 2", "-O1 -lnc 2"])
    def test_the_compiler_and_the_runtime_must_have_the_same(self, flags: str) -> None:
        """Source: about-neuron/arch/neuron-features/logical-neuroncore-config."""
        found = only({FLAGS: flags, LNC: "1"}, TRN2)
        assert found is not None
        assert found.fatal
        found = only({FLAGS: flags, LNC: "2"}, TRN2)
        assert found is not None
        assert not found.fatal


class TestFlags:
    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            ("--auto-cast none", "--auto-cast,"),
            ("--auto-cast=all --target trn1", "--auto-cast, --target,"),
            ("-O1", "-O,"),
            ("--native-int64 enabled -lnc 2", "--native-int64, -lnc,"),
            ("--implicit-integer-downcast=none", "--implicit-integer-downcast,"),
            ("--disable-mixed-precision-accumulation", "--disable-mixed-precision-accumulation,"),
            ("--verbose info", "no manifest records"),
            ("--cache_dir=/tmp/x", "no manifest records"),
        ],
    )
    def test_flags_that_compete_with_ours_are_named(self, flags: str, named: str) -> None:
        """Source: compiler/neuronx-cc/api-reference-guide/index: frameworks hand NEURON_CC_FLAGS to the compiler."""
        found = only({FLAGS: flags})
        assert found is not None
        assert named in found.problem
        assert not found.fatal

    def test_flags_that_can_not_be_read(self) -> None:
        found = only({FLAGS: '--auto-cast "none'})
        assert found is not None
        assert found.fatal


class TestTarget:
    @pytest.mark.parametrize("target", list(TARGETS))
    def test_the_name_of_what_is_meant(self, target: str) -> None:
        """Source: vllm-neuron/docs/design/compilation/cpu_compilation."""
        assert only({OVERRIDE: target}) is None
        assert only({OVERRIDE: target}, Device(target, 1), target) is None

    def test_another_target_than_is_meant(self) -> None:
        found = only({OVERRIDE: "trn1"}, None, "inf2")
        assert found == Conflict(OVERRIDE, "is trn1, but inf2 is meant", f"unset {OVERRIDE}", True)

    def test_another_target_than_is_there(self) -> None:
        found = only({OVERRIDE: "trn1"}, INF2)
        assert found is not None
        assert not found.fatal

    def test_no_target_at_all(self) -> None:
        found = only({OVERRIDE: "inf1"})
        assert found is not None
        assert found.fatal


class TestNumerics:
    @pytest.mark.parametrize("name", ["XLA_USE_BF16", "XLA_DOWNCAST_BF16", "NEURON_RT_STOCHASTIC_ROUNDING_EN"])
    @pytest.mark.parametrize(("text", "on"), [("1", True), ("TRUE", True), ("0", False), ("False", False)])
    def test_switches_that_change_every_number(self, name: str, text: str, on: bool) -> None:
        """Source: about-neuron/arch/neuron-features/rounding-modes; announce-eos-xla-bf16.

        Of 0, 1, false and true in any case: neuron-runtime/api/nrt-env-var-reference.
        """
        found = only({name: text})
        assert (found is not None) is on

    @pytest.mark.parametrize(("target", "fatal"), [("trn3", True), ("trn2", False), ("inf2", False), (None, False)])
    def test_what_would_run_uncompiled(self, target: str | None, fatal: bool) -> None:
        """Source: torch/reference/env-vars. Only for Trn3 it is certain that TorchNeuron serves it."""
        name = "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION"
        assert only({name: "1"}, None, target) is None
        found = only({name: "0"}, None, target)
        assert found is not None
        assert (found.fatal, found.fix) == (fatal, f"unset {name}")

    def test_programs_for_older_devices(self) -> None:
        """Source: neuron-runtime/guides/configuration-guide: they may fail with a data mismatch, or stall."""
        assert only({"NEURON_RT_ALLOW_LEGACY_NEFF": "TRUE"}) is not None
        assert only({"NEURON_RT_ALLOW_LEGACY_NEFF": "FALSE"}) is None

    @pytest.mark.parametrize("name", ["NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS", "NEURONCORE_GROUP_SIZES"])
    def test_variables_that_are_gone(self, name: str) -> None:
        """Source: about-neuron/announcements/neuron2.x/announce-no-support-implicit-async-mode.

        NEURONCORE_GROUP_SIZES: general/announcements/neuron1.x/eol-ncgs-env_2.
        """
        found = only({name: "3"})
        assert found is not None
        assert found.fix == f"unset {name}"


@given(
    st.dictionaries(
        st.sampled_from([VISIBLE, NUMBER, LNC, FLAGS, OVERRIDE, "XLA_USE_BF16", "NEURONCORE_GROUP_SIZES"]),
        st.text(st.characters(exclude_characters="\0"), max_size=20),
    ),
    st.sampled_from([None, INF2, TRN2, Device(None, 1)]),
    st.sampled_from([None, *TARGETS]),
)
def test_nothing_in_the_environment_breaks_the_rules(environ, device: Device | None, target: str | None) -> None:
    for conflict in find_conflicts(environ, device, target):
        assert conflict.variable in environ
        assert conflict.variable in conflict.fix
