"""I-BERT's integers carried in fp32, as Neuron targets compile them: those of the reference, bit for bit."""

from __future__ import annotations

import copy
import itertools
import re
import shutil
import warnings
from contextlib import nullcontext

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neuronbert import QuantizationPlan, StaticShape, inputs, modeling, quantize
from neuronbert.adaptive.keeping import Keeping
from neuronbert.backends.autocast import AutoCastMode
from neuronbert.backends.flat import Flat
from neuronbert.checkpoint import Checkpoint
from neuronbert.encoder.model import install
from neuronbert.errors import IntegerRangeError, UnsupportedFeatureError
from neuronbert.integers import nonlinear
from neuronbert.integers.arithmetic import INTEGERS
from neuronbert.integers.carriers import CarriedAttention, carry
from neuronbert.integers.conversion import convert
from neuronbert.integers.nonlinear import softmax_constants
from neuronbert.integers.scales import scale_of
from neuronbert.passages import sample
from neuronbert.quantization.ibert import calibrate

TEXTS = list(itertools.islice(sample(), 500, 516))
PLAN = QuantizationPlan(quantization="ibert", rows=16, sequence_length=32)


@pytest.fixture(scope="module")
def quantized(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried") / "checkpoint"
    quantize(str(tiny("feature-extraction")), folder, TEXTS, PLAN)
    return folder


@pytest.fixture(scope="module")
def real(minilm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried") / "minilm"
    quantize(str(minilm), folder, TEXTS, PLAN)
    return folder


def loaded_of(folder, task="feature-extraction"):
    return modeling.load(Checkpoint.open(folder), task, quantization="ibert")


def carried_of(loaded):
    return carry(copy.deepcopy(loaded.head))


def rows_of(loaded, batch, length, seed=0):
    given = list(inputs.example(loaded.inputs, StaticShape(batch, length)))
    torch.manual_seed(seed)
    places = {spec.name: index for index, spec in enumerate(loaded.inputs)}
    given[places["input_ids"]] = torch.randint(5, loaded.inputs[0].maximum or 99, (batch, length))
    for row in range(batch):
        given[places["attention_mask"]][row, length - 3 * row :] = 0
    return tuple(given)


def same(loaded, given):
    with torch.no_grad(), AutoCastMode("matmul", "bf16"):
        found = carried_of(loaded)(*given)
    with torch.no_grad():
        return torch.equal(found[0], loaded.head(*given)[0])


def test_real_weights_give_the_same_integers_under_auto_cast(real):
    loaded = loaded_of(real)
    tokenizer = transformers.AutoTokenizer.from_pretrained(real)
    given = tokenizer(TEXTS[:2], return_tensors="pt", padding=True, truncation=True, max_length=40)
    assert same(loaded, tuple(given[spec.name] for spec in loaded.inputs))


def test_so_do_layers_of_bert_base_width_with_rows_as_long_as_they_get(tiny, tmp_path):
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 1}
    model = tiny("feature-extraction", **sizes, max_position_embeddings=512, initializer_range=0.05)
    folder = shutil.copytree(model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"][0] = 0.2  # its sum can be more than fp32 holds
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    quantize(str(folder), tmp_path / "out", TEXTS, PLAN)
    loaded = loaded_of(tmp_path / "out")
    assert len(carried_of(loaded).model.encoder.layer[0].output.dense.pieces) == 3
    assert same(loaded, rows_of(loaded, 1, 512))


@pytest.mark.parametrize("kind", ["gelu", "softmax", "layernorm", "nonlinear"])
def test_functions_that_stay_in_float_leave_the_others_as_they_are(quantized, tmp_path, kind):
    folder = shutil.copytree(quantized, tmp_path / "altered")
    text = (folder / "config.json").read_text().replace('"force_dequant": "none"', f'"force_dequant": "{kind}"')
    (folder / "config.json").write_text(text)
    loaded = loaded_of(folder)
    assert same(loaded, rows_of(loaded, 3, 24))


def test_positions_that_leave_padding_out_are_counted_in_fp32(tmp_path):
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, initializer_range=0.2,
    )  # fmt: skip
    transformers.RobertaModel(config).save_pretrained(tmp_path / "model")
    loaded = modeling.load(Checkpoint.open(tmp_path / "model"), "feature-extraction")
    model = loaded.head.model
    encoder = install(copy.deepcopy(model))
    batch = {"input_ids": torch.randint(5, 99, (4, 20)), "attention_mask": torch.ones(4, 20, dtype=torch.int64)}
    found, _, _ = calibrate(encoder, [batch], "max", percentile=100, progress=lambda _: None)
    convert(model, found)
    head = install(model, INTEGERS)
    ids = torch.randint(5, 99, (2, 20))
    ids[0, 12:] = 1
    mask = (ids != 1).long()
    with torch.no_grad():
        expected = head(ids, mask).last_hidden_state
        assert torch.equal(carry(copy.deepcopy(head))(ids, mask).last_hidden_state, expected)


class _Operators(TorchDispatchMode):
    """Writes down what each operator gave."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen += [(str(func), value.dtype) for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        return result


MOVES = {"arange", "detach", "embedding", "slice", "split_with_sizes", "unsqueeze", "zeros_like"}


def test_from_the_ids_to_the_head_everything_is_computed_in_fp32(quantized):
    encoder = carried_of(loaded_of(quantized)).model
    ids, mask = torch.randint(5, 9000, (2, 16)), torch.zeros(2, 1, 1, 16)
    mask[0, ..., 10:] = -1.0
    flat = Flat(encoder)
    nothing = dict.fromkeys(("token_type_ids", "position_ids", "inputs_embeds"))
    flat.forward = lambda ids, mask: encoder._layers(  # transformers makes its mask of integers, so this one is given
        encoder.arithmetic.embed(encoder.embeddings, {"input_ids": ids, **nothing}), mask, encoder.keeping
    )[0]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(flat, (ids, mask), check_trace=False)
        with _Operators() as operators:
            flat.forward(ids, mask)
    assert len(operators.seen) > 1000
    kinds = {dtype for _, dtype in operators.seen}
    assert kinds <= {torch.float32, torch.bool, torch.int8, torch.int64}  # bytes are weights, wide ones ids
    moved = {name.split(".")[1] for name, dtype in operators.seen if dtype in (torch.int8, torch.int64)}
    assert moved <= MOVES
    # A number of Python's in a graph is a Double of no dimensions, as in every traced model.
    assert not re.search(r"(Double|Long|Int)\(\d+, \d+, \d+", str(program.inlined_graph))
    weights = {name: value.dtype for name, value in encoder.named_buffers() if name.endswith("weight")}
    assert set(weights.values()) == {torch.int8}


def test_rows_longer_than_fp32_adds_up_are_refused(quantized):
    attention = carried_of(loaded_of(quantized)).model.encoder.layer[0].attention.self
    with pytest.raises(UnsupportedFeatureError, match="at most 512 tokens"):
        attention.probabilities(torch.zeros(1, 4, 513, 513), torch.ones(1, dtype=torch.bool))


def test_heads_wider_than_fp32_adds_up_are_refused(quantized):
    site = loaded_of(quantized).head.model.encoder.layer[0].attention.self
    site.attention_head_size = 1025
    with pytest.raises(IntegerRangeError, match="1025 products"):
        CarriedAttention(site)


@pytest.mark.parametrize(
    ("size", "coarser", "fits"), [(384, 23, True), (385, 23, False), (512, 0, True), (513, 0, False)]
)
def test_heads_whose_scores_are_further_apart_than_fp32_counts_are_refused(quantized, size, coarser, fits):
    site = loaded_of(quantized).head.model.encoder.layer[0].attention.self
    site.attention_head_size, site.constants = size, softmax_constants(2.0 ** (-14 - coarser), scale_of(1.0, 16))
    if not fits:
        with pytest.raises(IntegerRangeError, match=f"scores of {size} products"):
            CarriedAttention(site)
        return
    # The furthest apart that bytes make them, and each by the least step that a rounding would lose.
    ends = [size * 2**14, size * 2**14 - 1, -size * 128 * 127, 1 - size * 128 * 127, *range(-3, 3)]
    scores = torch.tensor([[[ends]]])
    attended = torch.ones(1, dtype=torch.bool)
    found = CarriedAttention(site).probabilities(scores.to(torch.float32), attended)
    assert torch.equal(found.to(torch.uint8), nonlinear.softmax(scores.to(torch.int32), attended, site.constants))


@pytest.mark.parametrize("selection", ["gather", "one-hot"])
def test_tokens_are_dropped_as_the_reference_drops_them(quantized, selection):
    loaded = loaded_of(quantized)
    config = Checkpoint.open(quantized).config
    keeping = Keeping.of(
        "feature-extraction", config, sequence_length=16, length_config=(12, 8), layer_config=None,
        always_keep_cls_token=None, selection=selection,
    )  # fmt: skip
    kept = modeling.keep_tokens(loaded, keeping.model_copy(update={"selection": "gather"}))
    given = rows_of(kept, 2, 16)
    with torch.no_grad():
        expected = kept.head(*given)[0]
    again = modeling.keep_tokens(loaded_of(quantized), keeping)
    # By product with ones, rows that come back to what is left of the encoder are rounded like any operand.
    with torch.no_grad(), AutoCastMode("matmul", "bf16") if selection == "gather" else nullcontext():
        found = carry(again.head)(*given)[0]
    assert torch.equal(found, expected)
