"""The examples of optimum-neuron's BERT page, with the import changed and a local checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from neuronbert import StaticShape


@pytest.fixture
def artifact(exported: Callable[..., Path]) -> Callable[..., str]:
    def make(task: str, num_choices: int | None = None) -> str:
        return str(exported(task, StaticShape(1, 64, num_choices)))

    return make


def test_export_from_python(minilm: Path, tmp_path: Path) -> None:
    from neuronbert import NeuronModelForFeatureExtraction

    input_shapes = {"batch_size": 1, "sequence_length": 128}
    compiler_args = {"auto_cast": "matmul", "auto_cast_type": "bf16"}
    neuron_model = NeuronModelForFeatureExtraction.from_pretrained(
        minilm,
        export=True,
        **input_shapes,
        **compiler_args,
    )
    neuron_model.save_pretrained(tmp_path / "bert_feature_extraction_neuronx")
    assert (tmp_path / "bert_feature_extraction_neuronx" / "model.neuron").is_file()


def test_feature_extraction(minilm: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from neuronbert import NeuronBertModel

    folder = str(tmp_path / "all-minilm-neuronx-bs1-sq128")
    NeuronBertModel.from_pretrained(minilm, export=True, batch_size=1, sequence_length=128).save_pretrained(folder)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = NeuronBertModel.from_pretrained(folder)

    inputs = tokenizer("Dear Evan Hansen is the winner of six Tony Awards.", return_tensors="pt")

    outputs = model(**inputs)
    last_hidden_state = outputs.last_hidden_state
    assert list(last_hidden_state.shape) == [1, 13, 384]


def test_masked_lm(artifact: Callable[..., str]) -> None:
    from transformers import AutoTokenizer

    from neuronbert import NeuronBertForMaskedLM

    tokenizer = AutoTokenizer.from_pretrained(artifact("fill-mask"))
    model = NeuronBertForMaskedLM.from_pretrained(artifact("fill-mask"))

    inputs = tokenizer("This [MASK] Agreement is between General Motors and John Murray.", return_tensors="pt")

    outputs = model(**inputs)
    logits = outputs.logits
    assert list(logits.shape) == [1, 13, 30522]


def test_sequence_classification(artifact: Callable[..., str]) -> None:
    from transformers import AutoTokenizer

    from neuronbert import NeuronBertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(artifact("text-classification"))
    model = NeuronBertForSequenceClassification.from_pretrained(artifact("text-classification"))

    inputs = tokenizer("Hamilton is considered to be the best musical of human history.", return_tensors="pt")

    outputs = model(**inputs)
    logits = outputs.logits
    assert list(logits.shape) == [1, 2]


def test_token_classification(artifact: Callable[..., str]) -> None:
    from transformers import AutoTokenizer

    from neuronbert import NeuronBertForTokenClassification

    tokenizer = AutoTokenizer.from_pretrained(artifact("token-classification"))
    model = NeuronBertForTokenClassification.from_pretrained(artifact("token-classification"))

    inputs = tokenizer(
        "Lin-Manuel Miranda is an American songwriter, actor, singer, filmmaker, and playwright.", return_tensors="pt"
    )

    outputs = model(**inputs)
    logits = outputs.logits
    assert list(logits.shape) == [1, inputs["input_ids"].shape[1], 4]


def test_question_answering(artifact: Callable[..., str]) -> None:
    from transformers import AutoTokenizer

    from neuronbert import NeuronBertForQuestionAnswering

    tokenizer = AutoTokenizer.from_pretrained(artifact("question-answering"))
    model = NeuronBertForQuestionAnswering.from_pretrained(artifact("question-answering"))

    question, text = (
        "Are there wheelchair spaces in the theatres?",
        "Yes, we have reserved wheelchair spaces with a good view.",
    )
    inputs = tokenizer(question, text, return_tensors="pt")
    start_positions = torch.tensor([1])
    end_positions = torch.tensor([12])

    outputs = model(**inputs, start_positions=start_positions, end_positions=end_positions)
    start_scores = outputs.start_logits
    end_scores = outputs.end_logits
    assert start_scores.shape == end_scores.shape == inputs["input_ids"].shape


def test_multiple_choice(artifact: Callable[..., str]) -> None:
    from transformers import AutoTokenizer

    from neuronbert import NeuronBertForMultipleChoice

    tokenizer = AutoTokenizer.from_pretrained(artifact("multiple-choice", 4))
    model = NeuronBertForMultipleChoice.from_pretrained(artifact("multiple-choice", 4))

    num_choices = 4
    first_sentence = ["Members of the procession walk down the street holding small horn brass instruments."] * 4
    second_sentence = [
        "A drum line passes by walking down the street playing their instruments.",
        "A drum line has heard approaching them.",
        "A drum line arrives and they're outside dancing and asleep.",
        "A drum line turns the lead singer watches the performance.",
    ]
    inputs = tokenizer(first_sentence, second_sentence, truncation=True, padding=True)

    # Unflatten the inputs values expanding it to the shape [batch_size, num_choices, seq_length]
    for k, v in inputs.items():
        inputs[k] = [v[i : i + num_choices] for i in range(0, len(v), num_choices)]
    inputs = dict(inputs.convert_to_tensors(tensor_type="pt"))
    outputs = model(**inputs)
    logits = outputs.logits
    assert list(logits.shape) == [1, 4]
