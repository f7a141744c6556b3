"""The command line: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from neuronbert import Artifact, StaticShape
from tests.support.terminals import on_a_terminal

ROOT = Path(__file__).parents[2]


def test_a_line_copied_from_optimums_documentation_runs(run, minilm: Path, tmp_path: Path) -> None:
    out = tmp_path / "bert_feature_extraction_neuronx"
    line = f"--model {minilm} --task feature-extraction --batch_size 1 --sequence_length 128"
    done = run("export", *line.split(), "--auto_cast", "matmul", "--auto_cast_type", "bf16", f"{out}/")
    assert done.code == 0, done.err
    assert done.out == f"{out}: BertModel for cpu, 1x128\n"
    assert done.err == f"Next: neuronbert validate {out}\n"
    done = run("validate", out)
    assert done.code == 0
    assert done.out.splitlines()[-1] == "passed: compared with BertModel of model in fp32"


def test_an_interruption_while_it_is_imported_is_one_line() -> None:
    code = """
import sys
class Slow:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Slow())
from cli.start import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_trn2_is_exported_with_what_is_here_and_says_so(run, tiny, tmp_path: Path) -> None:
    done = run("export", "--model", tiny("fill-mask"), "--target", "trn2", "--sequence-length", "8", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.err.startswith("Nothing is compiled yet: it was exported for TorchNeuron, which compiles where it is")
    assert ", on an instance of type trn2: neuronbert validate" in done.err


def test_export_prints_the_manifest_as_json(run, tiny, tmp_path: Path) -> None:
    done = run("export", "--model", tiny("fill-mask"), "--sequence-length", "16,32", "--json", tmp_path / "out")
    body = json.loads(done.out)
    assert done.err == ""
    assert body["path"] == str(tmp_path / "out")
    assert [(p["batch_size"], p["sequence_length"]) for p in body["programs"]] == [(1, 16), (1, 32)]


def test_a_recipe_gives_the_options_that_are_left_out(run, tiny, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "{tiny("fill-mask")}"\nbatch_sizes = [1, 2]\nsequence_lengths = [16]\nauto_cast = "none"'
    )
    done = run("export", "--recipe", recipe, "--auto-cast", "all", tmp_path / "out")
    assert done.code == 0, done.err
    manifest = Artifact.open(tmp_path / "out").manifest
    assert manifest.shapes == (StaticShape(1, 16), StaticShape(2, 16))
    assert manifest.compiler.auto_cast == "all"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["export", "out"], 2, "--model is missing"),
        (["export", "--model", "CHECKPOINT", "--task", "poetry", "out"], 2, "no task 'poetry'"),
        (["export", "--model", "CHECKPOINT", "--batch-size", "two", "out"], 2, "--batch-size is 'two'"),
        (["export", "--model", "CHECKPOINT", "--batch-size", "-1", "out"], 2, "1 or more"),
        (["export", "--model", "CHECKPOINT", "--sequence-length", "9999", "out"], 2, "positions for 64 tokens"),
        (["export", "--model", "CHECKPOINT", "--target", "trn1", "out"], 3, "Target trn1 can't be used here"),
        (["export", "--model", "/nowhere", "out"], 3, "no such folder"),
        (["export", "--recipe", "/nowhere.toml", "out"], 3, "no file /nowhere.toml"),
        (["validate", "/nowhere"], 3, "/nowhere"),
        (["validate", "CHECKPOINT"], 2, "not a neuronbert artifact"),
        (["inspect", "CHECKPOINT"], 2, "not a neuronbert artifact"),
        (["predict", "/nowhere", "text"], 3, "no such folder"),
        (["push-to-hub", "/nowhere", "name"], 3, "/nowhere"),
        (["no-such-command"], 2, "No such command"),
        (["serv"], 2, "Did you mean 'serve'? See: neuronbert --help"),
        (["export", "--no-such-option", "out"], 2, "No such option"),
        (["predict", "out", "text", "--workers", "0"], 2, "See: neuronbert predict --help"),
        (["bench", "out", "--batch-size", "1,0"], 2, "--batch-size is '1,0'"),
        (["bench", "out", "--cores", "0"], 2, "--cores is '0'"),
        (["cache", "rm", "--keep"], 2, "See: neuronbert cache rm --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line_and_an_exit_code(
    run, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    done = run(*(tiny("fill-mask") if word == "CHECKPOINT" else word for word in arguments))
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []
    assert done.err.startswith("Error")
    assert done.err.count("\n") == 1


def test_a_failed_validation_exits_1_and_writes_both_reports(run, exported, copied, swapped, tmp_path: Path) -> None:
    artifact = swapped(copied(exported("fill-mask")))
    done = run("validate", artifact, "--report", tmp_path / "reports" / "bert.json")
    assert done.code == 1
    assert "FAILED" in done.out
    assert done.err.splitlines()[-1].startswith("Error: Validation failed: ")
    report = json.loads((tmp_path / "reports" / "bert.json").read_text())
    suite = Xml.parse(tmp_path / "reports" / "bert.xml").getroot()
    assert report["passed"] is False
    assert int(suite.get("failures", 0)) == len(report["failures"]) > 0


def test_an_altered_artifact_is_refused_by_every_command(run, exported, copied) -> None:
    artifact = copied(exported("fill-mask"))
    path = artifact / "model.neuron"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for arguments in (
        ["validate", artifact],
        ["inspect", artifact],
        ["predict", artifact, "A [MASK]."],
        ["push-to-hub", artifact, "name"],
    ):
        done = run(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "was altered" in done.err


ANSWERS = {
    "feature-extraction": (["A text."], {"embedding"}),
    "fill-mask": (["A [MASK] text."], {"masks"}),
    "text-classification": (["A text."], {"label", "score", "scores"}),
    "token-classification": (["Ada left Rome."], {"entities"}),
    "question-answering": (["Who left?", "--context", "Ada left."], {"answer", "start", "end", "score"}),
    "multiple-choice": (["It", "--choice", "rains.", "--choice", "snows."], {"choice", "text", "scores"}),
    "next-sentence-prediction": (["It rains.", "--pair", "We stay in."], {"is_next", "score"}),
    "pre-training": (["It [MASK].", "--pair", "We stay in."], {"is_next", "score", "masks"}),
    "text-generation": (["It"], {"next"}),
}


@pytest.mark.parametrize("task", ANSWERS)
def test_every_task_is_answered(run, exported, task: str) -> None:
    arguments, fields = ANSWERS[task]
    done = run("predict", exported(task), *arguments, "--json")
    assert done.code == 0, done.err
    (answer,) = json.loads(done.out)
    assert set(answer) == {*fields, "buckets"}
    done = run("predict", exported(task), *arguments)
    assert done.code == 0
    assert done.out.startswith(arguments[0] + "\n  ")


def test_long_texts_are_answered_in_windows(run, exported) -> None:
    artifact = exported("question-answering")
    asked = ["predict", artifact, "Who left?", "--context", "Ada left Rome. " * 20]
    assert "compiled for up to 32" in run(*asked).err
    for spelling in ("--stride", "--doc_stride"):
        done = run(*asked, spelling, 8, "--json")
        assert done.code == 0, done.err
        (answer,) = json.loads(done.out)
        assert answer["buckets"] == ["2x32"] * 4
    refused = run("predict", exported("fill-mask"), "A [MASK].", "--stride", 8)
    assert (refused.code, refused.out) == (2, "")
    assert "question-answering and token-classification" in refused.err


def test_rows_come_from_a_file_or_from_stdin(run, exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "One."}\n{"text": "Two."}\n')
    from_file = run("predict", exported("text-classification"), "--file", file, "--json")
    monkeypatch.setattr(sys, "stdin", io.StringIO("One.\nTwo.\n"))
    from_stdin = run("predict", exported("text-classification"), "--json")
    assert len(json.loads(from_file.out)) == 2
    assert from_stdin.out == from_file.out


def test_a_line_is_what_ends_in_a_line_break(run, exported, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("One\x0cand\u2028the same.\r\n\n \t\nTwo\x85halves.\n"))
    done = run("predict", exported("text-classification"), "--json")
    assert (done.code, len(json.loads(done.out))) == (0, 2)


@pytest.mark.parametrize("piped", [True, False], ids=["stdin", "file"])
def test_a_row_that_cant_be_answered_is_named_by_its_line(
    run, exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piped: bool
) -> None:
    import io

    texts, file = ["A [MASK].", "", "No mask."], tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) if text else "" for text in texts))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts)))
    done = run("predict", exported("fill-mask"), *([] if piped else ["--file", file]))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: {'stdin' if piped else file}, line 3: There is nothing to fill in")


def test_inspect_shows_the_manifest_and_the_verdict(run, exported, copied) -> None:
    artifact = copied(exported("question-answering"))
    assert "not validated" in run("inspect", artifact).out
    run("validate", artifact)
    done = run("inspect", artifact)
    assert "start_logits float32 [batch, sequence]" in done.out
    assert "validation  passed" in done.out
    body = json.loads(run("inspect", artifact, "--json").out)
    assert body["validation"] == "passed"
    assert body["task"] == "question-answering"


@pytest.mark.parametrize("command", ["", "export", "validate", "predict", "inspect", "push-to-hub"])
def test_every_help_has_an_example(run, command: str) -> None:
    done = run(*[command] if command else [], "--help")
    assert done.code == 0
    assert "Example: neuronbert" in done.out or not command
    assert "Usage: neuronbert" in done.out


def test_the_command_line_imports_no_torch_until_it_has_to() -> None:
    code = "import sys; import cli.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_progress_is_shown_on_a_terminal_and_nowhere_else(tiny, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "cli", "export", "--model", str(tiny("fill-mask")), "--sequence-length", "16"]
    done = on_a_terminal(*line, tmp_path / "one")
    assert done.code == 0
    assert "compiling 1x16" in done.terminal
    assert done.out.startswith(str(tmp_path / "one"))
    quiet = subprocess.run([*line, str(tmp_path / "two")], capture_output=True, text=True, check=True)
    assert quiet.stderr == f"Next: neuronbert validate {tmp_path / 'two'}\n"


def test_a_reader_that_goes_away_is_no_error(exported) -> None:
    line = f"{sys.executable} -m cli inspect {exported('fill-mask')} | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert done.stdout.startswith("task")
    assert done.stderr == ""


def test_completion_is_offered(run) -> None:
    assert "--install-completion" in run("--help").out
