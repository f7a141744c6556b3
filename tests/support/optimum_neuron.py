"""Folders as optimum-neuron writes them, made without it: its section in every historic form, beside any program.

`make interop` has the real exporter write them; what it writes is the last form here, key for key.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from neuronbert.architectures import ARCHITECTURES, TASKS

CONFIG = {"model_type": "bert", "vocab_size": 100, "type_vocab_size": 2, "hidden_size": 16, "pad_token_id": 7}
"""What a reader needs of the model's own config."""
CPU_CODE = b"def forward(self, input_ids):\n  return torch.gelu(input_ids)\n"
DEVICE_CODE = b"model : __torch__.torch.classes.neuron.Model\n_0 = ops.neuron.forward_v2([input_ids], model)\n"


def config(form: str, task: str, model: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The config.json that a version of optimum-neuron wrote for a program of 2 rows of 16 tokens.

    Args:
        form: A key of FORMS.
        task: What was exported.
        model: The model's own config.
        changes: Keys of the section to be other than they were.
    """
    names = {
        "input_names": list(ARCHITECTURES["bert"].inputs),
        "output_names": [output.name for output in TASKS[task].outputs],
    }
    shape = {"static_batch_size": 2, "static_sequence_length": 16}
    choices = {"static_num_choices": 3} if task == "multiple-choice" else {}
    section, beside = FORMS[form](task, names)
    whole = {**(model or CONFIG), "architectures": [ARCHITECTURES["bert"].heads[task]], **beside}
    return {**whole, "neuron": {**section, **shape, **choices, **changes}}


def _v0_0_8(task: str, names: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    flags = {"auto_cast": "matmul", "auto_cast_type": "bf16", "dynamic_batch_size": False}
    return {"compiler_type": "neuronx-cc", "compiler_version": "2.9.0.40+07376825f", **flags, **names}, {}


def _v0_0_12(task: str, names: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return _v0_0_8(task, names)[0], {"task": task}


def _v0_0_18(task: str, names: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    section, beside = _v0_0_12(task, names)
    added = {"inline_weights_to_neff": False, "optlevel": "2", "model_type": "bert"}
    return {**section, **added, "output_attentions": False, "output_hidden_states": False}, beside


def _v0_0_28(task: str, names: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    section, beside = _v0_0_18(task, names)
    inf1 = {"disable_fallback": False, "disable_fast_relayout": False}
    return {**section, "tensor_parallel_size": 1, **inf1, "static_image_size": None}, beside


def _v0_2_0(task: str, names: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    nothing = {"input_names": None, "output_names": None}
    return {**_v0_0_28(task, names)[0], **nothing, "task": task}, {}


def _v0_4_5(task: str, names: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {
        "auto_cast": "matmul",
        "auto_cast_type": "bf16",
        "compiler_type": "neuronx-cc",
        "compiler_version": "2.21.33363.0+82129205",
        "dynamic_batch_size": False,
        "float_dtype": "fp32",
        "inline_weights_to_neff": True,
        "instance_type": "inf2",
        "int_dtype": "int64",
        "model_type": "bert",
        "optlevel": "2",
        "output_attentions": False,
        "output_hidden_states": False,
        "task": task,
        "tensor_parallel_size": 1,
    }, {}


def _least(task: str, names: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, {}


FORMS = {
    "0.0.8": _v0_0_8,
    "0.0.12": _v0_0_12,
    "0.0.18": _v0_0_18,
    "0.0.28": _v0_0_28,
    "0.2.0": _v0_2_0,
    "0.4.5": _v0_4_5,
    "the least that its reader takes": _least,
}


def archive(code: bytes = CPU_CODE) -> bytes:
    """What looks like a TorchScript archive to who only looks at its code."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", b"")
        file.writestr("model/code/__torch__/head.py", code)
    return made.getvalue()


def write(folder: Path, config: dict[str, Any], program: bytes | None = None, name: str = "model.neuron") -> Path:
    """A folder with a config and, unless it is put there later, a program."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if program is not None:
        (folder / name).write_bytes(program)
    return folder
