"""Exported programs that were altered: each is refused before anything of it runs, imports or is unpickled.

The canary is a file that any of them would touch.
"""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251  what somebody else would send
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neuronbert.backends import archives, pt2
from neuronbert.errors import ArtifactCorruptError
from tests.support.archives import change, members, packed, two_in_one

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
EXAMPLE = (torch.ones(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.int64))


class Head(nn.Module):
    """Weights, a constant, and a choice of operators."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(4, 4)
        self.register_buffer("positions", torch.arange(4), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = nn.functional.gelu(self.dense(ids.float() + self.positions), approximate="tanh")
        first, _ = torch.split(hidden, 2, dim=-1)
        return first * mask[..., :2], hidden.sum(-1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "program.pt2"
    pt2.save(torch.export.export(Head().eval(), EXAMPLE, strict=False), path)
    return path


@pytest.fixture
def program(saved: Path, tmp_path: Path) -> Path:
    """A copy, to be altered."""
    return Path((tmp_path / "program.pt2").write_bytes(saved.read_bytes()) and tmp_path / "program.pt2")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


class Touches:
    """What is unpickled to a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def name_of(contents: dict[str, bytes], end: str) -> str:
    return next(name for name in contents if name.endswith(end))


def edit(path: Path, member: str, alter: Callable[[Any], object]) -> None:
    """Alter the JSON of a member."""

    def altered(contents: dict[str, bytes]) -> None:
        name = name_of(contents, member)
        body = json.loads(contents[name])
        alter(body)
        contents[name] = json.dumps(body).encode()

    change(path, altered)


def replace(path: Path, member: str, old: str, new: str) -> None:
    """Replace a text wherever it stands in a member."""

    def altered(contents: dict[str, bytes]) -> None:
        name = name_of(contents, member)
        assert old.encode() in contents[name]
        contents[name] = contents[name].replace(old.encode(), new.encode())

    change(path, altered)


def graph(body: Any) -> Any:
    return body["graph_module"]["graph"]


def root(body: Any) -> Any:
    return body["graph_module"]["module_call_graph"][0]["signature"]


def refused(path: Path, said: str | None = None) -> None:
    with pytest.raises(ArtifactCorruptError, match=said) as caught:
        pt2.module_on(pt2.load(path), "cpu")(*EXAMPLE)
    assert "\n" not in str(caught.value)
    assert "Nothing was loaded" in str(caught.value)


# What is written.


def test_a_program_computes_what_its_module_does(saved: Path) -> None:
    module = pt2.module_on(pt2.load(saved), "cpu")
    for found, wanted in zip(module(*EXAMPLE), Head().eval()(*EXAMPLE), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_nothing_but_data_is_written(saved: Path) -> None:
    contents = members(saved.read_bytes())
    assert contents[name_of(contents, "sample_inputs/model.pt")] == b""
    body = json.loads(contents[name_of(contents, GRAPH)])
    assert (body["guards_code"], body["range_constraints"]) == ([], {})
    assert not any(node["metadata"] for node in graph(body)["nodes"])
    text = b"".join(content for name, content in contents.items() if name.endswith(".json"))
    assert str(Path(__file__).parent).encode() not in text  # no stack traces
    assert b'"use_pickle": true' not in text


def test_another_device_is_where_all_of_it_goes(saved: Path) -> None:
    module = pt2.module_on(pt2.load(saved), "meta")
    found = module(*(tensor.to("meta") for tensor in EXAMPLE))
    assert {value.device.type for value in (*found, *module.parameters(), *module.buffers())} == {"meta"}


# What is refused.


@pytest.mark.parametrize("config", [WEIGHTS, CONSTANTS])
def test_pickled_weights_are_refused(program: Path, canary: Path, config: str) -> None:
    buffer = io.BytesIO()
    torch.save(Touches(canary), buffer)

    def plant(contents: dict[str, bytes]) -> None:
        name = name_of(contents, config)
        body = json.loads(contents[name])
        entry = next(iter(body["config"].values()))
        entry["use_pickle"] = True
        contents[name] = json.dumps(body).encode()
        contents[f"{name.rpartition('/')[0]}/{entry['path_name']}"] = buffer.getvalue()

    change(program, plant)
    refused(program, "has a pickled value")
    assert not canary.exists()


@pytest.mark.parametrize("prefix", ["custom_obj", "opaque_obj"])
@pytest.mark.parametrize("named", [True, False], ids=["as it is", "as a tensor"])
def test_objects_among_the_constants_are_refused(program: Path, canary: Path, prefix: str, named: bool) -> None:
    def plant(contents: dict[str, bytes]) -> None:
        name = name_of(contents, CONSTANTS)
        body = json.loads(contents[name])
        next(iter(body["config"].values()))["path_name"] = f"{prefix}_0"
        contents[name] = json.dumps(body).encode()
        stored = f"{prefix}_0" if named else "tensor_0"
        contents[f"{name.rpartition('/')[0]}/{stored}"] = pickle.dumps(Touches(canary))

    change(program, plant)
    refused(program, "has a pickled value")
    assert not canary.exists()


def test_sample_inputs_are_refused(program: Path, canary: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Touches(canary), buffer)
    change(program, lambda contents: contents.update({name_of(contents, "model.pt"): buffer.getvalue()}))
    refused(program, "holds pickled inputs")
    assert not canary.exists()


@pytest.mark.parametrize(
    "member",
    [
        "data/aotinductor/model/model.so",
        "data/weights/model.pt",
        "data/constants/model.pt",
        "extra/code.py",
        "models/other.json",
        "models/MODEL.json2",
        "serialized_state_dict.pt",
        "data/weights/weight_0.pt",
    ],
)
def test_members_of_other_kinds_are_refused(program: Path, member: str) -> None:
    def plant(contents: dict[str, bytes]) -> None:
        contents[f"{next(iter(contents)).partition('/')[0]}/{member}"] = b"{}"

    change(program, plant)
    refused(program, "no part of an exported program")


def test_two_programs_in_one_file_are_refused(program: Path) -> None:
    change(program, lambda contents: contents.update({"other/models/model.json": b"{}"}))
    refused(program, "is not an exported program")


def test_the_older_format_is_refused(program: Path, canary: Path) -> None:
    """torch.export.load falls back to it, and unpickles what it finds."""
    program.write_bytes(packed({"version": b"8.20", "serialized_state_dict.pt": pickle.dumps(Touches(canary))}))
    refused(program, "is not an exported program")
    assert not canary.exists()


def test_a_second_directory_does_not_hide_another_program(program: Path, canary: Path) -> None:
    shown = members(program.read_bytes())
    edit(program, GRAPH, lambda body: body.update(guards_code=["__import__('os').mkdir('x')"]))
    program.write_bytes(two_in_one(shown, members(program.read_bytes())))
    refused(program)


CALL = '__import__("pathlib").Path("CANARY").touch()'


@pytest.mark.parametrize(
    "hostile",
    [
        'dense.weight"+str(CALL)+"',
        "dense.weight = CALL; x",
        "x\n    CALL\n    y",
        "(lambda: CALL)()",
        "dense.weight' or CALL or '",
        "__class__",
        "dense.__init__.__globals__",
        "lambda",
        "é",
    ],
)
@pytest.mark.parametrize("where", ["weight", "node", "input", "argument", "constant", "module"])
def test_a_name_that_is_more_than_a_name_is_refused(program: Path, canary: Path, where: str, hostile: str) -> None:
    """torch writes Python code with the names of values and weights in it, and runs that."""
    old = {
        "weight": '"dense.weight"',
        "node": '"linear"',
        "input": '"ids"',
        "argument": '"ids"',
        "constant": '"positions"',
        "module": '"dense"',
    }[where]
    new = json.dumps(hostile.replace("CALL", CALL.replace("CANARY", str(canary))))

    def plant(contents: dict[str, bytes]) -> None:
        for end in (GRAPH, WEIGHTS, CONSTANTS):
            name = name_of(contents, end)
            text = contents[name].decode()
            if where == "argument":
                text = text.replace(f'"forward_arg_names": [{old}', f'"forward_arg_names": [{new}')
            else:
                text = text.replace(old, new)
            contents[name] = text.encode()

    before = program.read_bytes()
    change(program, plant)
    assert members(program.read_bytes()) != members(before)
    refused(program, "has a name that is none")
    assert not canary.exists()


ENUM = {"__enum__": True, "fqn": "this:d", "name": "x"}


@pytest.mark.parametrize(
    "alter",
    [
        lambda tree: tree.update(type="collections.OrderedDict"),
        lambda tree: tree.update(type="collections.namedtuple"),
        lambda tree: tree.update(context=json.dumps([ENUM])),
        lambda tree: tree["children_spec"].append({"type": "os.system", "context": "null", "children_spec": []}),
        lambda tree: tree.update(context={"__enum__": True}),
    ],
    ids=["class", "named tuple", "import", "unknown", "object"],
)
@pytest.mark.parametrize("spec", ["in_spec", "out_spec"])
def test_trees_of_other_things_than_tuples_are_refused(program: Path, spec: str, alter: Any) -> None:
    """torch imports the module that an enumeration in a tree names."""

    def altered(body: Any) -> None:
        protocol, tree = json.loads(root(body)[spec])
        alter(tree)
        root(body)[spec] = json.dumps([protocol, tree])

    edit(program, GRAPH, altered)
    refused(program, "gives values of a class")
    assert "this" not in sys.modules


def test_a_type_behind_an_escape_is_read_as_torch_reads_it(program: Path) -> None:
    replace(program, GRAPH, r"\"type\": \"builtins.dict\"", r"\"\\u0074ype\": \"collections.OrderedDict\"")
    refused(program, "gives values of a class")


@pytest.mark.parametrize(
    "alter",
    [
        lambda body: body.update(guards_code=["__import__('os').system('true')"]),
        lambda body: body.update(range_constraints={"s0": {"min_val": 1, "max_val": 2}}),
        lambda body: body["graph_module"].update(treespec_namedtuple_fields={"X": {"field_names": ["a"]}}),
    ],
    ids=["guards", "ranges", "named tuple"],
)
def test_code_and_ranges_are_refused(program: Path, alter: Any) -> None:
    edit(program, GRAPH, alter)
    refused(program, "has code or ranges|gives values of a class")


@pytest.mark.parametrize(
    "value",
    [
        {"as_sym_int": {"as_expr": {"expr_str": "__import__('os').getpid()", "hint": None}}},
        {"as_graph": {"name": "inner", "graph": {}}},
        {"as_custom_obj": {"name": "x", "class_fqn": "y"}},
        {"as_operator": "torch.ops.aten.save"},
        {"as_complex": {"real": 1, "imag": 1}},
        {"as_string_to_argument": {}},
        {"expr_str": "1"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_arguments_that_are_no_plain_data_are_refused(program: Path, value: dict[str, Any]) -> None:
    edit(program, GRAPH, lambda body: graph(body)["nodes"][-1]["inputs"][0].update(arg=value))
    refused(program, "which is no plain data")


def test_symbolic_sizes_are_refused(program: Path) -> None:
    size = {"as_expr": {"expr_str": "__import__('os').getpid()", "hint": {"as_int": 2}}}
    edit(program, GRAPH, lambda body: graph(body)["tensor_values"]["ids"]["sizes"].__setitem__(0, size))
    refused(program, "which is no plain data")


@pytest.mark.parametrize(
    "operator",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten._print.default",
        "torch.ops.prim.Print.default",
        "torch.ops.inductor.resize_storage_bytes_.default",
        "torch.ops.higher_order.cond",
        "torch.load",
        "torch.hub.load",
        "torch.utils.cpp_extension.load",
        "_operator.attrgetter",
        "_operator.getitem.__class__",
        "math.sqrt",
        "#triton:kernel",
        "os.system",
        "",
    ],
)
def test_operators_outside_the_list_are_refused(program: Path, operator: str) -> None:
    edit(program, GRAPH, lambda body: graph(body)["nodes"][0].update(target=operator))
    refused(program, "which no encoder needs")


def test_metadata_of_nodes_is_refused(program: Path) -> None:
    edit(program, GRAPH, lambda body: graph(body)["nodes"][0].update(metadata={"nn_module_stack": "a"}))
    refused(program, "names objects of the program")


@pytest.mark.parametrize(
    ("sizes", "strides"), [([1 << 40], [0]), ([1 << 20, 1 << 20], [0, 0]), ([0], [1]), ([-1, -4], [1, 1])], ids=str
)
def test_a_weight_that_is_larger_than_its_bytes_is_refused(program: Path, sizes: list[int], strides: list[int]) -> None:
    def alter(body: Any) -> None:
        meta = body["config"]["dense.weight"]["tensor_meta"]
        meta["sizes"] = [{"as_int": size} for size in sizes]
        meta["strides"] = [{"as_int": stride} for stride in strides]

    edit(program, WEIGHTS, alter)
    refused(program, "larger than it is|is not an exported program")


def test_an_empty_weight_is_no_zeros_of_any_size(program: Path) -> None:
    change(program, lambda contents: contents.update({name_of(contents, "weight_0"): b""}))
    refused(program, "larger than it is")


def test_two_members_of_one_name_are_refused(program: Path) -> None:
    with zipfile.ZipFile(program, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name_of(dict.fromkeys(archive.namelist(), b""), GRAPH), b"{}")
    refused(program, "two members of one name")


def test_texts_of_any_size_are_not_read(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt2, "_MAX_TEXT", 1 << 20)
    contents = members(program.read_bytes())
    name = name_of(contents, GRAPH)
    contents[name] += b" " * (2 << 20)
    program.write_bytes(packed(contents, zipfile.ZIP_DEFLATED))
    refused(program, f"of {len(contents[name])} bytes")


def test_an_archive_that_swells_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MAX_INFLATED", 1 << 20)
    contents = members(program.read_bytes())
    contents[name_of(contents, "weight_0")] = bytes(4 << 20)
    program.write_bytes(packed(contents, zipfile.ZIP_DEFLATED))
    refused(program, "far more than it has")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "null", "[]", "{}", '"x"', "\xff", "NaN"])
@pytest.mark.parametrize("member", [GRAPH, WEIGHTS, CONSTANTS])
def test_json_that_is_something_else_is_refused(program: Path, member: str, text: str) -> None:
    change(program, lambda contents: contents.update({name_of(contents, member): text.encode("latin-1")}))
    refused(program)


def test_a_deep_tree_is_refused(program: Path) -> None:
    leaf = '{"type": null, "context": null, "children_spec": []}'
    deep = '{"type": "builtins.tuple", "context": "null", "children_spec": ['
    text = f"[1, {deep * 20_000}{leaf}{']}' * 20_000}]"
    edit(program, GRAPH, lambda body: root(body).update(in_spec=text))
    refused(program)


@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_refused(program: Path, part: float) -> None:
    content = program.read_bytes()
    program.write_bytes(content[: int(len(content) * part)])
    refused(program, "is not an exported program")


@given(data=st.data())
def test_flipped_bytes_are_one_error_or_harmless(saved: Path, tmp_path_factory: Any, data: st.DataObject) -> None:
    contents = members(saved.read_bytes())
    name = name_of(contents, data.draw(st.sampled_from([GRAPH, GRAPH, WEIGHTS, CONSTANTS])))
    text = bytearray(contents[name])
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(32, 126))
    path = tmp_path_factory.mktemp("flip") / "program.pt2"
    path.write_bytes(packed({**contents, name: bytes(text)}))
    with suppress(ArtifactCorruptError):  # and nothing else
        pt2.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.pt2", "is not an exported program")
