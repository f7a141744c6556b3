"""Ahead-of-time compilation, validation and loading of BERT-family encoders for AWS Neuron, and for any CPU.

Owns: the public names. They are imported on first use: `import neuronbert` imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuronbert._version import __version__

if TYPE_CHECKING:
    from neuronbert.artifact import Artifact as Artifact
    from neuronbert.backends.base import Placement as Placement
    from neuronbert.backends.integer_kernels import build_kernels as build_kernels
    from neuronbert.benchmark.report import BenchReport as BenchReport
    from neuronbert.benchmark.report import BenchSpec as BenchSpec
    from neuronbert.benchmark.turns import bench as bench
    from neuronbert.buckets import Buckets as Buckets
    from neuronbert.buckets import choose_buckets as choose_buckets
    from neuronbert.cache.store import Cache as Cache
    from neuronbert.encoder.adapting import adapt_lengths as adapt_lengths
    from neuronbert.errors.base import NeuronBertError as NeuronBertError
    from neuronbert.exporter import export as export
    from neuronbert.heads import NeuronAutoModel as NeuronAutoModel
    from neuronbert.heads import NeuronBertForMaskedLM as NeuronBertForMaskedLM
    from neuronbert.heads import NeuronBertForMultipleChoice as NeuronBertForMultipleChoice
    from neuronbert.heads import (
        NeuronBertForNextSentencePrediction as NeuronBertForNextSentencePrediction,
    )
    from neuronbert.heads import NeuronBertForPreTraining as NeuronBertForPreTraining
    from neuronbert.heads import NeuronBertForQuestionAnswering as NeuronBertForQuestionAnswering
    from neuronbert.heads import (
        NeuronBertForSequenceClassification as NeuronBertForSequenceClassification,
    )
    from neuronbert.heads import (
        NeuronBertForTokenClassification as NeuronBertForTokenClassification,
    )
    from neuronbert.heads import NeuronBertLMHeadModel as NeuronBertLMHeadModel
    from neuronbert.heads import NeuronBertModel as NeuronBertModel
    from neuronbert.heads import NeuronIBertForMaskedLM as NeuronIBertForMaskedLM
    from neuronbert.heads import NeuronIBertForMultipleChoice as NeuronIBertForMultipleChoice
    from neuronbert.heads import NeuronIBertForQuestionAnswering as NeuronIBertForQuestionAnswering
    from neuronbert.heads import NeuronIBertForSequenceClassification as NeuronIBertForSequenceClassification
    from neuronbert.heads import NeuronIBertForTokenClassification as NeuronIBertForTokenClassification
    from neuronbert.heads import NeuronIBertModel as NeuronIBertModel
    from neuronbert.heads import NeuronMegatronBertForCausalLM as NeuronMegatronBertForCausalLM
    from neuronbert.heads import NeuronMegatronBertForMaskedLM as NeuronMegatronBertForMaskedLM
    from neuronbert.heads import NeuronMegatronBertForMultipleChoice as NeuronMegatronBertForMultipleChoice
    from neuronbert.heads import (
        NeuronMegatronBertForNextSentencePrediction as NeuronMegatronBertForNextSentencePrediction,
    )
    from neuronbert.heads import NeuronMegatronBertForPreTraining as NeuronMegatronBertForPreTraining
    from neuronbert.heads import NeuronMegatronBertForQuestionAnswering as NeuronMegatronBertForQuestionAnswering
    from neuronbert.heads import (
        NeuronMegatronBertForSequenceClassification as NeuronMegatronBertForSequenceClassification,
    )
    from neuronbert.heads import NeuronMegatronBertForTokenClassification as NeuronMegatronBertForTokenClassification
    from neuronbert.heads import NeuronMegatronBertModel as NeuronMegatronBertModel
    from neuronbert.heads import NeuronModelForCausalLM as NeuronModelForCausalLM
    from neuronbert.heads import NeuronModelForFeatureExtraction as NeuronModelForFeatureExtraction
    from neuronbert.heads import NeuronModelForMaskedLM as NeuronModelForMaskedLM
    from neuronbert.heads import NeuronModelForMultipleChoice as NeuronModelForMultipleChoice
    from neuronbert.heads import (
        NeuronModelForNextSentencePrediction as NeuronModelForNextSentencePrediction,
    )
    from neuronbert.heads import NeuronModelForPreTraining as NeuronModelForPreTraining
    from neuronbert.heads import NeuronModelForQuestionAnswering as NeuronModelForQuestionAnswering
    from neuronbert.heads import NeuronModelForReplacedTokenDetection as NeuronModelForReplacedTokenDetection
    from neuronbert.heads import (
        NeuronModelForSequenceClassification as NeuronModelForSequenceClassification,
    )
    from neuronbert.heads import (
        NeuronModelForTokenClassification as NeuronModelForTokenClassification,
    )
    from neuronbert.heads import NeuronQDQBertForMaskedLM as NeuronQDQBertForMaskedLM
    from neuronbert.heads import NeuronQDQBertForMultipleChoice as NeuronQDQBertForMultipleChoice
    from neuronbert.heads import NeuronQDQBertForNextSentencePrediction as NeuronQDQBertForNextSentencePrediction
    from neuronbert.heads import NeuronQDQBertForQuestionAnswering as NeuronQDQBertForQuestionAnswering
    from neuronbert.heads import NeuronQDQBertForSequenceClassification as NeuronQDQBertForSequenceClassification
    from neuronbert.heads import NeuronQDQBertForTokenClassification as NeuronQDQBertForTokenClassification
    from neuronbert.heads import NeuronQDQBertLMHeadModel as NeuronQDQBertLMHeadModel
    from neuronbert.heads import NeuronQDQBertModel as NeuronQDQBertModel
    from neuronbert.heads import NeuronSentenceTransformers as NeuronSentenceTransformers
    from neuronbert.lengths import Lengths as Lengths
    from neuronbert.lengths import count_lengths as count_lengths
    from neuronbert.megatron.conversion import convert_megatron as convert_megatron
    from neuronbert.models import NeuronTracedModel as NeuronTracedModel
    from neuronbert.onnx_export import export_onnx as export_onnx
    from neuronbert.pipelines import pipeline as pipeline
    from neuronbert.predictor import Predictor as Predictor
    from neuronbert.preflight.flight import check as check
    from neuronbert.preflight.report import PreflightReport as PreflightReport
    from neuronbert.publishing import publish as publish
    from neuronbert.quantization.plan import QuantizationPlan as QuantizationPlan
    from neuronbert.quantized import quantize as quantize
    from neuronbert.report import ValidationReport as ValidationReport
    from neuronbert.sentence_transformer import NeuronSentenceTransformer as NeuronSentenceTransformer
    from neuronbert.sentence_transformer import NeuronTransformer as NeuronTransformer
    from neuronbert.shapes import StaticShape as StaticShape
    from neuronbert.spec import ExportSpec as ExportSpec
    from neuronbert.trained import save_quantized as save_quantized
    from neuronbert.trained import trainable as trainable
    from neuronbert.tuning.search import search_lengths as search_lengths
    from neuronbert.tuning.spec import SearchSpec as SearchSpec
    from neuronbert.tuning.training import LengthDrop as LengthDrop
    from neuronbert.validation import validate as validate
    from neuronbert.workers.pool import Pool as Pool

_HOMES = {
    "artifact": ("Artifact",),
    "backends.base": ("Placement",),
    "backends.integer_kernels": ("build_kernels",),
    "buckets": ("Buckets", "choose_buckets"),
    "benchmark.report": ("BenchReport", "BenchSpec"),
    "benchmark.turns": ("bench",),
    "cache.store": ("Cache",),
    "encoder.adapting": ("adapt_lengths",),
    "errors.base": ("NeuronBertError",),
    "exporter": ("export",),
    "heads": (
        "NeuronAutoModel",
        "NeuronBertForMaskedLM",
        "NeuronBertForMultipleChoice",
        "NeuronBertForNextSentencePrediction",
        "NeuronBertForPreTraining",
        "NeuronBertForQuestionAnswering",
        "NeuronBertForSequenceClassification",
        "NeuronBertForTokenClassification",
        "NeuronBertLMHeadModel",
        "NeuronBertModel",
        "NeuronIBertForMaskedLM",
        "NeuronIBertForMultipleChoice",
        "NeuronIBertForQuestionAnswering",
        "NeuronIBertForSequenceClassification",
        "NeuronIBertForTokenClassification",
        "NeuronIBertModel",
        "NeuronMegatronBertForCausalLM",
        "NeuronMegatronBertForMaskedLM",
        "NeuronMegatronBertForMultipleChoice",
        "NeuronMegatronBertForNextSentencePrediction",
        "NeuronMegatronBertForPreTraining",
        "NeuronMegatronBertForQuestionAnswering",
        "NeuronMegatronBertForSequenceClassification",
        "NeuronMegatronBertForTokenClassification",
        "NeuronMegatronBertModel",
        "NeuronModelForCausalLM",
        "NeuronModelForFeatureExtraction",
        "NeuronModelForMaskedLM",
        "NeuronModelForMultipleChoice",
        "NeuronModelForNextSentencePrediction",
        "NeuronModelForPreTraining",
        "NeuronModelForQuestionAnswering",
        "NeuronModelForSequenceClassification",
        "NeuronModelForReplacedTokenDetection",
        "NeuronModelForTokenClassification",
        "NeuronQDQBertForMaskedLM",
        "NeuronQDQBertForMultipleChoice",
        "NeuronQDQBertForNextSentencePrediction",
        "NeuronQDQBertForQuestionAnswering",
        "NeuronQDQBertForSequenceClassification",
        "NeuronQDQBertForTokenClassification",
        "NeuronQDQBertLMHeadModel",
        "NeuronQDQBertModel",
        "NeuronSentenceTransformers",
    ),
    "lengths": ("Lengths", "count_lengths"),
    "megatron.conversion": ("convert_megatron",),
    "models": ("NeuronTracedModel",),
    "onnx_export": ("export_onnx",),
    "pipelines": ("pipeline",),
    "predictor": ("Predictor",),
    "preflight.flight": ("check",),
    "preflight.report": ("PreflightReport",),
    "publishing": ("publish",),
    "quantization.plan": ("QuantizationPlan",),
    "quantized": ("quantize",),
    "report": ("ValidationReport",),
    "shapes": ("StaticShape",),
    "spec": ("ExportSpec",),
    "trained": ("save_quantized", "trainable"),
    "tuning.search": ("search_lengths",),
    "tuning.spec": ("SearchSpec",),
    "tuning.training": ("LengthDrop",),
    "validation": ("validate",),
    "workers.pool": ("Pool",),
}
_EXTRAS = {"sentence_transformer": ("NeuronSentenceTransformer", "NeuronTransformer")}
"""What an extra is needed for: a star import, which brings everything, goes without."""
_HOME_OF = {name: home for homes in (_HOMES, _EXTRAS) for home, names in homes.items() for name in names}

__all__ = ["__version__", *(name for names in _HOMES.values() for name in names)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'neuronbert' has no attribute {name!r}")  # noqa: TRY003  Python's own wording
    return getattr(import_module(f"neuronbert.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
