"""The SDK's table of releases."""

from __future__ import annotations

import pytest
from packaging.version import Version

from neuronbert.releases import RELEASES, parse_version, release_of, releases_of


def test_the_table_is_in_order_and_every_entry_is_a_version() -> None:
    """The driver may be the same in two releases; nothing ever goes back."""
    for name in ("sdk", "compiler", "runtime", "driver", "tools"):
        versions = [Version(getattr(release, name)) for release in RELEASES]
        assert versions == sorted(versions), name
    assert len({release.sdk for release in RELEASES}) == len(RELEASES)
    for release in RELEASES:
        assert Version(release.python[0]) < Version(release.python[1])
        assert [Version(found) for found in release.libraries] == sorted(map(Version, release.libraries))


@pytest.mark.parametrize(
    ("compiler", "sdk"),
    [
        ("2.23.6484.0", "2.28.1"),
        ("2.24.5133.0+58f8de22", "2.29.0"),
        ("2.24.8799.0", "2.29.1"),
        ("2.25.3371.0", "2.30.0"),
        ("2.26.6360.0", "2.31.1"),
        ("2.27.5334.0", "2.32.0"),
        ("2.28.7631.0", "2.33.0"),
    ],
)
def test_a_compiler_tells_its_release(compiler: str, sdk: str) -> None:
    """Source: src/helperscripts/n2-manifest.json; release-notes/components/index (2.33.0)."""
    release = release_of(compiler)
    assert release is not None
    assert release.sdk == sdk


def test_a_compiler_outside_the_table_has_no_release() -> None:
    assert release_of("2.24.5134.0") is None
    assert release_of("3.0") is None
    assert release_of("nightly") is None
    assert releases_of("of my own") == ()


def test_the_last_library_on_pytorch_xla() -> None:
    """Source: setup/pytorch/manual (2.32's compiler with 2.31's library), release-notes/releasecontent (2.33.0)."""
    assert [release.sdk for release in releases_of("2.9.0.2.15.32035+ab")] == ["2.31.0", "2.31.1", "2.32.0", "2.33.0"]
    assert releases_of("2.9.0.2.15.32036") == releases_of("2.9.0.2.15.320350") == ()


def test_torchneuron_is_listed_by_its_family() -> None:
    """Source: release-notes/components/torchneuron: 2.13.3.0.* and 2.14.3.0.*, Python 3.12 to 3.14."""
    for version in ("2.13.3.0", "2.14.3.0.1234+ab"):
        assert [release.python for release in releases_of(version)] == [("3.12", "3.14")]
    assert releases_of("2.15.3.0") == ()


def test_python_of_the_releases() -> None:
    """Source: announcement-python-3-10-eol (2.30 drops 3.10), announce-support-python-3-13."""
    python = {release.sdk: release.python for release in RELEASES}
    assert python["2.29.1"] == ("3.10", "3.12")
    assert python["2.30.0"] == ("3.11", "3.13")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.13.0+cpu", "2.13.0"),
        ("2.31.7.0-1", "2.31.7.0"),
        ("2.31.7.0.abc123", "2.31.7.0"),
        ("2.9.0rc1", "2.9.0"),
        ("2", "2"),
        ("nightly", "0"),
        ("", "0"),
        ("9" * 5000, "9" * 9),
    ],
)
def test_versions_are_their_leading_numbers(text: str, version: str) -> None:
    assert parse_version(text) == Version(version)
