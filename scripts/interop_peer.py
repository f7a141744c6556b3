"""What `make interop` runs in optimum-neuron's environment: its runtime over our artifacts, or its exporter.

    interop_peer.py run FOLDER        loads FOLDER/CASE/ours, makes the calls of FOLDER/CASE/calls.safetensors
    interop_peer.py device FOLDER     the same with FOLDER/CASE/device, as if the SDK were installed
    interop_peer.py export FOLDER     exports FOLDER/CASE/checkpoint to FOLDER/CASE/theirs

Owns: calling optimum-neuron as its users do. Knows nothing of neuronbert: what it gets and gives are files.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import interop_fakes
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADS = {
    "feature-extraction": "NeuronModelForFeatureExtraction",
    "fill-mask": "NeuronModelForMaskedLM",
    "question-answering": "NeuronModelForQuestionAnswering",
    "text-classification": "NeuronModelForSequenceClassification",
    "token-classification": "NeuronModelForTokenClassification",
    "multiple-choice": "NeuronModelForMultipleChoice",
}


def cases(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every case's folder with its description."""
    for path in sorted(folder.glob("*/case.json")):
        yield path.parent, json.loads(path.read_text(encoding="utf-8"))


def run(folder: Path, which: str) -> None:
    """Load each of our artifacts with the class of its head and answer its calls, by the names of its own outputs."""
    import optimum.neuron

    for case, said in cases(folder):
        model = getattr(optimum.neuron, HEADS[said["task"]]).from_pretrained(case / which)
        tensors = load_file(case / "calls.safetensors")
        calls: dict[str, dict[str, Any]] = {}
        for key, value in tensors.items():
            call, name = key.split("/")
            calls.setdefault(call, {})[name] = value
        answers = {
            f"{call}/{name}": value.contiguous()
            for call, given in calls.items()
            for name, value in model(**given).items()
        }
        save_file(answers, case / f"{which}.safetensors")


def export(folder: Path) -> None:
    """Export each checkpoint with optimum-neuron's own main_export."""
    from optimum.exporters.neuron import main_export

    for case, said in cases(folder):
        main_export(
            str(case / "checkpoint"),
            output=case / "theirs",
            task=said["task"],
            compiler_kwargs={"auto_cast": None, "auto_cast_type": None, "instance_type": "inf2"},
            disable_neuron_cache=True,
            do_validation=False,
            library_name="transformers",
            **said["options"],
        )


def main() -> None:
    """Do what the first argument says in the folder that is the second."""
    action, folder = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # it looks for a device, and says that there is none
    interop_fakes.install(sdk=action != "run")
    if action == "export":
        export(folder)
    else:
        run(folder, "ours" if action == "run" else "device")


if __name__ == "__main__":
    main()
