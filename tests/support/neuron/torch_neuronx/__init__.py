"""A double of torch_neuronx 2.9, the library on PyTorch/XLA: what its documentation says, and nothing else.

It compiles nothing, and casts as our own AutoCastMode does: what --auto-cast does to the numbers of a real device isn't
shown by it. The "NEFF" holds the TorchScript that a CPU traced, behind one operator, as the real one hides the
program. What it does and refuses, with the page of the Neuron SDK's documentation that says so:

- trace's signature; unknown arguments raise; Fixed Input Shapes "will result in an error"; CPU tensors in and out; one
  fused operator `neuron::forward*`; cpu_backend needs `--target` (inference/api-torch-neuronx-trace)
- a loaded module goes to a NeuronCore by itself, round-robin; without inlined weights they follow with
  move_trace_to_device (the same page)
- dynamic_batch: in place, before save; ValueError for shapes that differ in another dimension (the same page)
- set_neuron_cores and its ValueError and RuntimeError (inference/api-torch-neuronx-core-placement)
- lazy_load, async_load: after trace, before save; jit.load then doesn't wait for the core, and what is wrong shows at
  the first call (inference/api-torch-neuronx-async-lazy-load)
- replace_weights: in place; warns if there are no separate weights (inference/api-torch-neuronx-replace-weights)
- the compiler's flags and their values (compiler/neuronx-cc/api-reference-guide), its log, and that it exits non-zero
- logical cores: --logical-nc-config or -lnc in the compiler's reference, --lnc in compiler/error-codes/EARG001, by
  which those of 2 are for trn2; NEURON_LOGICAL_NC_CONFIG must match them (neuron-features/logical-neuroncore-config)
- --native-int64 is for trn2 and later (the compiler's reference)
- a NEFF is checked against the device's kind when it is loaded (release-notes/components/runtime, 2.32)
- NEURON_PLATFORM_TARGET_OVERRIDE stands for a device where there is none; read at import
  (vllm-neuron/docs/design/compilation/cpu_compilation)
- --verbose info goes to stdout (the compiler's reference)

The environment says what machine it is on: NEURON_DOUBLE is JSON with `device` (inf2 ..., or null), `cores`, `busy`,
`neff` (the newest NEFF version that the runtime takes), `fail` (how the compiler fails) and `lock` (a file: the process
that holds it has all the cores, and no other gets one; inference/api-torch-neuronx-core-placement).
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import warnings
from pathlib import Path

import torch

from neuronbert.backends.autocast import AutoCastMode
from tests.support.neff_files import HEADER_SIZE, build, tarball, untar

__version__ = "2.9.0.2.15.32035"
LNC = "--logical-nc-config"
SPELLINGS = {"-lnc": LNC, "--lnc": LNC, "-O": "--optlevel"}
TARGETS = ("inf2", "trn1", "trn1n", "trn2")
VALUES = {
    "--target": TARGETS,
    "--model-type": ("generic", "transformer", "unet-inference"),
    "--auto-cast": ("none", "matmult", "all"),
    "--auto-cast-type": ("bf16", "fp16", "tf32", "fp8_e4m3"),
    "--optlevel": ("1", "2", "3"),
    LNC: ("1", "2"),
    "--native-int64": ("default", "enabled", "disabled"),
    "--implicit-integer-downcast": None,
    "--distribution-strategy": ("llm-training",),
    "--verbose": ("info", "warning", "error", "critical", "debug"),
}
SWITCHES = (
    "--enable-mixed-precision-accumulation",
    "--disable-mixed-precision-accumulation",
    "--enable-saturate-infinity",
    "--enable-fast-context-switch",
    "--enable-fast-loading-neuron-binaries",
)
DEFINITION, PROGRAM = "sg00/def.json", "sg00/program.pt"
"""What the double's NEFF holds; a real one has a def.json as well, of another form."""
SINCE_2_27 = ("--native-int64", "--implicit-integer-downcast")
CHIPS = {"inf2": 2, "trn1": 2, "trn1n": 2, "trn2": 3}
"""The generation of a target's NeuronCores."""
NRT = "The PyTorch Neuron Runtime could not be initialized. Neuron Driver issues are logged to your system logs."
PLATFORM = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")  # read once, at import

calls: list[tuple[str, dict]] = []
"""What was called with what, for tests to look at."""
_loaded: dict[tuple[int, bytes], torch.jit.ScriptModule] = {}
_next_core = 0
_held: list = []
"""The lock file, once this process has the cores."""
_recording: list[bool] = []
"""Not empty while trace() records its operator: the operator itself can't ask, as the tracer is off inside it."""


def machine() -> dict:
    return json.loads(os.environ.get("NEURON_DOUBLE", "{}"))


def trace(
    func,
    example_inputs,
    *others,
    input_output_aliases={},  # noqa: B006  the documented default
    compiler_workdir=None,
    compiler_args=None,
    partitioner_config=None,
    inline_weights_to_neff=True,
    cpu_backend=False,
):
    calls.append(("trace", {"compiler_args": compiler_args, "cpu_backend": cpu_backend, "workdir": compiler_workdir}))
    if others:
        warnings.warn("keyword arguments were given by position", stacklevel=2)
    if input_output_aliases or partitioner_config:
        raise NotImplementedError("the double has no state and no partitions")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not all(isinstance(tensor, torch.Tensor) for tensor in inputs):
        raise RuntimeError("example_inputs must be a tensor or a tuple of tensors")
    flags = parse(compiler_args or [])
    _check_platform(flags, cpu_backend)
    if machine().get("fail") == "none":
        return None
    if flags.get("--verbose") == "info":
        os.write(1, b"INFO: compiling\n")
    state = {name: value.detach().clone() for name, value in func.state_dict().items()}
    neff = _compile(func, inputs, flags, Path(compiler_workdir or "."), inline_weights_to_neff)
    module = _Neuron(neff, {} if inline_weights_to_neff else state)
    _recording.append(True)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.trace(module, inputs, check_trace=False)
    finally:
        _recording.pop()


def _check_platform(flags: dict, cpu_backend: bool) -> None:
    if cpu_backend and "--target" not in flags:
        raise RuntimeError(
            "If you want to compile on CPU, please supply compiler argument target, with one of options trn1, inf2, "
            'trn1n, or trn2. Ex: "--target trn1"'
        )
    if not cpu_backend and machine().get("device") is None:
        raise RuntimeError(
            "Bad StatusOr access: INVALID_ARGUMENT: PJRT_Client_Create: error condition error != nullptr: "
            "Init: error condition !(num_devices > 0)"
        )
    platform = PLATFORM if cpu_backend else PLATFORM or machine()["device"]
    if flags.get("--target", platform) != platform:
        raise RuntimeError(f"the platform is {platform}, the target {flags['--target']}")


def dynamic_batch(neuron_script):
    calls.append(("dynamic_batch", {}))
    neuron_script.settings[DYNAMIC] = 1
    return neuron_script


def lazy_load(trace, enable_lazy_load=True):
    calls.append(("lazy_load", {}))
    trace.settings[LAZY] = int(enable_lazy_load)


def async_load(trace, enable_async_load=True):
    calls.append(("async_load", {}))
    trace.settings[ASYNC] = int(enable_async_load)


def move_trace_to_device(trace, device_id):
    calls.append(("move_trace_to_device", {"device_id": device_id}))
    if not 0 <= device_id < cores():
        raise ValueError(f"device_id {device_id} is not in [0, {cores() - 1}]")
    if trace.settings[CORE] != device_id or trace.settings[COUNT] != 1:
        raise RuntimeError("the weights would be on other cores than the program")
    trace.settings[MOVED] = 1


def set_neuron_cores(trace, start_nc=-1, nc_count=-1):
    calls.append(("set_neuron_cores", {"start_nc": start_nc, "nc_count": nc_count}))
    available = cores()
    count = 1 if nc_count == -1 else nc_count
    if count < 1 or max(start_nc, 0) + count > available:
        raise ValueError(f"nc_count {nc_count} is an invalid number of NeuronCores")
    trace.settings[CORE] = max(start_nc, 0)
    trace.settings[COUNT] = count
    _put(trace.neff, trace.settings)


def replace_weights(neuron_model, weights):
    calls.append(("replace_weights", {}))
    names = [name for name, _ in neuron_model.named_parameters()]
    if not names:
        warnings.warn("the model has no separate weights", stacklevel=2)
        return
    given = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    given = {name.replace(".", "__"): value for name, value in given.items()}
    for name, value in neuron_model.named_parameters():
        value.data.copy_(given[name])


def cores() -> int:
    if machine().get("device") is None or machine().get("busy"):
        raise RuntimeError(NRT)
    if "lock" in machine() and not _held:
        _held.append(Path(machine()["lock"]).open("wb"))  # noqa: SIM115  until this process ends, as the cores are
        try:
            fcntl.flock(_held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(NRT) from error
    return machine().get("cores", 2)


def parse(args) -> dict[str, str | None]:
    """The command line as the compiler takes it: the right-most of an option wins."""
    words = args.split() if isinstance(args, str) else [str(word) for word in args]
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    flags: dict[str, str | None] = {}
    while words:
        name = words.pop(0)
        name = SPELLINGS.get(name, name)
        known = name in SWITCHES or name in VALUES
        if name in SINCE_2_27 and tuple(map(int, machine().get("compiler", "2.26").split(".")[:2])) < (2, 27):
            known = False
        if not known:
            raise RuntimeError(f"neuronx-cc: error: unrecognized arguments: {name}")
        value = None if name in SWITCHES else words.pop(0)
        if VALUES.get(name) and value not in VALUES[name]:
            raise RuntimeError(f"neuronx-cc: error: argument {name}: invalid choice: {value!r}")
        flags[name] = value
    if "--native-int64" in flags and flags.get("--target") not in (None, "trn2"):
        raise RuntimeError("neuronx-cc: error: --native-int64 is only available on trn2 and later")
    return flags


DYNAMIC, LAZY, ASYNC, CORE, COUNT, MOVED = range(6)


class _Neuron(torch.nn.Module):
    """What the real library leaves: one operator over the NEFF, with the weights beside it if they aren't in it."""

    def __init__(self, neff: torch.Tensor, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.register_buffer("neff", neff)
        self.register_buffer("settings", torch.zeros(6, dtype=torch.int64))
        for name, value in weights.items():
            self.register_parameter(name.replace(".", "__"), torch.nn.Parameter(value, requires_grad=False))

    def forward(self, *inputs: torch.Tensor):
        weights = list(self.parameters())
        return tuple(torch.ops.neuron.forward_v2(list(inputs), weights, self.neff, self.settings))


def _compile(func, inputs, flags, workdir: Path, inline: bool) -> torch.Tensor:
    _fail(workdir)
    if flags.get(LNC) == "2" and flags.get("--target") != "trn2":
        raise RuntimeError("[NCC_EARG001] lnc=2 is not supported on this target")
    mode = {"matmult": "matmul", "all": "all"}.get(flags.get("--auto-cast") or "none")
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mode:
            with AutoCastMode(mode, flags.get("--auto-cast-type") or "bf16"):
                program = torch.jit.trace(func, inputs, check_trace=False)
        else:
            program = torch.jit.trace(func, inputs, check_trace=False)
        outputs = program(*inputs)
        kept = {name: value.clone() for name, value in func.state_dict().items()}
        if not inline:  # the program knows the weights' shapes only
            for value in func.state_dict().values():
                value.zero_()
        torch.jit.save(program, buffer)
        for name, value in func.state_dict().items():
            value.copy_(kept[name])
    meta = {
        "shapes": [list(tensor.shape) for tensor in inputs],
        "dtypes": [str(tensor.dtype) for tensor in inputs],
        "outputs": len(outputs),
        "weights": list(func.state_dict()),
        "lnc": int(flags.get(LNC) or 1),
        "target": flags.get("--target") or machine()["device"],
    }
    payload = tarball({DEFINITION: json.dumps(meta).encode(), PROGRAM: buffer.getvalue()}, compressed=False)
    neff = build(lnc=meta["lnc"], version=(2, 0), payload=payload)
    (workdir / "graph.neff").write_bytes(neff)
    return torch.frombuffer(bytearray(neff), dtype=torch.uint8).clone()


FAILURES = {
    "exit": RuntimeError("neuronx-cc failed with 70"),
    "full-log": RuntimeError("neuronx-cc failed with 70"),
    "killed": RuntimeError(f"neuronx-cc failed with {-signal.SIGKILL}"),
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "odd": LookupError("an operator\nof several lines"),
    "leaves": SystemExit(70),
    "interrupted": KeyboardInterrupt(),
}
LOG = "INFO: compiling\n\n{}\nINFO: see the log\n"


def _fail(workdir: Path) -> None:
    fail = machine().get("fail")
    if fail != "full":
        full = f"OSError: [Errno 28] {os.strerror(errno.ENOSPC)}: 'sg00'"
        said = full if fail == "full-log" else "ERROR: [NCC_EVRF001] an operator is not supported"
        (workdir / "log-neuron-cc.txt").write_text(LOG.format(said))
    if fail in FAILURES:
        raise FAILURES[fail]


def _open(neff: torch.Tensor) -> tuple[dict, torch.jit.ScriptModule]:
    header = neff[:HEADER_SIZE].numpy().tobytes()
    key = (neff.data_ptr(), header)
    if key not in _loaded:
        files = untar(neff[HEADER_SIZE:].numpy().tobytes())
        _loaded[key] = (json.loads(files[DEFINITION]), _load_script(io.BytesIO(files[PROGRAM])))
    return _loaded[key]


def _forward(inputs, weights, neff, settings):
    """The fused operator."""
    cores()
    if settings[CORE] < 0:
        _put(neff, settings)
    meta, program = _open(neff)
    if weights:
        own = program.state_dict()
        for name, given in zip(meta["weights"], weights, strict=True):
            if name in own:  # of tied ones the program has one
                own[name].copy_(given)
    batch = meta["shapes"][0][0]
    if not settings.tolist()[DYNAMIC]:
        _check(inputs, meta, RuntimeError, first=0)
        return list(program(*inputs))
    _check(inputs, meta, ValueError, first=1)
    rows = inputs[0].shape[0]
    parts = []
    for start in range(0, rows, batch):
        chunk = [tensor[start : start + batch] for tensor in inputs]
        short = batch - chunk[0].shape[0]
        chunk = [torch.nn.functional.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, short]) for tensor in chunk]
        parts.append(program(*chunk))
    return [torch.cat(outputs)[:rows] for outputs in zip(*parts, strict=True)]


def _check(inputs, meta, kind, first: int) -> None:
    for tensor, shape, dtype in zip(inputs, meta["shapes"], meta["dtypes"], strict=True):
        if list(tensor.shape[first:]) != shape[first:] or tensor.shape[0] != inputs[0].shape[0]:
            raise kind(f"input of shape {list(tensor.shape)} in place of {shape}")
        if str(tensor.dtype) != dtype:
            raise kind(f"input of type {tensor.dtype} in place of {dtype}")


_library = torch.library.Library("neuron", "FRAGMENT")
if not hasattr(torch.ops.neuron, "forward_v2"):
    _library.define("forward_v2(Tensor[] inputs, Tensor[] weights, Tensor neff, Tensor settings) -> Tensor[]")


def _trace_forward(inputs, weights, neff, settings):
    # While trace() records the operator there may be no device: only the number of outputs counts.
    if _recording:
        files = untar(neff[HEADER_SIZE:].numpy().tobytes())
        return [torch.zeros(1) for _ in range(json.loads(files[DEFINITION])["outputs"])]
    return _forward(inputs, weights, neff, settings)


_library.impl("forward_v2", _trace_forward, "CPU", allow_override=True)
_load_script = torch.jit.load


def _load(f, map_location=None, *args, **kwargs):
    """torch.jit.load with the library imported: a Neuron module goes to the device, if there is one."""
    module = _load_script(f, map_location, *args, **kwargs)
    if not hasattr(module, "neff") or not hasattr(module, "settings"):
        return module
    module.settings[CORE] = -1
    module.settings[COUNT] = 1
    if not module.settings[LAZY] and not module.settings[ASYNC]:
        _put(module.neff, module.settings)
    return module


def _put(neff, settings) -> None:
    """Put a program on its core, or the next one."""
    global _next_core  # noqa: PLW0603
    available = cores()
    major, minor = (int.from_bytes(neff[at : at + 8].numpy().tobytes(), "little") for at in (24, 32))
    if [major, minor] > machine().get("neff", [2, 0]):
        raise RuntimeError("Could not load the model status=10 message=Unsupported NEFF Version")
    meta, _ = _open(neff)
    device = machine()["device"]
    if CHIPS[meta["target"]] != CHIPS[device]:
        raise RuntimeError("Could not load the model status=1 message=Failure")
    size = int(os.environ.get("NEURON_LOGICAL_NC_CONFIG", "2"))
    if device == "trn2" and size != meta["lnc"]:
        raise RuntimeError("Could not load the model status=2 message=Invalid")
    if settings[CORE] < 0:
        settings[CORE] = _next_core % available
        _next_core += 1


torch.jit.load = _load


def unload() -> None:
    """Undo what the import did to torch, for the next test."""
    torch.jit.load = _load_script
    _library._destroy()
