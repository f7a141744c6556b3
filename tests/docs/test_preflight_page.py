"""docs/preflight.md lists every error code of the SDK, and its rules are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from neuronbert.preflight.rules import RULES
from neuronbert.targets import GIB, TARGETS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "preflight.md").read_text(encoding="utf-8")
DECIDED = re.findall(r"^\| (NCC_\w+) \| [\w, ]+ \| .+ \|$", PAGE, flags=re.MULTILINE)
NOT_DECIDED = re.findall(r"^\| (NCC_\w+(?:, NCC_\w+)*) \| [^|]+ \|$", PAGE, flags=re.MULTILINE)
OURS = re.findall(r"^\| ([a-z]\S+) \| [\w, ]+ \| .+ \|$", PAGE, flags=re.MULTILINE)
RULED = {code for rule in RULES for code in (rule.code, *rule.also)}
# The pages of compiler/error-codes in the documentation of SDK 2.32.0.
CODES = """
EARG001 EBIR023 EBVF030 EHCA005 EMOD025 EOOM001 EOOM002 ESFH002 ESPP004 ESPP047 EUOC002 EVRF001 EVRF004 EVRF005 EVRF006
EVRF007 EVRF009 EVRF010 EVRF011 EVRF013 EVRF015 EVRF016 EVRF017 EVRF018 EVRF019 EVRF022 EVRF031 EVRF035 EVRF036 EVRF037
EVRF038 EVRF039 EVRF040 EVRF041 EVRF042 EVRF043 EVRF044 EVRF045 EVRF046 EVRF047 EVRF048 EVRF049 EVRF050 EVRF051 EVRF052
EVRF053 EVRF054 EVRF055 EVRF056 EVRF057 EVRF058 EVRF059 EVRF060 EVRF061 EVRF062 EVRF063 EVRF064 EVRF065 EXSP001 EXTP004
"""


def test_every_code_of_the_sdk_is_in_one_table_once() -> None:
    listed = DECIDED + ", ".join(NOT_DECIDED).split(", ")
    assert sorted(listed) == [f"NCC_{code}" for code in CODES.split()]


def test_what_is_decided_has_a_rule() -> None:
    assert sorted(DECIDED) == sorted(code for code in RULED if code.startswith("NCC_"))


def test_the_rules_without_a_code_are_named() -> None:
    assert [name for name in OURS if name not in {"code", "name"}] == [
        r.code for r in RULES if not r.code.startswith("NCC_")
    ]


def test_only_what_has_a_code_is_said_to_be_refused() -> None:
    assert all(rule.refused == rule.code.startswith("NCC_") for rule in RULES)


def test_every_rule_has_a_page_and_a_fix() -> None:
    for rule in RULES:
        assert rule.address.startswith("https://awsdocs-neuron.readthedocs-hosted.com/en/latest/")
        assert rule.address.endswith(".html")
        assert rule.fix
        assert not rule.fix.endswith(".")


def test_the_memory_of_the_cores_is_the_codes() -> None:
    said = re.findall(r"(\d+) GiB \(([\w, ]+)\)", PAGE)
    named = {target: int(size) * GIB for size, targets in said for target in targets.split(", ")}
    assert named == {name: target.hbm_bytes for name, target in TARGETS.items()}
