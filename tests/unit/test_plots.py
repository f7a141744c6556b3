from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from neuronbert import pictures
from neuronbert.benchmark import plots
from neuronbert.errors import MissingPackageError, StorageError
from neuronbert.quantization import plots as calibration_plots
from neuronbert.quantization.sensitivity import Noise
from tests.unit.builders import make_bench_report, make_case

HOSTILE = '</title><script>alert(1)</script>&"'


def test_the_picture_names_every_case_and_its_ratio() -> None:
    report = make_bench_report(
        make_case(bucket="1x32", program=[[0.1]], reference=[[0.25]]), make_case(bucket="8x128", rows=2)
    )
    drawn = "".join(Xml.fromstring(plots.draw(report)).itertext())
    assert "1x32, 1 core (2.50 x)" in drawn
    assert "8x128, 2 rows, 1 core" in drawn
    assert "program" in drawn
    assert "reference" in drawn


def test_without_a_reference_there_is_none_in_the_picture() -> None:
    drawn = "".join(Xml.fromstring(plots.draw(make_bench_report(make_case(reference=None)))).itertext())
    assert "reference" not in drawn


def test_the_picture_holds_no_script_and_fetches_nothing() -> None:
    content = plots.draw(make_bench_report(make_case(), artifact=HOSTILE))
    root = Xml.fromstring(content)
    assert not [element.tag for element in root.iter() if element.tag.endswith("script")]
    assert not [value for element in root.iter() for name, value in element.items() if name.endswith("href")]
    assert b"@import" not in content
    assert b"url(" not in content
    assert "alert(1)" in "".join(root.itertext())


def test_a_picture_replaces_a_file_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.svg"
    path.write_text("before")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(StorageError):
            pictures.save(plots.draw(make_bench_report(make_case())), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]
    pictures.save(plots.draw(make_bench_report(make_case())), path)
    assert path.read_text().startswith("<?xml")
    assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]


def test_drawing_leaves_imports_as_they_were() -> None:
    plots.draw(make_bench_report(make_case()))
    assert not [finder for finder in sys.meta_path if type(finder).__module__ == "pygal"]


def test_without_the_drawing_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match="pygal"):
        plots.draw(make_bench_report(make_case()))


def test_a_calibration_has_a_line_for_each_place_and_a_point_for_each_layer_that_has_it() -> None:
    noises = [
        Noise("layer.0.output.dense._input_quantizer", 4.0, 9.5, 0.0125, 0.034),
        Noise("layer.1.output.dense._input_quantizer", 4.0, 4.0, 0.0, 0.0),
        Noise("layer.2.output.dense._input_quantizer", 5.0, 5.0, 0.0, 0.012),
        Noise("layer.2.attention.self.matmul_q_input_quantizer", 6.0, 6.0, 0.0, 0.5),
    ]
    root = Xml.fromstring(calibration_plots.draw(noises, HOSTILE))
    told = [element.text for element in root.iter() if element.text]
    assert [name for name in told if name in {"output.dense", "attention.self.matmul_q"}] == [
        "output.dense",
        "attention.self.matmul_q",
    ]
    assert {"range 4 of 9.5, 1.2500% clipped", "3.4 %", "1.2 %", "50 %"} <= set(told)
    dots = [element for element in root.iter() if element.get("class", "").startswith("dot ")]
    assert len([dot for dot in dots if dot.tag.endswith("circle")]) == 3  # no noise is no point of a logarithm
    assert not [element.tag for element in root.iter() if element.tag.endswith("script")]
