"""Lower an exported program to HLO with PyTorch/XLA on a CPU: the program of the process that `hlo.lower` starts.

It may run on another interpreter than neuronbert's, with torch and torch_xla of their own versions and nothing else, so
it imports nothing of neuronbert, and Python 3.10 has to understand it.

Owns: the steps that torch_neuronx.trace takes before it calls the compiler. Usage: hlo_worker.py PROGRAM ANSWER
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass


def main(program: str, answer: str) -> None:
    """Lower a file of `torch.export.save` and write the HLO, or why there is none, as JSON."""
    os.environ["PJRT_DEVICE"] = "CPU"
    import torch_xla  # noqa: PLC0415  it reads the environment, and neuronbert's own interpreter needs to have none

    found = {"versions": {"torch": torch.__version__, "torch_xla": torch_xla.__version__}, "hlo": "", "problem": ""}
    exported = torch.export.load(program)
    try:
        found["hlo"] = lower(exported)
    except Exception as error:  # noqa: BLE001  whatever stops the lowering is the answer
        found["problem"] = str(error).strip() or type(error).__name__
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def lower(exported: torch.export.ExportedProgram) -> str:
    """The HLO of an exported program, as text, before any optimisation.

    What torch_xla has no lowering for, it computes on the CPU and goes on with the values, so that the HLO lacks a part
    of the program; only its counters tell.

    Raises:
        RuntimeError: some of it has no lowering.
    """
    import torch_xla  # noqa: PLC0415
    from torch_xla.debug import metrics  # noqa: PLC0415

    moved = move_to_device_pass(exported, str(torch_xla.device()))
    inputs, _ = moved.example_inputs
    metrics.clear_counters()
    torch_xla._XLAC._set_allow_execution(False)
    with torch.no_grad():
        outputs = moved.module()(*inputs)
    missing = [name for name in metrics.counter_names() if name.startswith("aten::")]
    if missing:
        raise RuntimeError(f"torch_xla has no lowering for {', '.join(missing)}")  # noqa: TRY003  it has no class
    hlo: str = torch_xla._XLAC._get_xla_tensors_hlo([output for output in outputs if isinstance(output, torch.Tensor)])
    return hlo


if __name__ == "__main__":
    main(*sys.argv[1:])
