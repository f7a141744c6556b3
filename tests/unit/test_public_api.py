from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import neuronbert
from tests.unit.builders import ROOT, run_python

PACKAGE = ROOT / "neuronbert"
NAMES = sorted(neuronbert._HOME_OF)
LISTED = "import sys; print([name for name in ('torch', 'transformers', 'pydantic', 'optimum') if name in sys.modules])"


def type_checking_imports() -> dict[str, str]:
    """Public name to the module that type checkers find it in; each spelled `name as name`, which re-exports it."""
    found = {}
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for block in (node for node in tree.body if isinstance(node, ast.If)):
        for line in block.body:
            assert isinstance(line, ast.ImportFrom)
            for alias in line.names:
                assert alias.asname == alias.name
                found[alias.name] = str(line.module).removeprefix("neuronbert.")
    return found


def test_the_three_lists_of_public_names_are_one() -> None:
    assert type_checking_imports() == neuronbert._HOME_OF
    extras = {name for names in neuronbert._EXTRAS.values() for name in names}
    assert set(neuronbert.__all__) == {"__version__", *neuronbert._HOME_OF} - extras
    assert max(Counter(neuronbert.__all__).values()) == 1
    assert dir(neuronbert) == sorted(neuronbert.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_what_its_module_defines(name: str) -> None:
    found = getattr(neuronbert, name)
    assert found.__module__ == f"neuronbert.{neuronbert._HOME_OF[name]}"
    assert found.__name__ == name
    assert found.__doc__


def test_no_public_name_is_also_a_module() -> None:
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules & set(NAMES) == set()


def test_importing_every_module_hides_no_public_name() -> None:
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    for module in modules:
        importlib.import_module(f"neuronbert.{module}")
    assert not [name for name in NAMES if isinstance(getattr(neuronbert, name), type(neuronbert))]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'neuronbert' has no attribute 'nothing'"):
        _ = neuronbert.nothing


def test_a_star_import_brings_every_public_name() -> None:
    namespace: dict[str, object] = {}
    exec("from neuronbert import *", namespace)
    assert set(neuronbert.__all__) <= set(namespace)


def test_importing_the_package_imports_no_framework() -> None:
    assert run_python(f"import neuronbert; {LISTED}") == "[]\n"


def test_the_names_of_plain_data_import_no_framework() -> None:
    names = "ExportSpec, NeuronBertError, PreflightReport, StaticShape"
    assert run_python(f"from neuronbert import {names}; {LISTED}") == "[]\n"


@pytest.mark.parametrize("name", ["Artifact", "ValidationReport"])
def test_artifacts_and_reports_are_read_without_torch(name: str) -> None:
    assert run_python(f"from neuronbert import {name}; {LISTED}") == "['pydantic']\n"


def test_asking_the_command_line_for_help_imports_no_framework() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cli", "--help"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in imported
    assert imported & {"torch", "transformers", "pydantic", "optimum", "huggingface_hub"} == set()
    assert "export" in done.stdout


def test_the_version_is_the_one_that_is_packaged() -> None:
    import tomllib

    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text())["project"]
    assert neuronbert.__version__ == project["version"]


def test_every_package_is_shipped() -> None:
    found = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {".".join(path.parts) for path in found} == {name for name in listed if name.split(".")[0] == "neuronbert"}
