"""The compiler's command line. Each test names the page of the SDK's documentation that it holds the code to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronbert.backends import flags
from neuronbert.errors import InvalidOptionError, LogicalCoresError
from neuronbert.manifest import CompilerInfo
from neuronbert.reference import LOGICAL_CORES
from neuronbert.shapes import StaticShape
from neuronbert.spec import AUTO_CAST_TYPES, AUTO_CASTS, OPT_LEVELS, ExportSpec
from tests.unit.builders import make_manifest

OLD, NEW = "2.26.6360.0", "2.27.5334.0"
COMMON = (
    "--model-type transformer --optlevel 2 --auto-cast matmult --auto-cast-type bf16 "
    "--enable-mixed-precision-accumulation"
)


def spec(target: str = "inf2", **options: Any) -> ExportSpec:
    return ExportSpec("m", (StaticShape(1, 8),), "fill-mask", target=target, **options)


def line(*arguments: Any, version: str | None = OLD, **options: Any) -> str:
    return " ".join(flags.command_line(spec(*arguments, **options), version))


@pytest.mark.parametrize(
    ("target", "version", "after"),
    [
        ("inf2", OLD, ""),
        ("trn1", OLD, ""),
        ("trn1n", OLD, ""),
        ("trn2", OLD, " --logical-nc-config 2"),
        ("trn3", OLD, " --logical-nc-config 2"),
        ("inf2", NEW, " --implicit-integer-downcast all"),
        ("trn1", "2.28.7631.0", " --implicit-integer-downcast all"),
        ("trn2", NEW, " --logical-nc-config 2 --implicit-integer-downcast all --native-int64 disabled"),
        (
            "trn2",
            "2.27.5334.0+abc123",
            " --logical-nc-config 2 --implicit-integer-downcast all --native-int64 disabled",
        ),
        ("trn2", "2.100", " --logical-nc-config 2 --implicit-integer-downcast all --native-int64 disabled"),
        ("trn2", "nightly", " --logical-nc-config 2"),
        ("trn2", None, " --logical-nc-config 2"),
        ("trn3", None, " --logical-nc-config 2"),
    ],
)
def test_the_whole_line_for_each_target_and_compiler(target: str, version: str | None, after: str) -> None:
    """compiler/neuronx-cc/api-reference-guide: --target, --native-int64 ("only available on trn2 and later").

    release-notes/components/compiler, 2.32: the two integer flags are to change their defaults, so they are said; no
    compiler before 2.27 knows them.
    """
    assert line(target, version=version) == f"--target {target} {COMMON}{after}"


@pytest.mark.parametrize(("cast", "said"), [("none", "none"), ("matmul", "matmult"), ("all", "all")])
def test_auto_cast_is_said_in_the_compilers_spelling(cast: Any, said: str) -> None:
    """compiler/neuronx-cc/api-reference-guide: --auto-cast none, matmult or all; its default is none."""
    words = line(auto_cast=cast).split()
    assert words[words.index("--auto-cast") + 1] == said


def test_every_cast_type_and_level_is_passed_as_it_is() -> None:
    """compiler/neuronx-cc/api-reference-guide: --auto-cast-type bf16, fp16, tf32, fp8_e4m3; --optlevel 1, 2, 3."""
    assert (AUTO_CASTS, AUTO_CAST_TYPES, OPT_LEVELS) == (
        ("none", "matmul", "all"),
        ("bf16", "fp16", "tf32", "fp8_e4m3"),
        ("1", "2", "3"),
    )
    for kind in AUTO_CAST_TYPES:
        for level in OPT_LEVELS:
            words = line(auto_cast_type=kind, optlevel=level).split()
            assert words[words.index("--auto-cast-type") + 1] == kind
            assert words[words.index("--optlevel") + 1] == level


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_logical_cores_are_said_where_there_are_any(target: str, lnc: Any) -> None:
    """neuron-features/logical-neuroncore-config: 1 or 2, on Trn2 and Trn3 only; 2 is the default."""
    assert f"--logical-nc-config {lnc}" in line(target, lnc=lnc)
    assert flags.logical_cores(spec(target, lnc=lnc)) == lnc
    assert flags.logical_cores(spec(target)) == 2


@pytest.mark.parametrize("target", ["inf2", "trn1", "trn1n"])
def test_larger_logical_cores_are_refused_where_there_are_none(target: str) -> None:
    """compiler/error-codes/EARG001: on trn1 only lnc=1 is supported."""
    with pytest.raises(InvalidOptionError, match=f"lnc is 2; it must be 1 for {target}"):
        line(target, lnc=2)
    assert "--logical-nc-config" not in line(target, lnc=1)
    assert flags.logical_cores(spec(target, lnc=1)) is None


def test_the_users_own_flags_come_last_where_they_win() -> None:
    """compiler/neuronx-cc/api-reference-guide: of competing options the right-most supersedes the others."""
    own = ("--disable-mixed-precision-accumulation", "--model-type", "generic", "--native-int64=enabled")
    for version in (OLD, NEW, None):
        assert line("trn2", version=version, compiler_args=own).endswith(" " + " ".join(own))


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("--target", "--target"),
        ("--target=trn1", "--target"),
        ("--auto-cast", "--auto-cast"),
        ("--auto-cast=all", "--auto-cast"),
        ("--auto-cast-type=tf32", "--auto-cast-type"),
        ("--optlevel", "--optlevel"),
        ("-O", "--optlevel"),
        ("-O1", "--optlevel"),
        ("-O=3", "--optlevel"),
        ("--lnc=1", "--lnc"),
        ("-lnc", "--lnc"),
        ("--logical-nc-config=2", "--lnc"),
        ("--output=x.neff", "--compiler-workdir"),
        ("--logfile", "--compiler-workdir"),
    ],
)
def test_a_flag_that_has_an_option_of_ours_is_refused(word: str, option: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"left out: there is {option} for it"):
        line(compiler_args=("--verbose", "info", word))


@given(st.sampled_from(["inf2", "trn1", "trn1n", "trn2", "trn3"]), st.sampled_from([None, OLD, NEW]), st.data())
def test_no_flag_is_said_twice_and_all_are_in_the_reference(
    target: str, version: str | None, data: st.DataObject
) -> None:
    """compiler/neuronx-cc/api-reference-guide: `unknown` is what loading holds an artifact's own line to."""
    given_options = {
        "auto_cast": data.draw(st.sampled_from(AUTO_CASTS)),
        "auto_cast_type": data.draw(st.sampled_from(AUTO_CAST_TYPES)),
        "optlevel": data.draw(st.sampled_from(OPT_LEVELS)),
    }
    words = flags.command_line(spec(target, **given_options), version)
    names = [word for word in words if word.startswith("-")]
    assert len(set(names)) == len(names)
    assert not list(flags.unknown(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *(([word], word) for word in ("--output", "--dump", "$(id)", "a b", "x;y", "../up", "", "-x", "é", "-O=3=x")),
        (["--logfile=/tmp/x"], "--logfile /tmp/x"),
        (["--verbose=`id`"], "--verbose `id`"),
        (["--verbose", "loud"], "--verbose loud"),
        (["--lnc", "3"], "--lnc 3"),
        (["-O9"], "-O 9"),
        (["--optlevel"], "--optlevel"),
        (["compile"], "compile"),
        (["--implicit-integer-downcast", "pow;id"], "--implicit-integer-downcast pow;id"),
        (["--enable-saturate-infinity=yes"], "--enable-saturate-infinity yes"),
    ],
)
def test_what_is_not_in_the_reference_is_known_for_it(words: list[str], said: str) -> None:
    """Flags, values, and what is neither: as NEURON_CC_FLAGS they are the compiler's whole command line."""
    assert list(flags.unknown(["--verbose", "info", *words, "--auto-cast", "none"])) == [said.replace("=", " ", 1)]


@pytest.mark.parametrize(
    "words",
    [
        ["--logical-nc-config", "2"],
        ["-lnc=1"],
        ["--lnc", "2"],
        ["-O1"],
        ["-O", "2"],
        ["--optlevel=3"],
        ["--implicit-integer-downcast", "dot,all_reduce"],
        ["--native-int64=default", "--enable-fast-context-switch", "--distribution-strategy=llm-training"],
    ],
)
def test_every_spelling_of_the_reference_is_taken(words: list[str]) -> None:
    """compiler/neuronx-cc/api-reference-guide; --lnc is in compiler/error-codes/EARG001."""
    assert list(flags.unknown(words)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([], []),
        (["--target", "trn2"], ["--target trn2"]),
        (["-lnc", "2"], ["--logical-nc-config 2"]),
        (["--lnc=1"], []),
        (["-O3"], ["--optlevel 3"]),
        (["--auto-cast=all", "--auto-cast-type", "fp16"], ["--auto-cast all", "--auto-cast-type fp16"]),
    ],
)
def test_a_line_that_says_another_thing_than_its_manifest_is_known(change: list[str], said: list[str]) -> None:
    """Loading compiles by the line, and checks and shows the fields."""
    words = flags.command_line(spec("trn3", lnc=1), None)
    fields = {"auto_cast": "matmul", "auto_cast_type": "bf16", "optlevel": "2", "lnc": 1, "versions": {}}
    compiler = CompilerInfo(name="torch.export", flags=(*words, *change), **fields)
    manifest = make_manifest(target="trn3", backend="torchneuron", compiler=compiler)
    assert list(flags.unlike(manifest)) == said


def test_a_line_that_leaves_out_what_its_manifest_says_is_known() -> None:
    compiler = CompilerInfo(
        name="torch.export", auto_cast="none", auto_cast_type="bf16", optlevel="2", lnc=2, versions={}
    )
    manifest = make_manifest(target="trn3", backend="torchneuron", compiler=compiler)
    expected = ["no --target", "no --auto-cast", "no --auto-cast-type", "no --optlevel", "no --logical-nc-config"]
    assert list(flags.unlike(manifest)) == expected


@pytest.mark.parametrize(
    ("target", "compiled", "set_to", "refused"),
    [
        ("trn2", 2, None, False),
        ("trn2", 2, "2", False),
        ("trn2", 2, "", False),
        ("trn2", 2, "1", True),
        ("trn2", 1, None, True),
        ("trn2", 1, "1", False),
        ("trn3", 1, None, True),
        ("trn2", 2, "two", True),
        ("inf2", None, "2", False),
    ],
)
def test_programs_for_other_logical_cores_than_the_runtimes_are_refused(
    monkeypatch: pytest.MonkeyPatch, target: str, compiled: Any, set_to: str | None, refused: bool
) -> None:
    """neuron-features/logical-neuroncore-config: NEURON_LOGICAL_NC_CONFIG and the compiler's flag must be equal."""
    monkeypatch.delenv(LOGICAL_CORES, raising=False)
    if set_to is not None:
        monkeypatch.setenv(LOGICAL_CORES, set_to)
    compiler = CompilerInfo(name="neuronx-cc", auto_cast="none", auto_cast_type="bf16", lnc=compiled, versions={})
    manifest = make_manifest(target=target, backend="neuronx", compiler=compiler)
    if not refused:
        flags.refuse_other_lnc(manifest)
        return
    with pytest.raises(LogicalCoresError, match=f"NEURON_LOGICAL_NC_CONFIG={compiled}"):
        flags.refuse_other_lnc(manifest)
