"""Any number of rows of any lengths: on real programs, against transformers' eager model one row at a time."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuronbert import NeuronAutoModel, Predictor, StaticShape, errors, predictor
from tests.integration.test_heads import eager

BUCKETS = tuple(StaticShape(rows, length) for rows in (1, 4) for length in (8, 16, 32))
LONGEST = 32
# Both sides are fp32 and of the order of one; companions and padding only choose another kernel, so another order of
# additions.
CLOSE = {"rtol": 0, "atol": 1e-5}
# Operands of products are rounded to bf16 (2**-9), so a last bit of fp32 may turn one over; the values are as above.
CLOSE_BF16 = {"rtol": 0, "atol": 2e-2}
TASKS = ("feature-extraction", "token-classification", "question-answering", "text-classification")

Inputs = dict[str, torch.Tensor]


@st.composite
def rows(draw: st.DrawFn, most: int = 12) -> Inputs:
    """Rows of mixed lengths, some padded on the left or with holes in the mask, in any width that holds them."""
    count = draw(st.integers(1, most))
    width = draw(st.integers(1, LONGEST))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    mask = torch.zeros(count, width, dtype=torch.int64)
    for row in mask:
        first, last = sorted(draw(st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))))
        row[first if draw(st.booleans()) else 0 : last + 1] = 1
        if draw(st.booleans()):
            row[:last] *= torch.randint(0, 2, (last,), generator=generator)
    return {
        "input_ids": torch.randint(0, 30522, (count, width), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, (count, width), generator=generator),
    }


def of_row(outputs: Any, row: int, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a row is given, without the positions that it masks out."""
    by_token = {"last_hidden_state", "start_logits", "end_logits"}
    return {
        name: value[row][mask[row].bool()] if name in by_token or value.dim() == 3 else value[row]
        for name, value in outputs.items()
    }


@pytest.fixture(scope="module")
def models(exported: Callable[..., Path], tiny: Callable[..., Path]) -> Callable[..., tuple[Any, Any]]:
    """Our model over all buckets, and transformers' own."""
    made: dict[tuple[str, str], tuple[Any, Any]] = {}

    def make(task: str, cast: str = "none") -> tuple[Any, Any]:
        if (task, cast) not in made:
            ours = NeuronAutoModel.from_pretrained(exported(task, *BUCKETS, auto_cast=cast))
            made[task, cast] = ours, eager(tiny(task), task)
        return made[task, cast]

    return make


many = settings(
    deadline=None, database=None, derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("task", TASKS)
@many
@given(given_=rows())
def test_a_row_is_what_transformers_gives_for_it_alone(models: Any, task: str, given_: Inputs) -> None:
    ours, theirs = models(task)
    together, mask = ours(**given_), given_["attention_mask"]
    for row in range(len(mask)):
        length = int(mask[row].nonzero().max()) + 1
        with torch.no_grad():
            alone = theirs(**{name: value[row : row + 1, :length] for name, value in given_.items()})
        expected = of_row(alone, 0, mask[row : row + 1, :length])
        found = of_row(together, row, mask)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], **CLOSE)


@pytest.mark.parametrize(("cast", "close"), [("none", CLOSE), ("matmul", CLOSE_BF16)])
@many
@given(given_=rows(), order=st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_companions_nor_on_its_place(
    models: Any, cast: str, close: dict[str, float], given_: Inputs, order: Any
) -> None:
    model, _ = models("feature-extraction", cast)
    count = len(given_["input_ids"])
    places = order.sample(range(count), count)
    some = places[: max(1, count // 2)]
    together = model(**given_)
    apart = model(**{name: value[some] for name, value in given_.items()})
    for at, row in enumerate(some):
        one, other = of_row(apart, at, given_["attention_mask"][some]), of_row(together, row, given_["attention_mask"])
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], **close)


def ragged(*lengths: int, width: int = LONGEST) -> Inputs:
    ids = torch.randint(0, 30522, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < torch.tensor(lengths)[:, None]).long()}


def test_positions_that_no_call_reached_are_zeros_or_never_the_largest(models: Any) -> None:
    given_ = ragged(3, 30)
    logits = models("token-classification")[0](**given_).logits
    assert not logits[0, 8:].any()
    assert logits[0, 3:8].all()  # computed: its bucket reaches so far
    outputs = models("question-answering")[0](**given_)
    for value in (outputs.start_logits, outputs.end_logits):
        assert value[0, 8:].eq(torch.finfo(torch.float32).min).all()
        assert value[0].argmax() < 8
        assert value.softmax(dim=-1).isfinite().all()


def test_the_session_says_which_program_served(models: Any, caplog: pytest.LogCaptureFixture) -> None:
    session = models("text-classification")[0].session
    before = session.served
    assert set(before) == set(BUCKETS)
    with caplog.at_level(logging.DEBUG, "neuronbert"):
        session.run(ragged(30, 3, 5, 4, 2, 3, 20))
    more = {shape.name: calls - before[shape] for shape, calls in session.served.items() if calls > before[shape]}
    assert more == {"1x32": 2, "4x8": 1, "1x8": 1}
    assert "4x8 serves rows [2, 3, 1, 5]" in caplog.messages
    with caplog.at_level(logging.DEBUG, "neuronbert"):
        session.run({"input_ids": torch.ones(4, 16, dtype=torch.int64)})
    assert session.served[StaticShape(4, 16)] == before[StaticShape(4, 16)] + 1


def test_a_call_that_fits_a_program_is_not_planned(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = models("text-classification")[0].session
    monkeypatch.setattr(session, "plan", lambda *_: pytest.fail("planned"))
    assert session.run(ragged(3, 4, 5, 16, width=16))["logits"].shape == (4, 2)


def test_numpy_in_is_numpy_out(models: Any) -> None:
    given_ = ragged(3, 30, 9)
    for task in TASKS:
        expected = models(task)[0](**given_)
        found = models(task)[0](**{name: value.numpy() for name, value in given_.items()})
        assert list(found) == list(expected)
        for name, value in found.items():
            assert isinstance(value, np.ndarray)
            assert np.array_equal(value, expected[name].numpy())


@pytest.mark.parametrize("dtype", ["int32", "uint16", "uint64", ">i8", "bool"])
def test_any_integer_array_is_taken(models: Any, dtype: str) -> None:
    ids = np.ones((3, 9), dtype=dtype)
    model = models("text-classification")[0]
    expected = model(torch.ones(3, 9, dtype=torch.int64)).logits
    ids.setflags(write=False)
    for given_ in (ids, np.asfortranarray(ids), ids[::-1]):
        assert np.array_equal(model(given_).logits, expected.numpy())


def test_an_output_is_what_its_class_would_make(models: Any) -> None:
    for task in TASKS:
        found = models(task)[0](**ragged(3, 30))
        made = type(found)(**dict(found))
        assert list(found) == list(made)
        assert all(one is other for one, other in zip(found.to_tuple(), made.to_tuple(), strict=True))
        assert all(getattr(found, field.name) is getattr(made, field.name) for field in dataclasses.fields(made))
        assert list(copy.deepcopy(found)) == list(made)


def test_questions_of_a_call_may_have_fewer_choices_than_the_program(exported: Any, tiny: Any) -> None:
    shapes = (StaticShape(1, 8, 3), StaticShape(2, 16, 3))
    model = NeuronAutoModel.from_pretrained(exported("multiple-choice", *shapes, auto_cast="none"))
    ids = torch.randint(0, 30522, (5, 2, 16), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[3, 8], [16, 1], [4, 4], [9, 2], [7, 7]])
    mask = (torch.arange(16) < lengths[..., None]).long()
    with torch.no_grad():
        expected = eager(tiny("multiple-choice"), "multiple-choice")(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected, **CLOSE)
    assert model.session.served == {shapes[0]: 3, shapes[1]: 1}


class BoomError(RuntimeError):
    """What a program raises."""


def test_a_program_that_raises_ends_the_call_and_nothing_else(
    exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = NeuronAutoModel.from_pretrained(exported("text-classification", *BUCKETS, auto_cast="none")).session
    given_ = ragged(3, 30, 4)
    expected = session.run(given_)["logits"]
    held = session.served

    def fail(*_tensors: torch.Tensor) -> None:
        raise BoomError

    with monkeypatch.context() as patched:
        patched.setitem(session._programs, StaticShape(4, 8), fail)
        with pytest.raises(BoomError) as caught:
            session.run(given_)
    assert caught.value.__notes__ == ["in a call of 4x8 with 2 rows, row 2 among them"]
    assert session.served == {**held, StaticShape(1, 32): held[StaticShape(1, 32)] + 1}
    assert torch.equal(session.run(given_)["logits"], expected)


# Texts.


def test_the_real_checkpoint_embeds_rows_together_as_alone(minilm: Path, tmp_path: Path) -> None:
    import transformers

    from neuronbert import ExportSpec, export
    from neuronbert.spec import shapes_of

    export(ExportSpec(str(minilm), shapes_of((1, 8), (16, 64)), auto_cast="none"), tmp_path / "minilm")
    words = (SENTENCE + " ").split() * 4
    texts = [" ".join(words[size % 5 : size + 1]) for size in (3, 50, 9, 12, 30, 1, 2, 45, 8, 5, 6, 11, 20)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    reference = transformers.AutoModel.from_pretrained(minilm).eval()
    for text, answer in zip(texts, Predictor.from_pretrained(str(tmp_path / "minilm")).predict(texts), strict=True):
        with torch.no_grad():
            expected = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(torch.tensor(answer["embedding"]), expected, **CLOSE)


SENTENCE = "the harbour was quiet and a committee of nine met on Tuesday to vote"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    words = SENTENCE.split()
    return [" ".join(words[start : start + size]) for start in range(5) for size in (1, 4, 9, 2, 7, 3)]


@pytest.mark.parametrize("block", [2048, 7])
def test_texts_are_answered_in_order_whatever_their_blocks(
    models: Any, texts: list[str], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_BLOCK", block)
    model = models("feature-extraction")[0]
    together = model.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = model.predict([text])
        assert answer["embedding"] == pytest.approx(alone["embedding"], abs=1e-5)


@pytest.mark.parametrize(("limit", "most"), [("_BLOCK", 4), ("_BLOCK_CHARACTERS", 60)])
def test_answers_come_block_by_block(
    models: Any, texts: list[str], limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, limit, most)
    ours = Predictor(models("text-classification")[0].session)
    tokenized: list[int] = []
    tokenize = predictor.answers.tokenize
    counting = lambda *args, **kwargs: (tokenized.append(len(args[2])), tokenize(*args, **kwargs))[1]  # noqa: E731
    monkeypatch.setattr(predictor.answers, "tokenize", counting)
    answers = ours.stream(texts, truncate=True)
    assert tokenized == []
    answer = next(answers)
    assert len(tokenized) == 1
    assert 1 < tokenized[0] <= 4
    assert set(answer.buckets) <= {shape.name for shape in BUCKETS}
    assert len(list(answers)) == len(texts) - 1


def test_each_answer_says_which_program_gave_it(models: Any) -> None:
    ours = Predictor(models("text-classification")[0].session)
    assert [answer.buckets for answer in ours.stream(["one", "word " * 20, "two", "three", "four"])] == [
        ("4x8",),
        ("1x32",),
        ("4x8",),
        ("4x8",),
        ("4x8",),
    ]


@pytest.mark.parametrize("block", [2048, 2])
def test_a_text_that_is_too_long_is_told_before_any_is_run(
    models: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_BLOCK", block)
    model = models("text-classification")[0]
    before = model.session.served
    with pytest.raises(errors.SequenceTooLongError, match=r"Row 4, the longest, has 62 .* up to 32 \(1 more is too lo"):
        model.predict(["a", "b", "c", "word " * 40, "word " * 60, "d"])
    assert model.session.served == before
    assert len(model.predict(["a", "word " * 60], truncate=True)) == 2


@pytest.mark.parametrize("rows", ["a text", {"text": "a"}], ids=["text", "row"])
def test_a_lone_text_is_no_list_of_texts(models: Any, rows: Any) -> None:
    with pytest.raises(errors.InvalidOptionError, match="a list of texts"):
        models("text-classification")[0].predict(rows)


def test_no_texts_are_refused(models: Any) -> None:
    with pytest.raises(errors.EmptyInputError):
        models("text-classification")[0].predict(np.array([], dtype=str))


def test_texts_and_pairs_and_arrays_of_texts_are_taken(models: Any) -> None:
    model = models("text-classification")[0]
    rows = ["a b", {"text": "a", "text_pair": "b"}, {"text": "a b"}]
    first, pair, same = model.predict(rows)
    assert first["score"] == pytest.approx(same["score"], abs=1e-5)
    assert pair["score"] != pytest.approx(first["score"], abs=1e-6)
    assert model.predict(np.array(["a b", "c"]))[0]["score"] == pytest.approx(first["score"], abs=1e-5)


def test_a_question_with_too_many_choices_is_told_before_any_is_run(exported: Any) -> None:
    ours = Predictor.from_pretrained(str(exported("multiple-choice", auto_cast="none")))
    rows = [{"text": "It", "choices": ["a", "b"]}, {"text": "It", "choices": ["a", "b", "c", "d"]}]
    with pytest.raises(errors.BatchTooLargeError, match="4 choices"):
        ours.predict(rows)
    assert set(ours.session.served.values()) == {0}


def test_questions_with_different_choices_are_answered_together(exported: Any) -> None:
    ours = Predictor.from_pretrained(str(exported("multiple-choice", auto_cast="none")))
    rows = [
        {"text": "It", "choices": choices} for choices in (["rains.", "snows."], ["a", "b", "c"], ["x"], ["y", "z"])
    ]
    together = ours.predict(rows)
    assert [len(answer["scores"]) for answer in together] == [2, 3, 1, 2]
    for row, answer in zip(rows, together, strict=True):
        assert answer["scores"] == pytest.approx(ours.predict([row])[0]["scores"], abs=1e-5)


# Windows.

LONG = " ".join(["Ada went to Lisbon with Bob and", "then Eve sent a letter from Reykjavik to them."] * 5)
ASKED = {"question": "Who went?", "context": LONG}


@pytest.mark.parametrize(("task", "row"), [("token-classification", {"text": LONG}), ("question-answering", ASKED)])
def test_long_texts_are_answered_window_by_window(models: Any, task: str, row: dict[str, str]) -> None:
    model = models(task)[0]
    short = {**row, "text" if "text" in row else "context": "Ada went to Lisbon."}
    with pytest.raises(errors.SequenceTooLongError):
        model.predict([row])
    first, second = Predictor(model.session).stream([row, short], stride=8)
    assert (len(first.buckets), len(second.buckets)) == (4 if task == "token-classification" else 5, 1)
    assert set(second.reply) == set(model.predict([short])[0])
    found = first.reply["entities"] if task == "token-classification" else [first.reply]
    for answer in found:
        said = answer.get("text", answer.get("answer"))
        assert said == LONG[answer["start"] : answer["end"]]
    assert max(answer["end"] for answer in found) > 0


def test_windows_of_a_question_are_those_that_transformers_would_rank(models: Any, minilm: Path) -> None:
    """The best start and end of all windows by their logits, found by hand with transformers' tokenizer and model."""
    import transformers

    ours, theirs = models("question-answering")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    encoded = tokenizer(
        ASKED["question"], LONG, truncation="only_second", max_length=LONGEST, stride=8, padding=True,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        outputs = theirs(**{name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
    best = (-float("inf"), 0, 0)
    for index in range(len(encoded["input_ids"])):
        context = [place for place, of in enumerate(encoded.sequence_ids(index)) if of == 1]
        for first in context:
            for last in (place for place in context if first <= place < first + 30):
                value = float(outputs.start_logits[index, first] + outputs.end_logits[index, last])
                offsets = encoded["offset_mapping"][index]
                best = max(best, (value, int(offsets[first, 0]), int(offsets[last, 1])))
    (answer,) = ours.predict([ASKED], stride=8)
    assert (answer["start"], answer["end"]) == best[1:]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("text-classification", {"stride": 4}),
        ("token-classification", {"stride": -1}),
        ("token-classification", {"stride": "8"}),
        ("token-classification", {"stride": 4, "truncate": True}),
        ("token-classification", {"stride": 30}),
    ],
)
def test_windows_that_can_not_be_are_refused(models: Any, task: str, options: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidOptionError, match="stride is"):
        models(task)[0].predict([LONG], **options)


def test_a_question_longer_than_a_window_is_refused(models: Any) -> None:
    with pytest.raises(errors.QuestionTooLongError):
        models("question-answering")[0].predict([{"question": "who " * 40, "context": LONG}], stride=4)
